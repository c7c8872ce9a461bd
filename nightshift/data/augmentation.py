"""Variants of a training case by MONAI's transforms, the same ones whoever asks: they follow from case id and number.

What keeps the C-arm's angles true: mirroring exchanges left and right, so LAO becomes RAO, which is exact but for the
anatomy; scale, shift and elastic deformation change what stands in the picture, and grey values how it looks, not where
the C-arm stands; a rotated picture is that of a detector that was turned, which angiographs do by some degrees and no
angle records. So `rotation` is to stay small.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nightshift.config.sections import Augment
from nightshift.data.dataset import Case, Cases

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
GRID = 8  # control points of the elastic deformation along a side


def varied_case(cases: Cases, i: int, settings: Augment) -> Case:
    """Case i % n of n cases, as variant i // n of it; 0 is the case itself."""
    variant, place = divmod(i, len(cases))
    case = cases[place]
    if not variant:
        return case
    pixels = varied({"frame": case.frame, "mask": case.mask}, case.case_id, variant, settings)
    angles = case.angles
    if angles is not None and _random(case.case_id, variant, settings)[0]:
        angles = -angles[0], angles[1]
    return replace(case, angles=angles, **pixels)


def varied(pixels: Mapping[str, Pixels], case_id: str, variant: int, settings: Augment) -> dict[str, Any]:
    """A variant, from 1, of `frame` (H, W) uint8, of `mask` (H, W) of 0 and 1, or of both.

    Each is the same whether the other is given or not: `encode` opens no masks.
    """
    mirrored, seed = _random(case_id, variant, settings)
    arrays = {name: values[None, :, :: -1 if mirrored else 1].astype(np.float32) for name, values in pixels.items()}
    if "frame" in arrays:
        arrays["frame"] /= 255
    transforms = _transforms(settings, *next(iter(pixels.values())).shape).set_random_state(seed)
    found = {name: np.asarray(values)[0] for name, values in transforms(arrays).items()}
    scaled = {name: values * 255 if name == "frame" else values for name, values in found.items()}
    return {name: values.round().clip(0, 255).astype(np.uint8) for name, values in scaled.items()}


def _random(case_id: str, variant: int, settings: Augment) -> tuple[bool, int]:
    """Whether a variant is mirrored, and the seed of its transforms."""
    digest = hashlib.sha256(f"{variant} {case_id}".encode()).digest()
    return settings.mirror and digest[0] % 2 == 1, int.from_bytes(digest[1:5], "big")


def _transforms(settings: Augment, height: int, width: int) -> Any:
    from monai import transforms  # two seconds, for those who augment

    side = max(height, width)
    affine: dict[str, Any] = {
        "rotate_range": math.radians(settings.rotation),
        "scale_range": (settings.scale, settings.scale),
        "translate_range": (settings.shift * height, settings.shift * width),
        "mode": ["bilinear", "nearest"],
        "padding_mode": "reflection",
        "prob": 1.0,
        "allow_missing_keys": True,
    }
    space: transforms.Transform = transforms.RandAffined(["frame", "mask"], **affine)
    if settings.elastic:
        grid, most = (side / GRID, side / GRID), (0.0, settings.elastic * side)
        space = transforms.Rand2DElasticd(["frame", "mask"], spacing=grid, magnitude_range=most, **affine)
    sigma, gamma = (1e-3, 1e-3 + settings.blur), (1 / (1 + settings.gamma), 1 + settings.gamma)
    grey = (
        transforms.RandGaussianSmoothd("frame", sigma_x=sigma, sigma_y=sigma, prob=1, allow_missing_keys=True),
        transforms.RandAdjustContrastd("frame", gamma=gamma, prob=1, allow_missing_keys=True),
        transforms.RandScaleIntensityFixedMeand("frame", factors=settings.contrast, prob=1, allow_missing_keys=True),
        transforms.RandGaussianNoised("frame", std=settings.noise, prob=1, allow_missing_keys=True),
    )
    return transforms.Compose([space, *grey])
