"""A trained arm on the test cases: how well its mask fits, and what it loses without the right view or the encoder.

The model sees the frame as a square; its vessel map goes back through the exact inverse (nightshift/data/letterbox.py) and is
measured at the frame's own size. Threshold and epoch come from the card, that is from validation.
"""

import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nightshift.engine import checkpoints
from nightshift.jobs import resources as cost
from nightshift.backbone import encoder
from nightshift.model.segmentation import MODELS, Arm, angles_of
from nightshift.data.dataset import PREPARED, SPACING, Cases, free_name
from nightshift.engine.device import device, seed_everything
from nightshift.console.errors import UserError
from nightshift.core.io import read_json, replacing, write_csv, write_json
from nightshift.data.letterbox import frame_to_square, square_to_frame
from nightshift.evaluation.measures import MEASURES, MILLIMETRES, all_metrics, millimetres
from nightshift.console.progress import bar
from nightshift.config.params import ArmName, ArmSettings, Settings
from nightshift.carm import FAR, Angles, apart

WHO = ("seed", "case_id", "patient_id", "primary_angle", "secondary_angle")
COLUMNS = (*WHO, *MEASURES)
ABLATIONS = ("seed", "case_id", "patient_id", "ablation", "dice")
FULL = 2**16 - 1  # a vessel map's 1: maps are kept as 16-bit pictures, and masks are cut from what is kept


class Vessels:
    """Vessel maps of one frame (H, W) by an arm; trunk and neck run once, whatever is asked about the view."""

    def __init__(self, arm: Arm, frame: np.ndarray, resolution: int) -> None:
        self.arm, self.size = arm, frame.shape
        self.image = frame_to_square(frame, resolution)[None].to(device())
        with torch.no_grad():
            self.features = arm.features(None, self.image)
            self.levels = arm.levels(self.features)

    @torch.no_grad()
    def map(self, angles: Angles, tokens: bool = True) -> np.ndarray:
        """(H, W) uint16, FULL is 1. Without `tokens` the trunk's are all their mean: they no longer say where."""
        levels = self.levels if tokens else self.arm.levels(_averaged(self.features))
        logits = self.arm(None, torch.tensor([angles], device=device()), self.image, levels)
        vessel = square_to_frame(logits.sigmoid()[0, 0].cpu(), *self.size)
        return (vessel.double() * FULL).round().numpy().astype(np.uint16)


def _averaged(features: Tensor) -> Tensor:
    """(B, D, g, g), every token the mean of all. Before the neck, which could tell tokens apart."""
    return features.mean((2, 3), keepdim=True).expand_as(features)


def cut(vessels: np.ndarray, threshold: float) -> np.ndarray:
    """The mask, (H, W) bool, of a map as `Vessels` makes it."""
    return vessels > threshold * FULL


