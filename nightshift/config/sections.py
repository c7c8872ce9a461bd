"""The sections of params.yaml, typed: what we do with an encoder and a data set. `arms` is in kinds.py."""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field

from nightshift.config.presets import Fraction, Positive, Rate, Section

Precision = Literal["fp32", "bf16", "fp16"]
Channels = Literal["grey", "vesselness"]
Number = TypeVar("Number", int, float)


class Use(Section):
    """Presets by name: conf/encoder/NAME.yaml and conf/data/NAME.yaml.

    `external`: a second data set, which every model is tested on and nothing is trained or chosen on; or `none`.
    """

    encoder: str
    data: str
    external: str


class EncoderUse(Section):
    """How the encoder is used.

    Attributes:
        resolution: side, in pixels, of the square that a frame is resized to; `native` is the preset's img_size.
        rope: `repaired` makes real position tables for that resolution, `as_shipped` leaves them as SAM 3 has them.
        weights: see nightshift/backbone/pretrained.py.
        precision: of matrix products; position tables are always float32.
        channels: of the input, see nightshift/data/channels.py.
    """

    resolution: Positive | Literal["native"] = Field(description="a number of pixels, or native")
    rope: Literal["repaired", "as_shipped"]
    weights: Annotated[str, Field(min_length=1)]
    precision: Precision
    channels: Channels


class Probe(Section):
    """`resolutions`: sides in pixels that the full-size encoder is run with; `ddp`: also in two real processes."""

    resolutions: list[Annotated[int, Field(ge=14)]]
    ddp: bool


class Prepare(Section):
    """How a data set is split, and what to do with its problems.

    Attributes:
        folds: 1 is one split; with more, every patient is tested in exactly one of them.
        val, test: fractions of the patients (of cases where there are no patients) where the split is `made`; with
            several folds each tests its share.
        seed: of that split.
        on_problem: `stop` ends with a list of all problems, `skip` leaves these cases out and says so in the report.
        group_similar: keep cases without a patient id in one part whose frames look alike (frames of one cine).
    """

    folds: Positive
    val: Fraction
    test: Fraction
    seed: Annotated[int, Field(ge=0)]
    on_problem: Literal["stop", "skip"]
    group_similar: bool


Share = Annotated[float, Field(ge=0, lt=1)]


class Augment(Section):
    """Variants of every training case, the same for all arms; what they are: nightshift/data/augmentation.py.

    Attributes:
        variants: of each case, beside itself; each epoch draws one of them all. A prefix encodes all of them once.
        online: arms without a prefix draw new variants in every epoch.
        mirror: left and right, LAO and RAO, half of the variants.
        rotation: degrees, at most.
        scale, shift: of the side, at most.
        elastic: of the side: standard deviation of what moves the control points, at most.
        gamma, contrast: factors between 1 / (1 + value) and 1 + value, and 1 - value and 1 + value.
        noise: standard deviation, of the range of grey values; `blur`: standard deviation in pixels, at most.
    """

    variants: Annotated[int, Field(ge=0)]
    online: bool
    mirror: bool
    rotation: Annotated[float, Field(ge=0, le=180)]
    scale: Share
    shift: Share
    elastic: Share
    gamma: Annotated[float, Field(ge=0)]
    contrast: Share
    noise: Share
    blur: Annotated[float, Field(ge=0)]

    @property
    def used(self) -> Self:
        """The same; with no variants nothing else is set, so that no stage depends on what it does not use."""
        if self.variants or self.online:
            return self
        return self.model_copy(update={name: type(value)() for name, value in self})

    @property
    def kept(self) -> Self:
        """What the variants depend on that are kept of a prefix."""
        return self.model_copy(update={"online": False}).used


class View(Section):
    """`mode`: `film` modulates the features by the C-arm angles, `none` does not use them."""

    mode: Literal["film", "none"]


class Head(Section):
    """`width`: channels; `detail`: a stem from the image beside the encoder's features."""

    width: Annotated[int, Field(ge=8, multiple_of=8)]
    detail: bool


def _different(values: list[Number]) -> list[Number]:
    if len(set(values)) < len(values):
        raise ValueError("twice the same")
    return values


class Patience(Section):
    """Until validation Dice has not risen for `patience` epochs, `at_most` that many: the length of the cosine, too."""

    patience: Positive
    at_most: Positive


class ClDice(Section):
    """Soft clDice (Shit et al., CVPR 2021) in the place of the share `cldice` of soft Dice, from `from_epoch` on."""

    cldice: Annotated[float, Field(gt=0, le=1)]
    from_epoch: Positive


class Train(Section):
    """Training, the same for all arms; an arm's own section may have any of these keys for itself.

    Attributes:
        loss: `dice_bce` is soft Dice plus binary cross-entropy.
        ema: decay per step of an exponential moving average of the trained parameters, which is then what is validated
            and kept.
        patients: to train on, in each fold; those of a smaller number are among those of a larger one.
        learning_rate: of several, the first seed of each fold tries all, and its validation Dice chooses.
    """

    patients: Positive | Literal["all"] = Field(description="a number of patients, or all")
    epochs: Positive | Patience = Field(description="a number, or {patience: 5, at_most: 50}")
    batch_size: Positive
    micro_batch: Positive | Literal["all"] = Field(description="a number of cases, or all")
    learning_rate: Rate | Annotated[list[Rate], Field(min_length=1), AfterValidator(_different)] = Field(
        description="a number, or a list of different ones"
    )
    loss: Literal["dice_bce"] | ClDice = Field(description="dice_bce, or {cldice: 0.5, from_epoch: 5}")
    ema: Literal["none"] | Annotated[float, Field(gt=0, lt=1)] = Field(description="none, or a number below 1, as 0.99")
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Rate
    warmup: Fraction
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_different)] = Field(
        description="a list of different whole numbers from 0 on"
    )

    @property
    def most_epochs(self) -> int:
        """The number of epochs, or the largest one."""
        return self.epochs.at_most if isinstance(self.epochs, Patience) else self.epochs

    def cldice(self, epoch: int) -> float:
        """The share of clDice in the loss of an epoch."""
        return self.loss.cldice if isinstance(self.loss, ClDice) and epoch >= self.loss.from_epoch else 0.0

    @property
    def rates(self) -> list[float]:
        """The learning rates to try."""
        return self.learning_rate if isinstance(self.learning_rate, list) else [self.learning_rate]

    @property
    def rate(self) -> float:
        """The learning rate of one training, which has one."""
        (rate,) = self.rates
        return rate


class Predict(Section):
    """How masks are made of a trained model.

    Attributes:
        mirror: probabilities are the mean of those of the frame and of its mirror image, with LAO and RAO exchanged.
        hysteresis: two thresholds, both by validation: of what is above the lower one, connected parts count that are
            above the higher one somewhere.
    """

    mirror: bool
    hysteresis: bool


class Compare(Section):
    """How arms are compared.

    Attributes:
        reference: the arm that the others are measured against.
        level: of significance. A verdict is undecided unless p is below it, and p never falls below 1/10,000.
        margin: Dice that a cheaper arm may lose against the best one and still be recommended.
    """

    reference: str
    level: Annotated[float, Field(ge=0.001, lt=0.5)]
    margin: Annotated[float, Field(ge=0, lt=1)]
