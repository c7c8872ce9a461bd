"""Whether the graphs in this folder still give the masks that the trained model gave: `python check.py`.

It needs onnxruntime, numpy and pillow. `probability_map` and `mask_of` are all that it takes to use the model.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

HERE = Path(__file__).parent
MAP_MAX = 2**16 - 1  # a probability of 1, in the maps


def probability_map(session: Any, frame: np.ndarray, angles: list[float]) -> np.ndarray:
    """(H, W) uint16 of a frame (H, W) uint8 and its angles, degrees: primary + LAO / - RAO, secondary + CRA / - CAU."""
    inputs = {"frame": frame, "angles": np.array(angles, np.float32)}
    names = {one.name for one in session.get_inputs()}  # without `angles` where the model does not use them
    probability = session.run(None, {name: inputs[name] for name in names})[0]
    return (probability.astype(np.float64) * MAP_MAX).round().astype(np.uint16)


def mask_of(found: np.ndarray, threshold: float, low: float | None) -> np.ndarray:
    """(H, W) bool: above `threshold`, and what is above `low` and connected to that."""
    mask = found > threshold * MAP_MAX
    if low is None:
        return mask
    may_grow, size = found > low * MAP_MAX, -1
    while mask.sum() > size:
        size = mask.sum()
        padded = np.pad(mask, 1)
        near = [padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        mask = np.logical_or.reduce(near) & may_grow
    return mask


def check(folder: Path = HERE) -> list[str]:
    """A sentence for each graph in the folder, which begins with `yes` or `no`."""
    bundle = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    sentences = []
    for graph in bundle["graphs"]:
        session = onnxruntime.InferenceSession(str(folder / graph["file"]), providers=["CPUExecutionProvider"])
        furthest, different, pixels = 0.0, 0, 0
        for i, angles in enumerate(bundle["angles"]):
            frame, expected, mask = (
                np.asarray(Image.open(folder / "cases" / f"{kind}-{i}.png")) for kind in ("frame", "map", "mask")
            )
            found = probability_map(session, frame, angles)
            furthest = max(furthest, float(np.abs(found.astype(np.int64) - expected).max()) / MAP_MAX)
            different += int((mask_of(found, bundle["threshold"], bundle.get("low")) != (mask > 0)).sum())
            pixels += mask.size
        same = furthest <= graph["map_limit"] and different <= graph["pixel_limit"] * pixels
        sentences.append(
            f"{'yes' if same else 'no'}: {graph['file']}: probabilities differ by up to {furthest:.1e} "
            f"(limit {graph['map_limit']:.0e}), masks in {different} of {pixels} pixels "
            f"(limit {int(graph['pixel_limit'] * pixels)})"
        )
    return sentences


if __name__ == "__main__":
    found = check()
    print("\n".join(found))
    sys.exit(any(one.startswith("no") for one in found))
