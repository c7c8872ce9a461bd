"""Two folders of predicted masks and one of the truth, paired by name, as the results of two arms."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from nightshift.carm import view_or_none
from nightshift.console.errors import UserError
from nightshift.core.io import replacing
from nightshift.evaluation.measures import all_metrics
from nightshift.ingest.images import mask_picture, paired, picture
from nightshift.console.progress import bar
from nightshift.reporting.load import ANGLES, ARMS, WHO, ArmResults, Row
from nightshift.ingest.user_table import at, check_width, read_rows


def read_folders(
    frozen: Path, lora: Path, truth: Path, frames: Path | None, cases: Path | None, pictures: Path
) -> dict[str, ArmResults]:
    """Each case measured at its own size; the pictures that the report shows go to `pictures`/ARM.

    cases: a CSV of WHO, of which the last three may be empty; without it no patients and no angles are known.
    Raises UserError: files without partner, masks that are none or not of one size, cases missing in the CSV.
    """
    files = paired(truth, frozen, lora, *([frames] if frames else []))
    unknown = {name: dict.fromkeys(WHO, "") | {"case_id": name} for name in files}
    known = _known(cases, list(files)) if cases else unknown
    rows: dict[str, list[Row]] = {arm: [] for arm in ARMS}
    with replacing(pictures) as folder:
        for arm in ARMS:
            (folder / arm).mkdir(parents=True)
        for i, (name, true, masks, frame) in enumerate(_read(files)):
            for arm, mask in zip(ARMS, masks, strict=True):
                rows[arm].append({"seed": 0.0} | known[name] | all_metrics(mask, true))
                kept = {"truth": true * 255, "prediction-0": mask * 255} | ({} if frame is None else {"frame": frame})
                for kind, array in kept.items():
                    Image.fromarray(array).save(folder / arm / f"{kind}-{i:05d}.png")
    return {arm: ArmResults(rows[arm], pictures / arm) for arm in ARMS}


def _read(files: dict[str, list[Path]]) -> Iterator[tuple[str, np.ndarray, list[np.ndarray], np.ndarray | None]]:
    """Name, truth (H, W), the masks of both arms (H, W), 0 or 1, and the frame (H, W) where there is one."""
    for name, (true, *others) in bar("compare", "case")(files.items()):
        found = [mask_picture(path) for path in (true, *others[:2])] + [picture(path) for path in others[2:]]
        for path, array in zip(others, found[1:], strict=True):
            if array.shape != found[0].shape:
                raise UserError(f"{path}: {array.shape} pixels, but the truth {true} has {found[0].shape}")
        yield name, found[0], found[1:3], found[3] if len(found) > 3 else None


def _known(path: Path, names: list[str]) -> dict[str, Row]:
    """The columns WHO of the CSV by case id, angles in degrees."""
    known = {}
    for where, row in read_rows(path, WHO, "table of cases"):
        with at(where):
            check_width(row)
            angles = view_or_none(*(row[column] for column in ANGLES)) or ("", "")
            known[row["case_id"]] = {name: row[name] for name in WHO} | dict(zip(ANGLES, angles, strict=True))
    if lacking := [name for name in names if name not in known]:
        raise UserError(f"{path}: no row for case '{lacking[0]}' ({len(lacking)} in all)")
    return known
