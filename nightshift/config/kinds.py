"""The settings of each kind of arm: a section of `arms` in params.yaml. What a kind does is in nightshift/arms/KIND.py.

Stages depend on resolved settings (nightshift/config/resolved.py), which contain the defaults given here: another
default reruns them as another value in params.yaml does.
"""

from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_type_hints

from pydantic import Field, create_model

from nightshift.config.presets import Encoder, Fraction, Positive, Rate, Section
from nightshift.config.sections import Train

Layer = Literal["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
Blocks = (
    Literal["all"]
    | Annotated[dict[Literal["last"], Positive], Field(min_length=1)]
    | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
)
_TRAIN = get_type_hints(Train, include_extras=True)
_OPTIONAL: dict[str, Any] = {
    name: (_TRAIN[name] | None, Field(default=None, description=field.description))
    for name, field in Train.model_fields.items()
}
# Any key of `train`, for one arm alone; None where the value of `train` holds.
Overrides = create_model("Overrides", __base__=Section, **_OPTIONAL)


class ArmSection(Overrides):
    """What every kind has."""

    packages: ClassVar[tuple[str, ...]] = ()  # that it needs beside those of the encoder
    kind: str

    def resolved(self, preset: Encoder) -> Self:
        """The settings of the kind for this encoder, without the keys of `train`.

        Raises ValueError, a message that begins with the key, for settings that do not fit the encoder.
        """
        return type(self)(**self.own())

    def own(self) -> dict[str, Any]:
        """The settings of the kind, without the keys of `train`."""
        own: dict[str, Any] = self.model_dump(exclude=set(Train.model_fields))
        return own

    def overrides(self) -> dict[str, Any]:
        """The keys of `train` that this arm has for itself."""
        given: dict[str, Any] = self.model_dump(include=set(Train.model_fields), exclude_none=True)
        return given


class Frozen(ArmSection):
    """Nothing of the encoder is trained. `level`: keep the trunk's output, or the neck's (five times the disk)."""

    kind: Literal["frozen"]
    level: Literal["trunk", "neck"] = "trunk"


class Lora(ArmSection):
    """Low-rank adapters. `targets`: Linear layers of a block; `blocks`: those that are adapted."""

    packages = ("peft",)
    kind: Literal["lora"]
    rank: Positive = 8
    alpha: Rate = 16.0
    dropout: Fraction = 0.0
    targets: Annotated[list[Layer], Field(min_length=1)] = Field(default_factory=lambda: list(get_args(Layer)))
    blocks: Blocks = Field(default="all", description="all, {last: 8} or a list of block numbers from 0")
    activation_checkpointing: bool = False

    def resolved(self, preset: Encoder) -> Self:
        return super().resolved(preset).model_copy(update={"blocks": block_numbers(self.blocks, preset.depth)})


def block_numbers(blocks: Blocks, depth: int) -> list[int]:
    """The numbers of the named blocks of a trunk with `depth` blocks, ascending. Raises ValueError for one it lacks."""
    if blocks == "all":
        return list(range(depth))
    numbers = list(range(depth - blocks["last"], depth)) if isinstance(blocks, dict) else blocks
    if min(numbers) < 0 or max(numbers) >= depth:
        raise ValueError(f"blocks {blocks}: the encoder has blocks 0..{depth - 1}")
    return sorted(set(numbers))


KINDS: dict[str, type[ArmSection]] = {"frozen": Frozen, "lora": Lora}
AnyArm = Annotated[Frozen | Lora, Field(discriminator="kind")]
