"""Reads one file of pixels: a picture, a mask or a NumPy array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.console.errors import UserError, is_out_of_memory
from nightshift.ingest.windowing import Window, to_uint8

if TYPE_CHECKING:  # numpy and PIL are imported where a file is read: `inputs` lists files at every `dvc repro`
    import numpy as np

    from nightshift.ingest.record import Pixels

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".bmp"}
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # modes of Pillow; 16 bits per colour are read as 8
MORE_BITS = ("I;16", "I;16L", "I;16B", "I", "F")
GREYS = 0.02  # share of a mask's pixels between black and white from which it is a picture


def paired(*folders: Path) -> dict[str, list[Path]]:
    """The pictures of the same name in all `folders`, by name, sorted.

    Raises UserError: a folder missing or without pictures, two of one name, a picture without its partner.
    """
    by_folder = []
    for folder in folders:
        pictures, wrong = named(folder)
        if wrong:
            raise UserError(wrong[0])
        by_folder.append(pictures)
    for folder, pictures in zip(folders[1:], by_folder[1:], strict=True):
        single = sorted(by_folder[0].keys() ^ pictures.keys())
        if single:
            count = f"({len(single)} in all)"
            raise UserError(f"no partner for {', '.join(single[:3])} {count} between {folders[0]} and {folder}")
    if not by_folder[0]:
        raise UserError(f"{folders[0]}: no pictures ({', '.join(sorted(SUFFIXES))}) in it")
    return {name: [pictures[name] for pictures in by_folder] for name in sorted(by_folder[0])}


def named(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The pictures of a folder by name without suffix, and a message for each whose name another one has.

    Raises UserError: no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    pictures: dict[str, Path] = {}
    wrong = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        if path.stem in pictures:
            wrong.append(f"{path}: a second picture named '{path.stem}' beside {pictures[path.stem].name}; keep one")
        pictures.setdefault(path.stem, path)
    return pictures, wrong


def picture(path: Path, window: Window = None) -> Pixels:
    """A picture as grey values (H, W), uint8; one of more bits as `nightshift.ingest.windowing` maps it.

    Raises UserError: not a picture, one of several pages.
    """
    return to_uint8(_pixels(path), window, path)


def mask_picture(path: Path) -> Pixels:
    """0/1 (H, W), uint8: 0 where the picture is 0, 1 where it has its one other value, whatever that is.

    Masks drawn or saved with soft edges have more values and are thresholded at half of white.
    Raises UserError: a picture with many greys or without white, and as `picture` does.
    """
    import numpy as np

    pixels = _pixels(path)
    values = np.unique(pixels)
    if len(values) == 1 or (len(values) == 2 and values[0] == 0):
        return (pixels > 0).astype(np.uint8)
    white = 255 if values[-1] <= 255 else 65535
    mask = pixels > white / 2
    if not mask.any() or ((pixels > white / 8) & (pixels < white * 7 / 8)).mean() > GREYS:
        raise UserError(f"{path}: a picture with greys, not a mask; expected black and white")
    return mask.astype(np.uint8)


def read_array(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
    """The array of a .npy file, mapped and not read, so that one frame of a long cine costs one frame.

    Raises UserError: no such file, a damaged one, one with Python objects, an archive (.npz).
    """
    import numpy as np

    with _readable(path, "as a NumPy array"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: an archive of arrays; expected one array, saved with numpy.save")
    return array


def _pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
    """(H, W) as the file has them: uint8, or uint16, int32 or float32 where it has more bits."""
    import numpy as np
    from PIL import Image

    with _readable(path, "as a picture"), Image.open(path) as opened:
        if (pages := getattr(opened, "n_frames", 1)) > 1:
            raise UserError(f"{path}: {pages} pages or frames; save the one to segment by itself")
        if opened.mode not in EIGHT_BITS + MORE_BITS:
            raise UserError(f"{path}: pixels of mode {opened.mode}; save it as grey, of 8 or 16 bits")
        return np.asarray(opened.convert("L") if opened.mode in EIGHT_BITS else opened)


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a damaged file makes NumPy or Pillow raise, which is almost anything, into a UserError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        raise UserError(f"{path}: not readable {what}: {error}") from None
