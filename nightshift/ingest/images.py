"""Pictures and masks as files of two folders, paired by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.console.errors import UserError
from nightshift.ingest.windowing import Window, grey

if TYPE_CHECKING:  # numpy and PIL are imported where a file is read: `inventory` lists files at every `dvc repro`
    import numpy as np

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".bmp"}
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # of Pillow; 16 bits per colour are read as 8
MORE_BITS = ("I;16", "I;16L", "I;16B", "I", "F")


def paired(*folders: Path) -> dict[str, list[Path]]:
    """The pictures of the same name in all `folders`, by name, sorted.

    Raises UserError: a folder missing or without pictures, two of one name, a picture without its partner.
    """
    found = []
    for folder in folders:
        pictures, wrong = named(folder)
        if wrong:
            raise UserError(wrong[0])
        found.append(pictures)
    for folder, one in zip(folders[1:], found[1:], strict=True):
        single = sorted(found[0].keys() ^ one.keys())
        if single:
            count = f"({len(single)} in all)"
            raise UserError(f"no partner for {', '.join(single[:3])} {count} between {folders[0]} and {folder}")
    if not found[0]:
        raise UserError(f"{folders[0]}: no pictures ({', '.join(sorted(SUFFIXES))}) in it")
    return {name: [one[name] for one in found] for name in sorted(found[0])}


def named(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The pictures of a folder by name, without their endings, and a line for each whose name another has.

    Raises UserError: no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    wrong = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        if path.stem in found:
            wrong.append(f"{path}: a second picture named '{path.stem}' beside {found[path.stem].name}; keep one")
        found.setdefault(path.stem, path)
    return found, wrong


def picture(path: Path, window: Window = None) -> np.ndarray:
    """Grey (H, W), uint8, of more bits as `nightshift.ingest.windowing` does it. Raises UserError: no picture, several pages."""
    return grey(_pixels(path), window, path)


def mask_picture(path: Path) -> np.ndarray:
    """0/1 (H, W), where the picture is 0 and where it has its one other value, whatever that is.

    Masks drawn or saved with soft edges have more values and are cut at half; one with much grey in it, or without
    white, is no mask. Raises UserError for that, and as `picture` does.
    """
    import numpy as np

    found = _pixels(path)
    values = np.unique(found)
    if len(values) == 1 or (len(values) == 2 and values[0] == 0):
        return (found > 0).astype(np.uint8)
    white = 255 if values[-1] <= 255 else 65535
    cut = found > white / 2
    if not cut.any() or ((found > white / 8) & (found < white * 7 / 8)).mean() > 0.02:
        raise UserError(f"{path}: a picture with greys, not a mask; expected black and white")
    return cut.astype(np.uint8)


def _pixels(path: Path) -> np.ndarray:
    """(H, W) as the file has them: uint8, or uint16, int32 or float32 where it has more bits."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as opened:
            if getattr(opened, "n_frames", 1) > 1:
                raise UserError(f"{path}: {opened.n_frames} pages or frames; save the one to segment by itself")
            if opened.mode not in EIGHT_BITS + MORE_BITS:
                raise UserError(f"{path}: pixels of mode {opened.mode}; save it as grey, of 8 or 16 bits")
            return np.asarray(opened.convert("L") if opened.mode in EIGHT_BITS else opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not readable as a picture: {error}") from None
