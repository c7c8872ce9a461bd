"""A pydantic error as one clause for the user: the key with its section, what was given, what is valid."""

from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from nightshift.console.errors import nearest

UNNAMED = "source"  # the field that holds a whole preset of conf/data: no key of that file
EXPECTED = {
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "list_type": "expected a list",
}
MAPPINGS = {"dict_type", "model_type", "model_attributes_type"}  # what pydantic calls a value that has no keys


def explain(error: ErrorDetails, model: type[BaseModel]) -> str:
    """One clause, such as `train.epochs: expected a whole number, got 'many'`.

    Args:
        error: an entry of `ValidationError.errors()`.
        model: the model that was to be validated.
    """
    place = _locate(error["loc"], model)
    kind, key, given = error["type"], ".".join(place.keys), f"got {error['input']!r:.60}"
    if kind == "union_tag_invalid":
        tag = error["ctx"]["tag"]
        return f"{_join(key, 'kind')}: no kind '{tag}'; {nearest(tag, map(_tag, place.models))}"
    if kind == "union_tag_not_found":
        return f"key '{_join(key, 'kind')}' is missing; valid: {', '.join(map(_tag, place.models))}"
    if place.description and not (kind == "missing" and place.rest == ()):
        return f"{key}: expected {place.description}"
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        return f"unknown key '{_join(key, name)}'; {nearest(name, place.models[0].model_fields)}"
    if kind == "missing":
        return f"key '{key}' is missing"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind in MAPPINGS:
        return f"{key or 'the file'}: expected keys and values, {given}"
    if place.rest == ("[key]",):
        return f"{'.'.join(place.keys[:-1])}: expected text for a name, {given}"
    return f"{key or 'the file'}: {EXPECTED.get(kind, error['msg'])}, {given}"


class _Place(NamedTuple):
    """Where an error is."""

    keys: list[str]  # as the file has them, down to the last one that a model or a mapping has
    models: list[type[BaseModel]]  # those that the value there may be
    description: str | None  # of the field there
    rest: tuple[int | str, ...]  # of pydantic's location, what is further down: an unknown key, an item, a union's part


def _locate(location: tuple[int | str, ...], model: type[BaseModel]) -> _Place:
    keys: list[str] = []
    field: FieldInfo | None = None
    annotation: Any = model
    for depth, name in enumerate(location):
        models = _models(annotation)
        if get_origin(annotation) is dict and _models(get_args(annotation)[1]):
            annotation = get_args(annotation)[1]
            keys.append(str(name))
        elif len(models) > 1 and name in (tags := {_tag(one): one for one in models}):
            annotation = tags[str(name)]  # a union's tag is the value of `kind`, no key
        elif len(models) == 1 and name in models[0].model_fields:
            field = models[0].model_fields[str(name)]
            annotation = field.annotation
            if name != UNNAMED:
                keys.append(str(name))
        else:
            return _Place(keys, models, field and field.description, location[depth:])
    return _Place(keys, _models(annotation), field and field.description, ())


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a value of this type may be."""
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [one for part in get_args(annotation) for one in _models(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _tag(model: type[BaseModel]) -> str:
    """The value of `kind` that stands for this model; empty where it has no such field."""
    kind = model.model_fields.get("kind")
    return str(get_args(kind.annotation)[0]) if kind else ""


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)
