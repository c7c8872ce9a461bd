"""SAM 3's own size, for what runs without params.yaml, and what anything with these numbers is called in a signature.

The same numbers as conf/encoder/sam3.yaml (a test compares the two), without pydantic: `nightshift probe --sides` works
beside torch and sam3 alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class EncoderSize(Protocol):
    """The arguments of sam3's `ViT` and `Sam3DualViTDetNeck`. Sides in pixels, window in tokens.

    `config.presets.Encoder` (a preset of conf/encoder) and `Size` are such.
    """

    @property
    def img_size(self) -> int: ...
    @property
    def pretrain_img_size(self) -> int: ...
    @property
    def patch_size(self) -> int: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def mlp_ratio(self) -> float: ...
    @property
    def drop_path_rate(self) -> float: ...
    @property
    def window_size(self) -> int: ...
    @property
    def global_blocks(self) -> Sequence[int]: ...
    @property
    def d_model(self) -> int: ...
    @property
    def scale_factors(self) -> Sequence[float]: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Size:
    """An EncoderSize; the defaults are SAM 3's as `sam3.model_builder` ships it: 446 M parameters in the trunk."""

    img_size: int = 1008
    pretrain_img_size: int = 336
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 32
    num_heads: int = 16
    mlp_ratio: float = 4.625
    drop_path_rate: float = 0.1
    window_size: int = 24
    global_blocks: tuple[int, ...] = (7, 15, 23, 31)
    d_model: int = 256
    scale_factors: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)
    seed: int = 0


FULL_SIZE = Size()
