"""Reads COCO's instance JSON: polygons and run lengths of named categories become one mask per image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from nightshift.carm import view_or_none
from nightshift.config.presets import BySplit, Coco
from nightshift.console.errors import UserError, nearest
from nightshift.ingest.images import picture
from nightshift.ingest.paths import inside
from nightshift.ingest.record import Problems, SourceCase, checked, error_prefix

if TYPE_CHECKING:
    from nightshift.ingest.record import Pixels

FAR = 1e5  # pixels; pycocotools takes memory for every pixel of an outline, however far out


def coco_cases(data: Coco, root: Path, problems: Problems) -> list[SourceCase]:
    """A case per image; its mask is the union of all instances of the preset's categories.

    An image may have keys that COCO does not ask for: `patient_id`, and `primary_angle` and `secondary_angle`, numbers
    or text as in `nightshift.carm.view`.

    Args:
        data: the preset.
        root: the folder that the preset's paths are relative to.
        problems: gets a line for each image or annotation with a mistake in it.

    Raises:
        UserError: a file that is not COCO's, a category that it does not have.
    """
    categories = None if data.categories == "all" else data.categories
    empty = data.unannotated == "empty"
    return [
        case
        for split, (annotations, images) in _sets(data, root).items()
        for case in _cases(split, annotations, images, categories, empty, problems)
    ]


def _sets(data: Coco, root: Path) -> Mapping[str, tuple[Path, Path]]:
    """Annotation file and folder of images by split, '' where there is one without a split."""
    if isinstance(data.annotations, str):
        return {"": (root / data.annotations, root / str(data.images))}
    files: dict[str, str] = dict(data.annotations)
    folders = dict(data.images) if isinstance(data.images, BySplit) else dict.fromkeys(files, data.images)
    return {split: (root / file, root / folders[split]) for split, file in files.items()}


def _cases(
    split: str, path: Path, folder: Path, categories: list[str] | None, empty: bool, problems: Problems
) -> list[SourceCase]:
    content = _content(path)
    wanted = _wanted(path, content["categories"], categories)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    annotations: dict[Any, list[tuple[str, Any]]] = {}
    for number, annotation in enumerate(content["annotations"]):
        entry = (f"{path}, annotations[{number}]", annotation)
        annotations.setdefault(_id(annotation, "image_id"), []).append(entry)
    cases, times = [], Counter(_id(image, "id") for image in content["images"])
    for number, image in enumerate(content["images"]):
        where = f"{path}, images[{number}]"
        with problems.collecting():
            file = _file(where, image, folder)
            if times[image["id"]] > 1:
                raise UserError(f"{where}: id {image['id']!r} is that of {times[image['id']]} images")
            where = f"{where} ({image['file_name']})"
            shapes = _shapes(annotations.get(image["id"], []), wanted)
            if not shapes and not empty:
                names = ", ".join(categories or ["any category"])
                raise UserError(f"{where}: no annotation of {names}; `unannotated: empty` if there is nothing to see")
            with error_prefix(where):
                angles = view_or_none(image.get("primary_angle"), image.get("secondary_angle"))
            patient = str(image.get("patient_id", ""))
            name = "-".join(PurePosixPath(image["file_name"]).with_suffix("").parts)
            case_id = f"{split}-{name}" if split else name  # ARCADE counts from 1 in every split
            read = partial(_read, where, file, (image["height"], image["width"]), shapes)
            cases.append(SourceCase(case_id, patient, angles, split, (file, path), read, where))
    orphans = [where for image, own in annotations.items() if image is None or not times[image] for where, _ in own]
    problems += [f"{where}: its image_id is that of no image" for where in orphans]
    return cases


def _content(path: Path) -> dict[str, list[Any]]:
    content: Any
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or 'not readable').lower()}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise UserError(f"{path}: no list '{name}'; expected COCO's images, annotations and categories")
    for number, category in enumerate(content["categories"]):
        if _id(category, "id") is None or "name" not in category:
            raise UserError(f"{path}, categories[{number}]: expected id and name")
    if not content["images"]:
        raise UserError(f"{path}: no images in it")
    lists: dict[str, list[Any]] = content
    return lists


def _id(entry: Any, name: str) -> int | str | None:
    value = entry.get(name) if isinstance(entry, dict) else None
    return value if isinstance(value, int | str) else None


def _wanted(path: Path, known: list[dict[str, Any]], names: list[str] | None) -> dict[int | str, bool]:
    """Every category of the file by its id, True where it is among `names`."""
    valid = [str(category["name"]) for category in known]
    for name in names or []:
        if name not in valid:
            raise UserError(f"{path}: no category '{name}'; {nearest(name, valid)}")
    return {c["id"]: names is None or str(c["name"]) in names for c in known}


def _shapes(annotations: list[tuple[str, Any]], wanted: dict[int | str, bool]) -> list[tuple[str, Any]]:
    """(place in the file, segmentation) of one image's annotations of wanted categories. Raises UserError."""
    shapes = []
    for where, annotation in annotations:
        category = _id(annotation, "category_id")
        if category is None or category not in wanted:
            raise UserError(f"{where}: category_id {annotation.get('category_id')!r} is not in categories")
        if wanted[category]:
            shapes.append((where, annotation.get("segmentation")))
    return shapes


