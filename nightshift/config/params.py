"""params.yaml and the presets in conf/ that it names, read as a whole and checked before anything starts.

A preset says what a thing *is* (presets.py), params.yaml what we *do* with it (sections.py, kinds.py).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, Discriminator, Tag, ValidationError, model_validator

from nightshift.config import sections
from nightshift.config.explain import explain
from nightshift.config.kinds import AnyArm, TrainedSection, WithoutEncoder, ZeroShot
from nightshift.config.presets import AnyData, DataFile, Encoder, Section, Simulated, Weights
from nightshift.config.yaml_io import read_yaml
from nightshift.console.errors import UserError, nearest

PARAMS = Path("params.yaml")
ARM_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")  # used as a folder's name and as an argument of a command
Model = TypeVar("Model", bound=BaseModel)


class EncoderSettings(Section):
    """What the output of the encoder depends on: which encoder (`preset`) and how it is used."""

    encoder: sections.EncoderUse
    preset: Encoder

    @property
    def resolution(self) -> int:
        """Side of the square in pixels."""
        return self.preset.img_size if self.encoder.resolution == "native" else self.encoder.resolution

    @property
    def grid(self) -> int:
        """Side of the square in tokens."""
        return self.resolution // self.preset.patch_size

    @property
    def channels(self) -> sections.Channels:
        """Of the input."""
        return self.encoder.channels

    @property
    def weights(self) -> Weights:
        """Of the encoder."""
        return Weights(key="encoder.weights", given=self.encoder.weights, hub=self.preset.hub)

    @model_validator(mode="after")
    def check_resolution(self) -> Self:
        side, patch = self.resolution, self.preset.patch_size
        if side % patch or side < patch:
            sides = [n for n in (side // patch * patch, side // patch * patch + patch) if n]
            raise ValueError(
                f"encoder.resolution {side} is not a multiple of the patch, {patch} pixels; nearest: "
                + " or ".join(map(str, sides))
            )
        return self


class BaseArmSettings(Section):
    """What an arm of every kind depends on: `train` with the arm's own keys in it, `arm` without them."""

    name: str
    augment: sections.Augment
    view: sections.View
    train: sections.Train
    arm: AnyArm

    @property
    def rates(self) -> list[float]:
        """The learning rates to try; one where nothing is trained."""
        return self.train.rates if isinstance(self.arm, TrainedSection) else self.train.rates[:1]

    @property
    def trainings(self) -> int:
        """How many trainings a fold takes: the first seed tries each learning rate."""
        return len(self.rates) + len(self.train.seeds) - 1

    def single(self, rate: float, seed: int = 0) -> Self:
        """The settings of one training of the arm: with one learning rate and one seed."""
        return self.model_copy(update={"train": self.train.model_copy(update={"learning_rate": rate, "seeds": [seed]})})


class EncoderArmSettings(BaseArmSettings, EncoderSettings):
    """All that an arm with SAM 3's encoder depends on."""

    head: sections.Head

    @property
    def precision(self) -> sections.Precision:
        """Of matrix products."""
        return self.encoder.precision

    @property
    def needs_images(self) -> bool:
        """Whether the model sees the image beside what is kept of the encoder's output."""
        return self.head.detail


class PlainArmSettings(BaseArmSettings):
    """All that an arm without an encoder depends on. `resolution`: side of the square in pixels."""

    resolution: int
    precision: sections.Precision
    channels: sections.Channels

    @property
    def needs_images(self) -> bool:
        """Always: nothing else is there."""
        return True

    @property
    def weights(self) -> Weights | None:
        """Of the model that the arm takes as it is; None where it takes none."""
        if not isinstance(self.arm, ZeroShot):
            return None
        return Weights(key=f"arms.{self.name}.weights", given=self.arm.weights, hub=self.arm.hub)


def _which(values: object) -> str:
    if isinstance(values, dict):
        return "<plain>" if "resolution" in values else "<encoder>"
    return "<plain>" if isinstance(values, PlainArmSettings) else "<encoder>"


ArmSettings = EncoderArmSettings | PlainArmSettings
AnyArmSettings = Annotated[  # as a field of a model
    Annotated[EncoderArmSettings, Tag("<encoder>")] | Annotated[PlainArmSettings, Tag("<plain>")], Discriminator(_which)
]


class DataSet(Section):
    """A preset of conf/data, by its name."""

    name: str
    source: AnyData

    @property
    def file(self) -> str:
        """Of the preset."""
        return f"conf/data/{self.name}.yaml"


class DataSettings(DataSet):
    """All that the prepared cases depend on: the data set, how it is split, and a second one to test every model on."""

    prepare: sections.Prepare
    view: sections.View
    external: DataSet | None

    @property
    def sets(self) -> list[DataSet]:
        """The data set, and the second one where there is one."""
        return [self, self.external] if self.external else [self]


class Params(Section):
    """params.yaml."""

    use: sections.Use
    encoder: sections.EncoderUse
    probe: sections.Probe
    prepare: sections.Prepare
    augment: sections.Augment
    view: sections.View
    head: sections.Head
    train: sections.Train
    predict: sections.Predict
    arms: dict[str, AnyArm]
    compare: sections.Compare

    @model_validator(mode="after")
    def check_arms(self) -> Self:
        if not self.arms:
            raise ValueError("arms: expected at least one, as frozen: {kind: frozen}")
        folders: dict[str, str] = {}
        for name in self.arms:
            if not ARM_NAME.fullmatch(name):
                raise ValueError(
                    f"arms: name '{name}': a name has only letters, digits, _ and -, and does not begin with -"
                )
            other = folders.setdefault(name.casefold(), name)
            if other != name:
                raise ValueError(f"arms: '{other}' and '{name}' are one folder on Windows; rename one")
        if self.compare.reference not in self.arms:
            hint = nearest(self.compare.reference, list(self.arms))
            raise ValueError(f"compare.reference: no arm '{self.compare.reference}'; {hint}")
        return self


