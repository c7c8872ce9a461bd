"""Reads a case's contours from JSON: its view angles, and the edges of vessels, from which a mask can be drawn.

`view_angles` holds `primary_angle` and `secondary_angle`, or `primary` and `secondary`, as numbers or as text; every
object that has a `left_edge` and a `right_edge`, wherever it lies in the file, is a segment of the vessel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.carm import Angles, view
from nightshift.console.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from nightshift.ingest.record import Pixels

    Points = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

WANTED = 'expected {"view_angles": {"primary_angle": 30.0, "secondary_angle": -20.0}}, in degrees'


def read_contours(path: Path, edges: bool = True) -> Any:
    """The content of a contours file.

    Args:
        path: the file.
        edges: False: only the view_angles are needed, which may be found without parsing the thousands of points.

    Raises:
        UserError: no such file, not JSON.
    """
    try:
        content = path.read_bytes()
        angles = None if edges else _angles_alone(content)
        return json.loads(content) if angles is None else angles
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or 'not readable').lower()}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not readable as JSON, so no view angles in it; {WANTED}") from None


def _angles_alone(content: bytes) -> dict[str, Any] | None:
    """The view_angles of the file's outermost object, or None where parsing everything is the only way to be sure.

    A data set is listed at every `dvc repro`, so the thousands of points around the angles are not parsed.
    """
    before, found, after = content.partition(b'"view_angles"')
    lists, objects = (before.count(a) - before.count(b) for a, b in ((b"[", b"]"), (b"{", b"}")))
    if not found or found in after or lists != 0 or objects != 1:
        return None
    try:
        return {"view_angles": json.JSONDecoder().raw_decode(after.decode().lstrip().removeprefix(":").lstrip())[0]}
    except ValueError:
        return None


def view_of(content: Any, path: Path) -> Angles:
    """Primary and secondary angle in degrees of a file's content. Raises UserError where they are missing or wrong."""
    angles = content.get("view_angles") if isinstance(content, dict) else None
    given = [
        [angles[key] for key in (f"{which}_angle", which) if key in angles] if isinstance(angles, dict) else []
        for which in ("primary", "secondary")
    ]
    if not all(given):
        raise UserError(f"{path}: no view angles in it; {WANTED}")
    for which, values in zip(("primary", "secondary"), given, strict=True):
        if len(values) > 1 and values[0] != values[1]:
            raise UserError(f"{path}: {which}_angle {values[0]!r} and {which} {values[1]!r}; keep the right one")
    try:
        return view(given[0][0], given[1][0])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def has_edges(content: Any) -> bool:
    """Whether any object in `content` has a left_edge or a right_edge."""
    return next(_edges(content), None) is not None


def draw_mask(content: Any, shape: tuple[int, ...], path: Path) -> Pixels:
    """The mask (H, W), 0 or 1, of the pixels whose centre lies within a vessel's edges.

    Points are [x, y] in pixels of the frame, x to the right and y down, 0 at the centre of the first pixel. An edge is
    a list of points, or a list of such lists, one per segment.

    Args:
        content: as `read_contours` gives it.
        shape: (H, W).
        path: the file, for messages.

    Raises:
        UserError: an edge that is not a list of points, edges of different numbers of segments, an empty mask.
    """
    import numpy as np
    from skimage.draw import polygon

    mask = np.zeros(shape, np.uint8)
    for left, right in _edges(content):
        sides = [_segments(edge, path) for edge in (left, right)]
        if len(sides[0]) != len(sides[1]):
            raise UserError(f"{path}: {len(sides[0])} segments of left_edge and {len(sides[1])} of right_edge")
        for outward, back in zip(*sides, strict=True):
            outline = np.concatenate([outward, back if _opposed(outward, back) else back[::-1]])
            mask[polygon(outline[:, 1], outline[:, 0], shape)] = 1
    if not mask.any():
        raise UserError(f"{path}: left_edge and right_edge enclose no pixel of a frame of {shape}; are they in pixels?")
    return mask


def _edges(content: Any) -> Iterator[tuple[Any, Any]]:
    """left_edge and right_edge of every object that has one of them, however deep it lies."""
    if isinstance(content, dict):
        if "left_edge" in content or "right_edge" in content:
            yield content.get("left_edge"), content.get("right_edge")
            return
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from _edges(part)


def _segments(edge: Any, path: Path) -> list[Points]:
    """Points (n, 2) of each segment of an edge. Raises UserError."""
    import numpy as np

    deep = isinstance(edge, list) and edge and isinstance(edge[0], list) and edge[0] and isinstance(edge[0][0], list)
    segments = []
    for points in edge if deep else [edge]:
        try:
            array = np.array(points, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            array = np.empty(0)
        if array.ndim != 2 or array.shape[1] != 2 or len(array) < 2 or not np.isfinite(array).all():
            raise UserError(f"{path}: left_edge or right_edge is not a list of two or more points [x, y]")
        segments.append(array)
    return segments


def _opposed(left: Points, right: Points) -> bool:
    """Whether two edges (n, 2) run in opposite directions, as when one is traced down and the other up."""
    import numpy as np

    same = np.linalg.norm(left[[0, -1]] - right[[0, -1]], axis=1).sum()
    return bool(np.linalg.norm(left[[0, -1]] - right[[-1, 0]], axis=1).sum() < same)
