"""The presets in conf/, typed: what an encoder is (its sizes) and what a data set is (where and how it is stored)."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """Strict: an unknown key or a value of another type is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Weights(Section):
    """Where pretrained weights are: `given` by `key` of params.yaml, as random, hub or a path.

    `hub`: what is on the Hugging Face hub, OWNER/REPOSITORY/FILE or, for a folder in transformers' layout,
    OWNER/REPOSITORY; or none.
    """

    key: str
    given: str
    hub: str


class Encoder(Section):
    """What an encoder is: the arguments of sam3's `ViT` and `Sam3DualViTDetNeck`, and where its weights are.

    Sides in pixels, window in tokens. The neck of three scale factors is that of SAM 3.1 (`Sam3TriViTDetNeck`), as far
    as a detector uses it. `hub` is the weights file on the Hugging Face hub, `none` for an encoder without one.
    """

    img_size: Positive
    pretrain_img_size: Positive
    patch_size: Positive
    embed_dim: Positive
    depth: Positive
    num_heads: Positive
    mlp_ratio: Rate
    drop_path_rate: Fraction
    window_size: Positive
    global_blocks: list[Annotated[int, Field(ge=0)]]
    d_model: Positive
    scale_factors: list[float]
    seed: Annotated[int, Field(ge=0)]
    hub: Literal["none"] | Annotated[str, Field(pattern="^[^/]+/[^/]+/.+$")] = Field(
        description="OWNER/REPOSITORY/FILE, or none"
    )

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.scale_factors not in ([4, 2, 1], [4, 2, 1, 0.5]):
            raise ValueError(
                f"scale_factors {self.scale_factors}: expected [4, 2, 1, 0.5] as in SAM 3, or [4, 2, 1] as in SAM 3.1"
            )
        if self.embed_dim % (4 * self.num_heads):
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of 4 x num_heads ({4 * self.num_heads})")
        if max(self.global_blocks, default=-1) != self.depth - 1:
            raise ValueError(f"the last of global_blocks must be the last block, {self.depth - 1}")
        if self.img_size % self.patch_size or self.pretrain_img_size % self.patch_size:
            raise ValueError(f"img_size and pretrain_img_size must be multiples of patch_size {self.patch_size}")
        return self


class Simulated(Section):
    """Synthetic angiograms; see `nightshift.simulation.simulator.Simulation` for what each number means."""

    kind: Literal["simulated"]
    patients: Positive
    views: Positive
    size: Positive
    frames: Positive
    target: Literal["artery", "tree"]
    artery: Literal["LAD", "LCX", "RCA"]
    val: Fraction
    test: Fraction
    seed: Annotated[int, Field(ge=0)]
    split: Literal["given", "made"]


def _rising(window: list[float]) -> list[float]:
    if not window[0] < window[1]:
        raise ValueError("not rising")
    return window


# Grey values that become black and white where pixels have more than 8 bits; see nightshift/ingest/windowing.py.
Window = Annotated[
    Literal["own"] | Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_rising)],
    Field(description="own, or two grey values, black and white, as [0, 4095]"),
]


class BySplit(Section):
    """A path, or the name of a column, for each split."""

    train: Text
    val: Text
    test: Text


class Manifest(Section):
    """A CSV with one row per case, in the user's own schema; paths in it are relative to it.

    `mask`: its column of masks, or one for each split; `rewrite`: where folders are now, by how its paths begin.
    """

    kind: Literal["manifest"]
    path: str
    split: Literal["given", "made"]
    mask: Text | BySplit = Field(
        default="vessel_mask_actual_path", description="a column, or {train: a column, val: a column, test: a column}"
    )
    rewrite: dict[Text, str] = {}
    window: Window = "own"


class ImageFolder(Section):
    """Pictures and masks of the same name in two folders, or in one folder with `mask_suffix` after a mask's name.

    `cases`: a CSV of patients and angles by case; without it they are unknown.
    """

    kind: Literal["folder"]
    images: str
    masks: str
    split: Literal["given", "made"]
    mask_suffix: str = ""
    cases: str | None = None
    window: Window = "own"

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.split == "given" and self.cases is None:
            raise ValueError("split: given needs cases, a CSV with a column split; expected made")
        return self


class Dicom(Section):
    """DICOM files and masks of their frames, by name or by `cases`, a CSV; see nightshift/ingest/dicom_folder.py."""

    kind: Literal["dicom"]
    images: str
    masks: str
    cases: str | None = None
    split: Literal["given", "made"]

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.split == "given" and self.cases is None:
            raise ValueError("split: given needs cases, a CSV with a column split")
        return self


class Coco(Section):
    """COCO's instance JSON, one or one per split; see nightshift/ingest/coco.py.

    `unannotated`: an image without an instance of `categories` is an error, or its mask is empty.
    """

    kind: Literal["coco"]
    annotations: str | BySplit = Field(description="a file, or {train: a file, val: a file, test: a file}")
    images: str | BySplit = Field(description="a folder, or {train: a folder, val: a folder, test: a folder}")
    categories: Literal["all"] | Annotated[list[str], Field(min_length=1)] = Field(description="all or a list of names")
    unannotated: Literal["error", "empty"] = "error"
    split: Literal["given", "made"]

    @model_validator(mode="after")
    def check(self) -> Self:
        if isinstance(self.annotations, str) and (self.split == "given" or isinstance(self.images, BySplit)):
            raise ValueError("annotations: expected {train: a file, val: ..., test: ...}, as split or images ask for")
        return self


AnyData = Annotated[Simulated | Manifest | ImageFolder | Dicom | Coco, Field(discriminator="kind")]


class DataFile(BaseModel):
    """A file of conf/data/, read as {source: the file}, since a file is one of several models by its `kind`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: AnyData
