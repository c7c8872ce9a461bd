"""YAML files as DVC writes and reads them, with changes as `dvc exp run -S` takes them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nightshift.console.errors import UserError, nearest


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # in C, where there is one: dvc.lock has 2000 lines
    """YAML 1.2 floats: DVC writes `-S train.learning_rate=0.00001` as 1e-05, which YAML 1.1 takes for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping that the file holds, with each `SECTION.KEY=VALUE` of `changes` set in it.

    Raises UserError: no such file, no YAML, no mapping, or a change of a section that it does not have.
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
    """YAML with 1.2's floats."""
    return yaml.load(text, _Loader)  # noqa: S506, a SafeLoader


def at(values: Any, key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _apply(change: str, values: dict[str, Any], path: Path) -> None:
    """Set, add (`+KEY=VALUE`) or remove (`~KEY`) one key in `values`, parsed as DVC does it: by Hydra."""
    from hydra.core.override_parser.overrides_parser import OverridesParser  # a third of a second
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(change)
    except HydraException:
        raise UserError(f"-S {change}: expected SECTION.KEY=VALUE, as `dvc exp run -S` takes it") from None
    if override.is_sweep_override():
        raise UserError(f"-S {change}: expected one value")
    *sections, last = override.key_or_group.split(".")
    section: Any = values
    for name in sections:
        section = section.get(name) if isinstance(section, dict) else None
    if not sections or not isinstance(section, dict):
        raise UserError(f"-S {change}: expected SECTION.KEY=VALUE with a section of {path}")
    if override.is_delete():
        if last not in section:
            raise UserError(f"-S {change}: {path} has no such key; {nearest(last, list(section))}")
        del section[last]
    elif override.is_add() and last in section:
        raise UserError(f"-S {change}: {path} has this key already; leave out the +")
    else:
        section[last] = override.value()
