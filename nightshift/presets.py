"""What a preset of conf/ says that a thing is: the sizes of an encoder, the source of a data set."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Strict: an unknown key or a value of another type is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Encoder(Section):
    """What an encoder is: the arguments of sam3's `ViT` and `Sam3DualViTDetNeck`. Sides in pixels, window in tokens."""

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
    seed: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.embed_dim % (4 * self.num_heads):
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of 4 x num_heads ({4 * self.num_heads})")
        if max(self.global_blocks, default=-1) != self.depth - 1:
            raise ValueError(f"the last of global_blocks must be the last block, {self.depth - 1}")
        if self.img_size % self.patch_size or self.pretrain_img_size % self.patch_size:
            raise ValueError(f"img_size and pretrain_img_size must be multiples of patch_size {self.patch_size}")
        return self


class Simulated(Section):
    """Synthetic angiograms; see `nightshift.simulator.Simulation` for what each number means."""

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


class Manifest(Section):
    """A CSV with one row per case, in the user's own schema; paths in it are relative to it."""

    kind: Literal["manifest"]
    path: str
    split: Literal["given", "made"]


class Folder(Section):
    """Two folders of pictures paired by name, no angles, no patients."""

    kind: Literal["folder"]
    images: str
    masks: str
    split: Literal["made"]


SOURCES = {"simulated": Simulated, "manifest": Manifest, "folder": Folder}


class Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    source: Annotated[Simulated | Manifest | Folder, Field(discriminator="kind")]
