"""Trained weights as a safetensors file, written and read strictly."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nightshift.console.errors import UserError


def save_weights(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write the weights by name."""
    save_file({name: value.detach().cpu() for name, value in weights.items()}, file)


def read_weights(file: Path, places: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `save_weights` wrote, of exactly the names, shapes and types of `places`.

    Raises UserError for a file that is missing or damaged, and naming the first weight that is missing, that has no
    place, or that has another shape or type.
    """
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise _other(file, str(error).splitlines()[0]) from None
    for name in sorted({*weights, *places}):
        found, expected = _described(weights.get(name)), _described(places.get(name))
        if found != expected:
            raise _other(file, f"{name}: found {found}, expected {expected}")
    return weights


def _described(weight: Tensor | None) -> str:
    return "nothing" if weight is None else f"{tuple(weight.shape)} {weight.dtype}"


def _other(file: Path, problem: str) -> UserError:
    return UserError(f"{file}: not the weights that this arm trains: {problem}; `dvc repro` makes it anew")
