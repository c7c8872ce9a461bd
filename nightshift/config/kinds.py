"""The settings of each kind of arm: a section of `arms` in params.yaml. What a kind does is in nightshift/arms/KIND.py.

Stages depend on resolved settings (nightshift/config/resolved.py), which contain the defaults given here: another
default reruns them as another value in params.yaml does.
"""

from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_type_hints

from pydantic import Field, create_model

from nightshift.config.presets import Encoder, Fraction, Positive, Rate, Section, Text
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


class ArmSection(Section):
    """What every kind has.

    `packages`: that it depends on, beside torch and those of the encoder; `has_encoder`: SAM 3's encoder is part of it;
    `uses_view`: it can use the C-arm angles.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    has_encoder: ClassVar[bool] = True
    uses_view: ClassVar[bool] = True
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


class TrainedSection(ArmSection, Overrides):
    """A kind that is trained: it may have keys of `train` for itself."""


class WithoutEncoder(ArmSection):
    """A kind without SAM 3's encoder. `resolution`: side of the square that it sees; `encoder`: that of the encoder.

    `sees_channels`: it sees what encoder.channels says; else the frame alone.
    """

    has_encoder = False
    sees_channels: ClassVar[bool] = False
    resolution: Positive | Literal["encoder"] = Field(default="encoder", description="a number of pixels, or encoder")

    def side(self, of_encoder: int) -> int:
        """Of the square in pixels, where the encoder's has `of_encoder`."""
        return of_encoder if self.resolution == "encoder" else self.resolution


class Frozen(TrainedSection):
    """Nothing of the encoder is trained. `level`: keep the trunk's output, or the neck's (five times the disk)."""

    kind: Literal["frozen"]
    level: Literal["trunk", "neck"] = "trunk"


class InBlocks(TrainedSection):
    """A kind that trains something in `blocks` of the trunk; those before the first one are its prefix."""

    blocks: Blocks = Field(default="all", description="all, {last: 8} or a list of block numbers from 0")
    activation_checkpointing: bool = False

    def resolved(self, preset: Encoder) -> Self:
        return super().resolved(preset).model_copy(update={"blocks": block_numbers(self.blocks, preset.depth)})

    @property
    def numbers(self) -> list[int]:
        """Of the blocks, ascending; for settings that are resolved."""
        assert isinstance(self.blocks, list)
        return self.blocks


_LOW_RANK = ("rank", "alpha", "rslora", "init", "b_ratio", "dropout", "targets")
METHOD_KEYS: dict[str, tuple[str, ...]] = {  # keys of kind lora that not every method has
    "lora": _LOW_RANK,
    "dora": _LOW_RANK,
    "miss": ("rank", "dropout", "targets"),
    "vera": ("rank", "dropout", "targets"),
    "ia3": ("targets",),
    "ln_tuning": (),
}


class Lora(InBlocks):
    """Adapters by `peft`, of the layers `targets` in `blocks`. METHOD_KEYS has the keys that only some methods have.

    Attributes:
        targets: Linear layers of a block.
        rslora: the update is multiplied by alpha / sqrt(rank), not by alpha / rank (Kalajdzievski, 2023).
        init: of A and B. default: A by Kaiming, B zero; eva: A by the training cases (Paischer et al., 2024), B zero.
        b_ratio: learning rate of B over that of A (LoRA+, Hayou et al., 2024).
    """

    packages = ("peft",)
    kind: Literal["lora"]
    method: Literal["lora", "dora", "miss", "vera", "ia3", "ln_tuning"] = Field(
        default="lora",
        description="lora, dora, miss, vera, ia3 or ln_tuning; docs/arms.md says why no other of peft",
    )
    rank: Positive = 8
    alpha: Rate = 16.0
    rslora: bool = False
    init: Literal["default", "gaussian", "orthogonal", "eva"] = Field(
        default="default",
        description="default, gaussian, orthogonal or eva; pissa, olora, corda and loftq change the base weights, so "
        "their adapters fit no other copy of the encoder",
    )
    b_ratio: Annotated[float, Field(ge=1)] = 1.0
    dropout: Fraction = 0.0
    targets: list[Layer] = Field(default=[*get_args(Layer)], min_length=1)

    def resolved(self, preset: Encoder) -> Self:
        unused = set(METHOD_KEYS["lora"]) - set(METHOD_KEYS[self.method])
        for key in self.model_dump(include=unused, exclude_defaults=True):
            raise ValueError(f"{key}: method {self.method} has no {key}; leave it out, or at its default")
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"rank {self.rank}: init orthogonal needs an even one")
        if self.method == "miss" and self.rank > preset.embed_dim:
            raise ValueError(f"rank {self.rank}: method miss takes at most {preset.embed_dim}, the width of a token")
        return super().resolved(preset)