def _file(where: str, image: Any, folder: Path) -> Path:
    if _id(image, "id") is None or not isinstance(image.get("file_name"), str):
        raise UserError(f"{where}: expected id and file_name")
    if not all(type(image.get(side)) is int and image[side] > 0 for side in ("height", "width")):
        raise UserError(f"{where}: height {image.get('height')!r}, width {image.get('width')!r}; expected pixels")
    file = inside(folder, image["file_name"])
    if not file.is_file():
        raise UserError(f"{where}: {file}: no such file")
    return file


def _read(where: str, file: Path, size: tuple[int, int], shapes: list[tuple[str, Any]]) -> tuple[Pixels, Pixels]:
    import numpy as np

    frame = picture(file)
    if frame.shape != size:
        raise UserError(f"{where}: {size[0]} rows and {size[1]} columns, but {file} has {frame.shape[:2]}")
    mask = np.zeros(size, np.uint8)
    for place, shape in shapes:
        mask |= _draw(place, shape, *size)
    return checked(frame, mask, file)


def _draw(where: str, shape: Any, height: int, width: int) -> Pixels:
    """The mask (H, W), uint8, of polygons [[x, y, x, y, ...], ...] or of run lengths, compressed or not."""
    import numpy as np
    from pycocotools import mask

    if isinstance(shape, dict):
        if shape.get("size") != [height, width]:
            raise UserError(f"{where}: run lengths of size {shape.get('size')}; expected [{height}, {width}]")
        counts = shape.get("counts")
        lengths = _lengths(counts) if isinstance(counts, str) else counts if isinstance(counts, list) else [-1]
        # pycocotools leaves pixels that the run lengths do not reach uninitialised.
        whole = all(type(length) is int and length >= 0 for length in lengths)
        if not whole or sum(lengths) != height * width:
            raise UserError(f"{where}: run lengths that are not those of {height} x {width} pixels")
        packed = mask.frPyObjects({"size": [height, width], "counts": lengths}, height, width)
        return np.asarray(mask.decode(packed), np.uint8)
    if not isinstance(shape, list) or not shape or not all(map(_is_polygon, shape)):
        raise UserError(f"{where}: no segmentation; expected run lengths, or polygons of three points and more")
    return np.asarray(mask.decode(mask.merge(mask.frPyObjects(shape, height, width))), np.uint8)


def _lengths(text: str) -> list[int]:
    """Run lengths of COCO's compressed text (cocoapi, rleFrString).

    Five bits a character, the lowest first; from the fourth length on, the difference to the last but one.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the sign
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths


def _is_polygon(points: Any) -> bool:
    return (
        isinstance(points, list)
        and len(points) >= 6
        and len(points) % 2 == 0
        and all(type(point) in (int, float) and abs(point) < FAR for point in points)
    )
