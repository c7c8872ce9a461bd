"""YAML files as DVC writes and reads them, with changes as `dvc exp run -S` takes them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nightshift.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats: DVC writes `-S train.learning_rate=0.00001` as 1e-05, which YAML 1.1 takes for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def read_yaml(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping that the file holds, with each `SECTION.KEY=VALUE` of `changes` set in it.

    Raises UserError: no such file, no YAML, no mapping, or a change of a section that it does not have.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}  # noqa: S506, a SafeLoader
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a mapping of keys to values")
    for change in changes:
        key, equals, value = change.partition("=")
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if not equals or not sections or not isinstance(section, dict):
            raise UserError(f"-S {change}: expected SECTION.KEY=VALUE with a section of {path}")
        try:
            section[last] = yaml.load(value, _Loader)  # noqa: S506, a SafeLoader
        except yaml.YAMLError:
            raise UserError(f"-S {change}: the value is not YAML") from None
    return values