def evaluate(
    arm: Arm,
    cases: Cases,
    settings: Settings,
    card: dict[str, Any],
    pictures: Path,
    progress: Callable[[Iterable], Iterable],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row (COLUMNS) per case at the card's threshold, and one (ABLATIONS) per case and ablation.

    After COLUMNS come MILLIMETRES, where every case has a spacing, and the cases' groups.
    Maps and masks go to pictures/probability-SEED-NNNNN.png and prediction-SEED-NNNNN.png.
    """
    rows, ablated, seed = [], [], card["seed"]
    spaced = all(row.get(SPACING[0]) for row in cases.rows)
    for i in progress(range(len(cases))):
        case = cases[i]
        angles, vessels = angles_of(case, settings.view.mode), Vessels(arm, case.frame, settings.resolution)
        found = vessels.map(angles)
        mask = cut(found, card["threshold"])
        Image.fromarray(found).save(pictures / f"probability-{seed}-{i:05d}.png")
        _save(mask, pictures / f"prediction-{seed}-{i:05d}.png")
        who = dict(zip(WHO, (seed, case.case_id, case.patient_id, *(case.angles or ("", ""))), strict=True))
        known = all_metrics(mask, case.mask) | (millimetres(mask, case.mask, case.spacing) if spaced else {})
        groups = {free_name(name, COLUMNS + MILLIMETRES): value for name, value in case.groups.items()}
        rows.append(who | known | groups)
        asked = {"no_tokens": (angles, False)}
        if case.angles is not None:
            asked |= {"zero_angles": ((0.0, 0.0), True)}
            if (elsewhere := wrong_angles(cases, i)) is not None:
                asked |= {"wrong_angles": (elsewhere, True)}
        for name, (seen, tokens) in asked.items():
            dice = all_metrics(cut(vessels.map(seen, tokens), card["threshold"]), case.mask)["dice"]
            ablated.append({key: who[key] for key in ABLATIONS[:3]} | {"ablation": name, "dice": dice})
    return rows, ablated


def wrong_angles(cases: Cases, i: int) -> Angles | None:
    """The angles of another case at least FAR degrees away, always the same one; None where there is none.

    None too where case i has no angles itself: any could be its own.
    """
    views = [_known(row) for row in cases.rows]
    own = views[i]
    far = [view for view in views if view is not None and own is not None and apart(view, own) >= FAR]
    return random.Random(i).choice(far) if far else None  # noqa: S311, no secret


def _known(row: dict[str, str]) -> Angles | None:
    return (float(row["primary_angle"]), float(row["secondary_angle"])) if row["primary_angle"] else None


def write_pictures(cases: Cases, pictures: Path) -> None:
    """frame-NNNNN.png and truth-NNNNN.png per case. Numbered: a case id is never used as a path."""
    for i in range(len(cases)):
        case = cases[i]
        Image.fromarray(case.frame).save(pictures / f"frame-{i:05d}.png")
        _save(case.mask, pictures / f"truth-{i:05d}.png")


def _save(mask: np.ndarray, path: Path) -> None:
    Image.fromarray((mask > 0).astype(np.uint8) * 255).save(path)


def means(rows: list[dict[str, Any]]) -> dict[str, float | int]:
    """Means over cases and seeds, and how many cases and patients (cases without a patient count as one each)."""
    unique = {r["case_id"]: r["patient_id"] or ("case", r["case_id"]) for r in rows}
    return {m: round(float(np.mean([r[m] for r in rows])), 6) for m in MEASURES} | {
        "cases": len(unique),
        "patients": len(set(unique.values())),
    }


def evaluate_arm(name: ArmName, settings: Settings, merge: Callable[[encoder.ViT, Path], Any]) -> None:
    """Every model of the arm on the test cases -> reports/evaluation/NAME."""
    cases, out = Cases(PREPARED / "test"), Path("reports/evaluation") / name
    checkpoints.tidy(f"train_{name}", MODELS / name)
    rows: list[dict[str, Any]] = []
    ablated: list[dict[str, Any]] = []
    with cost.recorded(f"evaluate_{name}") as record, replacing(out / "pictures") as pictures:
        seed_everything(0)
        pictures.mkdir()
        write_pictures(cases, pictures)
        start = time.perf_counter()
        for model in sorted((MODELS / name).iterdir()):
            card = read_json(model / "card.json")
            arm = open_arm(model, settings, merge)
            progress = bar(f"evaluate {name}, seed {card['seed']}", "case")
            for found, more in zip(
                (rows, ablated), evaluate(arm, cases, settings, card, pictures, progress), strict=True
            ):
                found += more
        record |= {"cases": len(cases), "cases_per_second": round(len(rows) / (time.perf_counter() - start), 3)}
    write_csv(out / "cases.csv", tuple(rows[0]), rows)
    write_csv(out / "ablations.csv", ABLATIONS, ablated)
    write_json(out / "metrics.json", means(rows))
    print(f"{name} arm on {len(cases)} test cases: {out.as_posix()}")


def open_arm(model: Path, settings: Settings | ArmSettings, merge: Callable[[encoder.ViT, Path], Any]) -> Arm:
    """The trained arm in models/ARM/seed-N, ready to be asked; `merge` puts what lies there into the trunk's weights.

    Raises UserError for a head that is missing, damaged or of another encoder, and as `encoder.configured` does.
    """
    neck = encoder.configured(settings, merge=lambda trunk: merge(trunk, model))
    arm, head = Arm(neck, settings.preset.depth, settings), model / "head.safetensors"
    try:
        arm.segmenter.load_state_dict(load_file(head))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{head}: not the head of this arm: {str(error).splitlines()[0]}") from None
    return arm.to(device()).eval()


def nothing(trunk: encoder.ViT, model: Path) -> None:
    """What the frozen arm merges."""
