"""Pictures and masks as files of two folders, paired by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.errors import UserError

if TYPE_CHECKING:  # numpy and PIL are imported where a file is read: `inventory` lists files at every `dvc repro`
    import numpy as np

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".bmp"}


def paired(*folders: Path) -> dict[str, list[Path]]:
    """The pictures of the same name in all `folders`, by name, sorted.

    Raises UserError: a folder missing or without pictures, two of one name, a picture without its partner.
    """
    found = [_named(folder) for folder in folders]
    for folder, one in zip(folders[1:], found[1:], strict=True):
        single = sorted(found[0].keys() ^ one.keys())
        if single:
            count = f"({len(single)} in all)"
            raise UserError(f"no partner for {', '.join(single[:3])} {count} between {folders[0]} and {folder}")
    if not found[0]:
        raise UserError(f"{folders[0]}: no pictures ({', '.join(sorted(SUFFIXES))}) in it")
    return {name: [one[name] for one in found] for name in sorted(found[0])}


def _named(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        if path.stem in found:
            raise UserError(f"{path}: a second picture named '{path.stem}' beside {found[path.stem].name}")
        found[path.stem] = path
    return found


def picture(path: Path) -> np.ndarray:
    """Grey (H, W), uint8. Raises UserError: not a picture, or of more than eight bits."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as opened:
            if opened.mode not in ("1", "L", "P", "RGB", "RGBA"):
                raise UserError(f"{path}: pixels of mode {opened.mode}; save it as 8-bit grey")
            return np.asarray(opened.convert("L"))
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path}: not readable as a picture: {error}") from None


def mask_picture(path: Path) -> np.ndarray:
    """0/1 (H, W). Masks drawn or saved with soft edges are cut at half; one with much grey in it is no mask."""
    import numpy as np

    found = picture(path)
    if found.max(initial=0) <= 1:
        return found
    if ((found > 32) & (found < 223)).mean() > 0.02:
        raise UserError(f"{path}: a picture with greys, not a mask; expected black and white")
    return (found > 127).astype(np.uint8)