class Settings(Params, EncoderSettings):
    """params.yaml and the presets that `use` names: `preset` of the encoder, `source` of the data, and `external`."""

    source: AnyData
    external: DataSet | None

    @property
    def data(self) -> DataSettings:
        """What the prepared cases depend on."""
        data = DataSet(name=self.use.data, source=self.source)
        return DataSettings(**dict(data), prepare=self.prepare, view=self.view, external=self.external)

    @model_validator(mode="after")
    def check_external(self) -> Self:
        if self.external is None:
            return self
        if self.use.external == self.use.data:
            raise ValueError(f"use.external: '{self.use.external}' is use.data already; name another data set, or none")
        if isinstance(self.source, Simulated) and isinstance(self.external.source, Simulated):
            raise ValueError(
                f"use.external: '{self.use.external}' is simulated, and so is '{self.use.data}' of use.data, but only "
                "one set of them is made; name other data, or none"
            )
        return self

    def arm(self, name: str) -> ArmSettings:
        """The resolved settings of one arm. Raises UserError for a name that `arms` does not have."""
        if name not in self.arms:
            raise UserError(f"params.yaml: arms: no arm '{name}'; {nearest(name, list(self.arms))}")
        arm = self.arms[name]
        train = sections.Train(**dict(self.train) | arm.overrides())
        view = self.view if arm.uses_view else sections.View(mode="none")
        shared: dict[str, Any] = {"name": name, "augment": self.augment.used, "view": view, "train": train}
        shared["arm"] = arm.resolved(self.preset)
        if isinstance(arm, WithoutEncoder):
            side, precision = arm.side(self.resolution), self.encoder.precision
            channels = self.encoder.channels if arm.sees_channels else "grey"
            return PlainArmSettings(**shared, resolution=side, precision=precision, channels=channels)
        encoder = self.encoder.model_copy(update={"resolution": self.resolution})
        return EncoderArmSettings(**shared, encoder=encoder, preset=self.preset, head=self.head)

    @model_validator(mode="after")
    def check_kinds(self) -> Self:
        for name, arm in self.arms.items():
            try:
                arm.resolved(self.preset)
            except ValueError as error:
                raise ValueError(f"arms.{name}.{error}") from None
            train = self.arm(name).train
            late = isinstance(train.loss, sections.ClDice) and train.loss.from_epoch > train.most_epochs
            if late and isinstance(arm, TrainedSection):
                raise ValueError(f"arms.{name}: loss.from_epoch is after the last epoch, {train.most_epochs}; lower it")
        return self


def read(changes: Sequence[str] = (), *, folder: Path = Path()) -> Settings:
    """params.yaml and the presets that it names, below `folder`, checked as a whole.

    Args:
        changes: as `dvc exp run -S` takes them: `train.epochs=4`, `+arms.wide={kind: lora, rank: 32}`, `~arms.wide`.
        folder: another place than the current folder, such as the files of an older revision.

    Raises:
        UserError: a file is missing or not YAML, a key is unknown or missing, a value is of another type or does not
            fit the others. The message has the nearest right one.
    """
    params = read_as(Params, folder / PARAMS, changes)
    preset = read_preset("encoder", params.use.encoder, Encoder, folder)
    source = read_preset("data", params.use.data, DataFile, folder).source
    external = None
    if (name := params.use.external) != "none":
        external = DataSet(name=name, source=read_preset("external", name, DataFile, folder).source)
    try:
        return Settings(**dict(params), preset=preset, source=source, external=external)
    except ValidationError as error:
        raise UserError(f"{PARAMS}: {explain(error.errors()[0], Settings)}") from None


def read_preset(key: str, name: str, model: type[Model], folder: Path = Path()) -> Model:
    """Read conf/encoder/NAME.yaml or conf/data/NAME.yaml.

    Args:
        key: of `use`, that names the preset: `encoder`, `data` or `external`.
        name: of the preset.
        model: `Encoder` or `DataFile`.
        folder: as for `read`.

    Raises:
        UserError: as `read` does, and for an unknown preset.
    """
    group = "data" if key == "external" else key
    presets = folder / "conf" / group
    known = sorted(p.stem for p in presets.glob("*.yaml"))
    if name not in known:
        raise UserError(f"{PARAMS}: use.{key}: no preset '{name}' in conf/{group}/; {nearest(name, known)}")
    return read_as(model, presets / f"{name}.yaml")


def read_as(model: type[Model], path: Path, changes: Sequence[str] = ()) -> Model:
    """Read a YAML or JSON file as `model`. Arguments and errors as for `read`."""
    values = read_yaml(path, changes)
    try:
        return model.model_validate({"source": values} if model is DataFile else values)
    except ValidationError as error:
        clauses = dict.fromkeys(explain(entry, model) for entry in error.errors())
        raise UserError(f"{path}: " + "; ".join(list(clauses)[:3])) from None
