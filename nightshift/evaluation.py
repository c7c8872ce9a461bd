"""A trained arm on the test cases: one probability map per case, at its native size, and how well its mask fits."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from nightshift import checkpoints, cost, encoder
from nightshift.arms import MODELS, Arm, angles_of
from nightshift.cases import PREPARED, Case, Cases
from nightshift.compute import device, seed_everything
from nightshift.files import read_json, replacing, write_csv, write_json
from nightshift.framing import frame_to_square, square_to_frame
from nightshift.metrics import all_metrics
from nightshift.progress import bar
from nightshift.settings import ArmName, Settings

MEASURES = ("dice", "iou", "cldice", "hd95", "precision", "recall")
COLUMNS = ("seed", "case_id", "patient_id", "primary_angle", "secondary_angle", *MEASURES)


def probability(arm: Arm, case: Case, settings: Settings) -> np.ndarray:
    """The vessel map of one frame, (H, W) in [0, 1], from the image through every block of the encoder."""
    image = frame_to_square(case.frame, settings.resolution)[None].to(device())
    angles = torch.tensor([angles_of(case, settings.view.mode)], device=device())
    with torch.no_grad():
        logits = arm(None, angles, image)
    return square_to_frame(logits.sigmoid()[0, 0].cpu(), *case.frame.shape).numpy()


def evaluate(
    arm: Arm,
    cases: Cases,
    settings: Settings,
    card: dict[str, Any],
    pictures: Path,
    progress: Callable[[Iterable], Iterable],
) -> list[dict[str, Any]]:
    """A row (COLUMNS) per case at the card's threshold; the masks go to pictures/prediction-SEED-NNNNN.png."""
    rows = []
    for i in progress(range(len(cases))):
        case = cases[i]
        mask = probability(arm, case, settings) > card["threshold"]
        _save(mask, pictures / f"prediction-{card['seed']}-{i:05d}.png")
        primary, secondary = case.angles or ("", "")
        who = (card["seed"], case.case_id, case.patient_id, primary, secondary)
        rows.append(dict(zip(COLUMNS, who, strict=False)) | all_metrics(mask, case.mask))
    return rows


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


def evaluate_arm(name: ArmName, settings: Settings, open_adapters: Callable[[encoder.ViT, Path], Any]) -> None:
    """Every model of the arm on the test cases -> reports/evaluation/NAME."""
    cases, out = Cases(PREPARED / "test"), Path("reports/evaluation") / name
    checkpoints.tidy(f"train_{name}", MODELS / name)
    rows: list[dict[str, Any]] = []
    with cost.recorded(f"evaluate_{name}"), replacing(out / "pictures") as pictures:
        seed_everything(0)
        pictures.mkdir()
        write_pictures(cases, pictures)
        for model in sorted((MODELS / name).iterdir()):
            card = read_json(model / "card.json")
            arm = Arm(encoder.configured(settings), settings.preset.depth, settings)
            open_adapters(arm.neck.trunk, model)
            arm.segmenter.load_state_dict(load_file(model / "head.safetensors"))
            progress = bar(f"evaluate {name}, seed {card['seed']}", "case")
            rows += evaluate(arm.to(device()).eval(), cases, settings, card, pictures, progress)
    write_csv(out / "cases.csv", COLUMNS, rows)
    write_json(out / "metrics.json", means(rows))
    print(f"{name} arm on {len(cases)} test cases: {out.as_posix()}")
