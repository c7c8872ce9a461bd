"""Settings, read once and typed: params.yaml, the presets in conf/ that it names, and an optional hardware.yaml.

A preset says what a thing *is* (nightshift/presets.py), params.yaml what we *do* with it.
`train` holds for both arms; `frozen` and `lora` may each override any key of it for themselves. What must never cause a
rerun (device, threads) is in hardware.yaml, read from DVC_ROOT because a queued run does not see ignored files.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from nightshift.errors import UserError, nearest
from nightshift.parsing import read_yaml
from nightshift.presets import (
    SOURCES,
    Coco,
    Data,
    Dicom,
    Encoder,
    Folder,
    Fraction,
    Manifest,
    Positive,
    Rate,
    Section,
    Simulated,
)

ArmName = Literal["frozen", "lora"]
SYNTHETIC = Path("data/raw/synthetic")


class Use(Section):
    encoder: str
    data: str


class EncoderUse(Section):
    """`resolution`: side, in pixels, of the square that a frame is brought to; `native`: the preset's img_size.

    `rope`: `repaired` makes the position tables for that resolution, real; `as_shipped` leaves them as SAM 3 has them.
    `weights`: see nightshift/weights.py. `precision`: of the products; the position tables are always float32.
    """

    resolution: Positive | Literal["native"] = Field(description="a number of pixels, or native")
    rope: Literal["repaired", "as_shipped"]
    weights: Annotated[str, Field(min_length=1)]
    precision: Literal["fp32", "bf16", "fp16"]


class Probe(Section):
    """`resolutions`: sides in pixels, asked of the full-size encoder; `ddp`: also two real processes (10 s)."""

    resolutions: list[Annotated[int, Field(ge=14)]]
    ddp: bool


class Prepare(Section):
    """`val`, `test`: fractions of patients (cases where there are no patients), and the seed, for a `made` split.

    `on_problem`: with a case that something is wrong with: say so and end, or leave it out and say so in the report.
    """

    val: Fraction
    test: Fraction
    seed: Annotated[int, Field(ge=0)]
    on_problem: Literal["stop", "skip"]


class Encode(Section):
    """What is kept. `flips`: training cases mirrored, too; `level`: the trunk's or the neck's output (frozen arm)."""

    flips: bool
    level: Literal["trunk", "neck"]


class View(Section):
    mode: Literal["film", "none"]


class Head(Section):
    width: Annotated[int, Field(ge=8, multiple_of=8)]
    detail: bool


class Train(Section):
    epochs: Positive
    batch_size: Positive
    micro_batch: Positive | Literal["all"] = Field(description="a number of cases, or all")
    learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Rate
    warmup: Fraction
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Frozen(Section):
    """Overrides of `train` for one arm; null where there is none."""

    epochs: Positive | None
    batch_size: Positive | None
    micro_batch: Positive | Literal["all"] | None = Field(description="a number of cases, or all")
    learning_rate: Rate | None
    weight_decay: Annotated[float, Field(ge=0)] | None
    clip_norm: Rate | None
    warmup: Fraction | None


class Compare(Section):
    """`level`: of significance; the verdict is undecided unless p is below it, and p never falls below 1/10,000."""

    level: Annotated[float, Field(ge=0.001, lt=0.5)]


class Lora(Frozen):
    """The adapter, and overrides of `train`. `targets`: Linear layers of a block, as `attn.qkv`, `mlp.fc1`."""

    rank: Positive
    alpha: Rate
    dropout: Fraction
    targets: Annotated[list[Literal["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]], Field(min_length=1)]
    blocks: (
        Literal["all"]
        | Annotated[dict[Literal["last"], Positive], Field(min_length=1)]
        | list[Annotated[int, Field(ge=0)]]
    ) = Field(description="all, {last: 8} or a list of block numbers from 0")
    activation_checkpointing: bool


def _distinct(numbers: list[int]) -> list[int]:
    if len(set(numbers)) < len(numbers):
        raise ValueError("not distinct")
    return numbers


class Hardware(Section):
    """Where it runs. None of this may change a result; threads and processes do in the last bits.

    `devices`, `busy`: see nightshift/leases.py.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: (
        Literal["auto"] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_distinct)]
    ) = Field(default="auto", description="auto, or a list of different numbers from 0, as [0, 1]")
    busy: Literal["wait", "refuse"] = "wait"
    threads: Positive = 2
    processes: Positive = 1
    checkpoint_minutes: Annotated[float, Field(ge=0, strict=False)] = 10


