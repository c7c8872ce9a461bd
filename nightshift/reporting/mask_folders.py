"""Folders of predicted masks and one of the truth, paired by the names of their files, as the results of arms."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nightshift.carm import view_or_none
from nightshift.console.errors import UserError
from nightshift.console.progress import bar
from nightshift.core.io import replacing
from nightshift.evaluation.measures import all_measures
from nightshift.ingest.images import mask_picture, paired, picture
from nightshift.ingest.record import error_prefix
from nightshift.ingest.user_table import check_width, read_rows
from nightshift.reporting.load import ANGLES, WHO, ArmResults

Grey = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Who = dict[str, str | float]  # WHO of one case


def read_folders(
    masks: Mapping[str, Path], truth: Path, frames: Path | None, cases: Path | None, pictures: Path
) -> dict[str, ArmResults]:
    """Measure each case at its own size, by arm; the pictures that the report shows go to `pictures`/ARM.

    Args:
        masks: folder of predicted masks by name of the arm.
        truth: folder of true masks.
        frames: folder of frames, for the report's pictures.
        cases: a CSV of WHO, of which the last three may be empty; without it no patients and no angles are known.
        pictures: where to write.

    Raises:
        UserError: a file without its partner, a picture that is no mask or of another size, a case without a row.
    """
    files = paired(truth, *masks.values(), *([frames] if frames else []))
    unknown: dict[str, Who] = {name: _who(name, "", None) for name in files}
    known = _known(cases, list(files)) if cases else unknown
    rows: dict[str, list[dict[str, object]]] = {arm: [] for arm in masks}
    with replacing(pictures) as folder:
        for arm in masks:
            (folder / arm).mkdir(parents=True)
        for i, (name, true, predicted, frame) in enumerate(_read(files, len(masks))):
            for arm, mask in zip(masks, predicted, strict=True):
                rows[arm].append({"fold": 0, "seed": 0, **known[name], **all_measures(mask, true)})
                kept = {"truth": true * 255, "prediction-0": mask * 255} | ({} if frame is None else {"frame": frame})
                for kind, array in kept.items():
                    Image.fromarray(array).save(folder / arm / f"{kind}-{i:05d}.png")
    return {arm: ArmResults(pd.DataFrame(of_arm), pictures / arm) for arm, of_arm in rows.items()}


def _read(files: Mapping[str, list[Path]], arms: int) -> Iterator[tuple[str, Grey, list[Grey], Grey | None]]:
    """Name, truth (H, W), the masks of all arms (H, W), 0 or 1, and the frame (H, W) where there is one."""
    for name, (true, *others) in bar("compare", "case")(files.items()):
        read = [mask_picture(path) for path in (true, *others[:arms])] + [picture(path) for path in others[arms:]]
        for path, array in zip(others, read[1:], strict=True):
            if array.shape != read[0].shape:
                raise UserError(f"{path}: {array.shape} pixels, but the truth {true} has {read[0].shape}")
        yield name, read[0], read[1 : 1 + arms], read[1 + arms] if len(read) > 1 + arms else None


def _who(case: str, patient: str, angles: tuple[float, float] | None) -> Who:
    """WHO of a case, without angles NaN."""
    primary, secondary = angles or (np.nan, np.nan)
    return dict(zip(WHO, (case, patient, primary, secondary), strict=True))


def _known(path: Path, names: list[str]) -> dict[str, Who]:
    """WHO by case, from a CSV. Raises UserError."""
    known = {}
    for where, row in read_rows(path, WHO, "table of cases"):
        with error_prefix(where):
            check_width(row)
            angles = view_or_none(*(row[column] for column in ANGLES))
            known[row["case_id"]] = _who(row["case_id"], row["patient_id"], angles)
    if lacking := [name for name in names if name not in known]:
        raise UserError(f"{path}: no row for case '{lacking[0]}' ({len(lacking)} in all)")
    return known