def block_numbers(blocks: Blocks, depth: int) -> list[int]:
    """The numbers of the named blocks of a trunk with `depth` blocks, ascending. Raises ValueError for one it lacks."""
    if blocks == "all":
        return list(range(depth))
    numbers = list(range(depth - blocks["last"], depth)) if isinstance(blocks, dict) else blocks
    if min(numbers) < 0 or max(numbers) >= depth:
        raise ValueError(f"blocks {blocks}: the encoder has blocks 0..{depth - 1}")
    return sorted(set(numbers))


class Full(InBlocks):
    """Fine-tuning: the weights of `blocks` are trained and, with `neck`, those of the neck.

    `backbone_learning_rate`: of the last block and of the neck, as a factor of train.learning_rate; `layer_decay`: each
    block has that factor of the next one's. The defaults are for SAM 3's weights: with a learning rate of 0.003 they
    make 9e-5, as ViTDet's 1e-4 (Li et al., 2022), and its decay for 32 blocks, which SAM 3's own fine-tuning has, too.
    """

    kind: Literal["full"]
    neck: bool = False
    backbone_learning_rate: Rate = 0.03
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9


class UNet(TrainedSection, WithoutEncoder):
    """MONAI's DynUNet, trained from scratch. `channels`: of each level, the finest first; the next has half its side.

    The side of the square is a multiple of that of a pixel of the coarsest level; the encoder's is rounded up to one.
    """

    packages = ("monai",)
    sees_channels = True
    kind: Literal["unet"]
    channels: Annotated[list[Positive], Field(min_length=3)] = Field(default_factory=lambda: [16, 32, 64, 128, 192])

    def side(self, of_encoder: int) -> int:
        step = 2 ** (len(self.channels) - 1)
        return max(2, -(-super().side(of_encoder) // step)) * step  # instance norm takes more than one pixel

    def resolved(self, preset: Encoder) -> Self:
        if self.resolution not in ("encoder", side := self.side(preset.img_size)):
            raise ValueError(
                f"resolution {self.resolution}: {len(self.channels)} levels take a multiple of "
                f"{2 ** (len(self.channels) - 1)} pixels; the next that fits is {side}"
            )
        return super().resolved(preset)


class Vesselness(WithoutEncoder):
    """A filter that enhances dark tubes; nothing is trained. Validation chooses one of the lists of `scales`.

    A scale is the standard deviation of a Gaussian, in percent of the square's side: about half of a vessel's width.
    """

    packages = ("scikit-image",)
    uses_view = False
    kind: Literal["vesselness"]
    filter: Literal["sato", "frangi"] = "sato"
    scales: Annotated[list[Annotated[list[Rate], Field(min_length=1)]], Field(min_length=1)] = Field(
        default_factory=lambda: [[0.3, 0.6], [0.5, 0.8, 1.1], [0.7, 1.0, 1.3], [1.0, 1.5, 2.0]]
    )


class ZeroShot(WithoutEncoder):
    """SAM 3 as it is, by transformers, asked for what the `prompt` says; nothing is trained.

    `weights`: `hub`, or a folder with a checkpoint of transformers. `resolution`: by default what SAM 3 is made for.
    """

    packages = ("transformers",)
    uses_view = False
    hub: ClassVar[str] = "facebook/sam3"
    kind: Literal["zero_shot"]
    prompt: Text = "coronary artery"
    weights: Text = "hub"
    resolution: Positive | Literal["encoder"] = Field(default=1008, description="a number of pixels, or encoder")


KINDS: dict[str, type[ArmSection]] = {
    "frozen": Frozen, "lora": Lora, "full": Full, "unet": UNet, "vesselness": Vesselness, "zero_shot": ZeroShot
}  # fmt: skip
AnyArm = Annotated[Frozen | Lora | Full | UNet | Vesselness | ZeroShot, Field(discriminator="kind")]