class _Square:
    """Has `encoder` and `preset`."""

    @property
    def resolution(self) -> int:
        """Side of the square in pixels. Raises UserError if it is smaller than a patch."""
        side = self.preset.img_size if self.encoder.resolution == "native" else self.encoder.resolution
        if side < self.preset.patch_size:
            raise UserError(
                f"params.yaml: encoder.resolution {side} is less than a patch, {self.preset.patch_size} pixels"
            )
        return side


class ArmSettings(_Square, Section, extra="ignore"):
    """What a trained arm is made of, as its card has it; `lora` is None for the frozen arm."""

    encoder: EncoderUse
    view: View
    head: Head
    lora: Lora | None = None
    preset: Encoder


class Settings(_Square, Section):
    use: Use
    encoder: EncoderUse
    probe: Probe
    prepare: Prepare
    encode: Encode
    view: View
    head: Head
    train: Train
    frozen: Frozen
    lora: Lora
    compare: Compare

    @cached_property
    def preset(self) -> Encoder:
        """The encoder preset that `use.encoder` names."""
        return read_preset("encoder", self.use.encoder, Encoder)

    @cached_property
    def data(self) -> Simulated | Manifest | Folder | Dicom | Coco:
        """The data preset that `use.data` names."""
        return read_preset("data", self.use.data, Data).source

    def train_for(self, arm: ArmName) -> Train:
        """`train` with the arm's own overrides."""
        own = getattr(self, arm)
        return self.train.model_copy(update={k: v for k in Frozen.model_fields if (v := getattr(own, k)) is not None})


def root() -> Path:
    """The main checkout, also from within a queued run, which DVC gives a copy of the workspace."""
    return Path(os.environ.get("DVC_ROOT", "."))


def read(changes: Sequence[str] = ()) -> Settings:
    """Read params.yaml of the current folder, with `changes` as `dvc exp run -S` takes them: `lora.rank=16`.

    Raises UserError: file missing or not YAML, key unknown or missing, value of another type.
    """
    return read_as(Settings, Path("params.yaml"), changes)


def hardware() -> Hardware:
    path = root() / "hardware.yaml"
    return read_as(Hardware, path) if path.exists() else Hardware()


def read_preset(group: str, name: str, model: type[BaseModel]) -> Any:
    """Read conf/GROUP/NAME.yaml as `model`. Raises UserError as `read` does, and for an unknown preset."""
    folder = Path("conf") / group
    path = folder / f"{name}.yaml"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(f"params.yaml: use.{group}: no preset '{name}' in {folder.as_posix()}/; {nearest(name, known)}")
    return read_as(model, path)


def read_as(model: type[BaseModel], path: Path, changes: Sequence[str] = ()) -> Any:
    """Read a YAML or JSON file as `model`. Raises UserError as `read` does."""
    values = read_yaml(path, changes)
    try:
        return model.model_validate({"source": values} if model is Data else values)
    except ValidationError as error:
        clauses = dict.fromkeys(_explain(e, model) for e in error.errors())
        raise UserError(f"{path}: " + "; ".join(list(clauses)[:3])) from None


def _explain(error: dict[str, Any], model: type[BaseModel]) -> str:
    """One clause per pydantic error: the key with its section, what was given, what is valid."""
    place, field = [], None
    if model is Data:
        if len(error["loc"]) == 1:
            return f"kind: expected {', '.join(SOURCES)}, got {error['input'].get('kind')!r}"
        model, error = SOURCES[error["loc"][1]], error | {"loc": error["loc"][2:]}
    for name in error["loc"]:
        if name not in model.model_fields:
            break
        place.append(name)
        field = model.model_fields[name]
        model = field.annotation if isinstance(field.annotation, type) else model
    key = ".".join(place)
    if field is not None and field.description and (error["type"] != "missing" or len(place) < len(error["loc"])):
        return f"{key}: expected {field.description}"
    if error["type"] == "extra_forbidden":
        unknown = error["loc"][-1]
        return f"unknown key '{'.'.join([*place, str(unknown)])}'; {nearest(str(unknown), list(model.model_fields))}"
    if error["type"] == "missing":
        return f"key '{key}' is missing"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{key or 'the file'}: {error['msg']}, got {error['input']!r:.60}"
