"""A pydantic error as one clause for the user: the key with its section, what was given, what is valid."""

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from nightshift.console.errors import nearest


def explain(error: dict[str, Any], model: type[BaseModel]) -> str:
    """One clause for one entry of `ValidationError.errors()` of `model`, such as `train.epochs: expected ...`."""
    place, field, kind, last = _walk(error["loc"], model)
    key = ".".join(place)
    if error["type"] == "union_tag_invalid":
        known = [tag.strip("' ") for tag in error["ctx"]["expected_tags"].split(",")]
        return f"{_join(key, 'kind')}: no kind '{error['ctx']['tag']}'; {nearest(error['ctx']['tag'], known)}"
    if error["type"] == "union_tag_not_found":
        return f"key '{_join(key, 'kind')}' is missing"
    whole = len(place) == len(error["loc"]) or kind is None
    if field is not None and field.description and not (error["type"] == "missing" and whole):
        return f"{key}: expected {field.description}"
    if error["type"] == "extra_forbidden":
        hint = nearest(str(last), list(kind.model_fields) if kind else [])
        return f"unknown key '{_join(key, str(last))}'; {hint}"
    if error["type"] == "missing":
        return f"key '{key}' is missing"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{key or 'the file'}: {error['msg']}, got {error['input']!r:.60}"


def _walk(loc: tuple[Any, ...], model: type[BaseModel]) -> tuple[list[str], Any, type[BaseModel] | None, Any]:
    """Names down to where the error is, its field, the model that an unknown name was looked for in, the last name."""
    place: list[str] = []
    field, kind, here = None, model, model
    for name in loc:
        models, values = _inside(here)
        if tagged := next((one for one in models if len(models) > 1 and _tag(one) == name), None):
            here = kind = tagged  # a discriminated union: the tag is no key of the file
        elif values is not None:
            place.append(str(name))
            here = values
        elif models and name in models[0].model_fields:
            kind, field = models[0], models[0].model_fields[name]
            if name not in ("source",):
                place.append(str(name))
            here = field.annotation
        else:
            kind = models[0] if models else kind
            break
    else:
        models, _ = _inside(here)
        kind = models[0] if models else kind
    return place, field, kind, loc[-1] if loc else ""


def _inside(annotation: Any) -> tuple[list[type[BaseModel]], Any]:
    """The models that a value of this type may be, and the type of a mapping's values (None: no mapping of models)."""
    if get_origin(annotation) is Annotated:
        return _inside(get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation], None
    if get_origin(annotation) in (Union, UnionType):
        return [one for part in get_args(annotation) for one in _inside(part)[0]], None
    if get_origin(annotation) is dict and _inside(get_args(annotation)[1])[0]:
        return [], get_args(annotation)[1]
    return [], None


def _tag(model: type[BaseModel]) -> str | None:
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation)[0] if kind and get_args(kind.annotation) else None


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
