"""YAML files as DVC writes and reads them, with changes as `dvc exp run -S` takes them."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nightshift.console.errors import UserError, nearest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    _SafeLoader = yaml.SafeLoader
else:
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, where there is one: dvc.lock has 2000 lines


class _Loader(_SafeLoader):
    """YAML 1.2 floats: DVC writes `-S train.learning_rate=0.00001` as 1e-05, which YAML 1.1 takes for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path: the file.
        changes: to be made in it, as `dvc exp run -S` takes them: `train.epochs=4`, `+arms.wide={kind: lora}`,
            `~arms.wide`.

    Raises:
        UserError: no such file, no YAML, no mapping, or a change that DVC would refuse.
    """
    try:
        values = parse(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a mapping of keys to values")
    for change in changes:
        _apply(change, values, path)
    return values


def parse(text: str) -> Any:
    """The value of a YAML text, with the floats of YAML 1.2. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)  # noqa: S506, a SafeLoader


def value_at(values: Any, key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _apply(change: str, values: dict[str, Any], path: Path) -> None:
    """Set, add (`+KEY=VALUE`) or remove (`~KEY`) a key in `values`, as DVC does it. Raises UserError as `read_yaml`."""
    override = _parse(change)
    key = override.key_or_group
    *sections, last = key.split(".")
    adds = override.is_add() or override.is_force_add()
    section: Any = values
    for depth, name in enumerate(sections):
        if adds:
            section = section.setdefault(name, {}) if isinstance(section, dict) else None
        else:
            section = section.get(name) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            where = ".".join(sections[: depth + 1])
            raise UserError(f"-S {change}: {path} has no section '{where}'; {_hint(where, values, sections=True)}")
    if override.is_delete():
        if last not in section:
            raise UserError(f"-S {change}: {path} has no key '{key}'; {nearest(last, section)}")
        del section[last]
        return
    value = override.value()
    if override.is_add() and last in section and not isinstance(value, dict | list):
        raise UserError(f"-S {change}: {path} has this key already; leave out the +")
    if not adds and last not in section:
        hint = nearest(last, section) if sections else _hint(key, values)
        if not hint.startswith("did you mean"):
            hint += f"; to add it: -S '+{change}'"
        raise UserError(f"-S {change}: {path} has no key '{key}'; {hint}")
    section[last] = _merged(section.get(last), value)


def values_of(change: str) -> list[str]:
    """The changes that `KEY=VALUE,VALUE` stands for, one for each value. Raises UserError for one of another form."""
    override = _parse(change, "--sweep")
    if not override.is_choice_sweep():
        raise UserError(f"--sweep {change}: expected KEY=VALUE,VALUE, several of them")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _parse(change: str, option: str = "-S") -> "Override":
    from hydra.core.override_parser.overrides_parser import OverridesParser  # DVC's own; takes a third of a second
    from hydra.errors import HydraException

    try:
        override: Override = OverridesParser.create().parse_override(change)
    except HydraException:
        raise UserError(f"{option} {change}: expected SECTION.KEY=VALUE, as `dvc exp run -S` takes it") from None
    if override.is_sweep_override() and option == "-S":
        raise UserError(f"-S {change}: expected one value")
    return override


def _merged(old: Any, new: Any) -> Any:
    """`new`; of two mappings the keys of both, as Hydra merges them."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: _merged(old.get(key), value) for key, value in new.items()}
    return new


def _hint(name: str, values: dict[str, Any], *, sections: bool = False) -> str:
    """The names in `values` that end like this one, such as `arms.lora.rank` for `rank`; else the nearest ones."""
    names = [key for key, value in dotted(values) if isinstance(value, dict) or not sections]
    same = [key for key in names if key.endswith(f".{name}")]
    return f"did you mean '{same[0]}'?" if same else nearest(name, names if sections else values)


def dotted(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """All keys in `values` and in the mappings in it, with the names of those above, and their values."""
    for name, value in values.items():
        yield f"{above}{name}", value
        if isinstance(value, dict):
            yield from dotted(value, f"{above}{name}.")
