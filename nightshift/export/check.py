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
    probability = session.run(None, {"frame": frame, "angles": np.array(angles, np.float32)})[0]
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


def compared(session: Any, folder: Path, map_limit: float, pixel_limit: float) -> tuple[bool, str]:
    """Whether a graph gives the expected maps and masks of the cases in the folder, and by how much not.

    Args:
        session: of onnxruntime.
        folder: of the bundle.
        map_limit: difference of a probability.
        pixel_limit: share of the masks' pixels that may differ.
    """
    bundle = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    furthest, different, pixels = 0.0, 0, 0
    for i, angles in enumerate(bundle["angles"]):
        frame, expected, mask = (
            np.asarray(Image.open(folder / "cases" / f"{kind}-{i}.png")) for kind in ("frame", "map", "mask")
        )
        found = probability_map(session, frame, angles)
        furthest = max(furthest, float(np.abs(found.astype(np.int64) - expected).max()) / MAP_MAX)
        different += int((mask_of(found, bundle["threshold"], bundle.get("low")) != (mask > 0)).sum())
        pixels += mask.size
    return pixels > 0 and furthest <= map_limit and different <= pixel_limit * pixels, (
        f"probabilities differ by up to {furthest:.1e} (limit {map_limit:.0e}), masks in {different} of {pixels} "
        f"pixels (limit {int(pixel_limit * pixels)})"
    )


def main() -> int:
    """Print a line for each graph of bundle.json; 0 where all are as they were, else 1."""
    try:
        graphs = json.loads((HERE / "bundle.json").read_text(encoding="utf-8"))["graphs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"no: bundle.json cannot be read: {error}")
        return 1
    status = 0
    if not graphs:
        print("no: bundle.json has no graph to check")
        status = 1
    for graph in graphs:
        try:
            session = onnxruntime.InferenceSession(str(HERE / graph["file"]), providers=["CPUExecutionProvider"])
            same, said = compared(session, HERE, graph["map_limit"], graph["pixel_limit"])
        except Exception as error:  # onnxruntime has no class of its own for what it refuses
            same, said = False, f"cannot be run: {str(error).splitlines()[0]:.200}"
        print(f"{'yes' if same else 'no'}: {graph['file']}: {said}")
        status |= not same
    return status


if __name__ == "__main__":
    sys.exit(main())
