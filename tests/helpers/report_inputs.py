"""A small made-up run, as the stages leave it for `compare`, and a reader of the page that it makes."""

import math
import shutil
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from nightshift.config import params
from nightshift.config.kinds import KINDS, TrainedSection
from nightshift.core.io import write_json, write_text
from nightshift.core.records import ArmVerdict, BetweenSets, Cost, Prefix, SimilarFrames
from nightshift.core.tables import write_table
from nightshift.evaluation.measures import CALIBRATION, MEASURES
from nightshift.model.card import Card

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script>"
CASES = (EVIL, "a|b_c", "c", "d", "e", "f", "g", "$x^{$")
PROBED = (
    "case", "encoder", "height", "width", "grid_h", "grid_w", "adapter", "wrapper", "dtype", "table", "outcome",
    "cause", "block", "table_shape", "expected_shape",
)  # fmt: skip
TWO = {"frozen": 0.0, "lora": 0.1}
RELIABILITY = ("low", "high", "probability", "vessel", "pixels")
BINS = [(0.0, 0.25, 0.1, 0.2, 5000), (0.25, 0.5, None, None, 0), (0.5, 0.75, 0.6, 0.5, 300), (0.75, 1, 0.9, 0.7, 700)]
LOST = {"wrong_angles": 0.1, "zero_angles": 0.0, "no_tokens": 0.4}  # Dice that an ablation costs


def make_inputs(
    root: Path, gains: Mapping[str, float | Sequence[float]] = TWO, seconds: Mapping[str, float] | None = None
) -> None:
    """Eight cases below `root`, one patient each, one named as an attack; Dice of each arm is 0.5 + its gain, or more.

    Args:
        root: an empty folder.
        gains: by name of the arm, the reference first; or one for each case, of which there are then as many. The kind
            is that of the name, or lora.
        seconds: to encode, and to train, by arm; by default 10 for the reference and 31 for all others.
    """
    shutil.copytree(ROOT / "conf", root / "conf")
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content["arms"] = {name: {"kind": name if name in KINDS else "lora"} for name in gains}
    content["compare"]["reference"] = reference = next(iter(gains))
    content["train"]["epochs"] = 3
    (root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    settings = params.read(folder=root)
    write_json(root / "reports/settings/compare.json", {"settings": settings.model_dump(mode="json"), "versions": {}})
    for name, gain in gains.items():
        took = (seconds or {}).get(name, 10.0 if name == reference else 31.0)
        make_arm(root, settings, name, gain, took, trained=100_000 if name == reference else 250_000)
    probe = root / "reports/probe"
    because = {"verdict": "refuted", "because": "nothing changed", "cases": ["sam3-1008-peft"]}
    causes = {"grid": {"means": "a table of <another> grid", "cure": "make_real"}, "unmet": {"means": "-", "cure": "-"}}
    verdict = {"torch": "2.15.0", "sam3": "0.1.4", "hypotheses": {"lora_wrapper": because}, "causes": causes}
    write_json(probe / "verdict.json", verdict)
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="9"><rect width="9" height="9"/></svg>'
    write_text(probe / "heatmap.svg", svg)
    probed = [{"case": "sam3-1008-peft", "outcome": "ok"}, {"case": "b", "outcome": "assertion", "cause": "grid"}]
    write_table(probe / "cases.csv", pd.DataFrame([dict.fromkeys(PROBED, "") | row for row in probed]))
    write_json(root / "reports/env.json", {"torch": "2.15.0"})
    write_json(root / "reports/skipped.json", {"total": 9, "skipped": []})
    BetweenSets().write(root / "reports/external.json")
    SimilarFrames(threshold=0.9, cases=0, pairs_across=0, most_alike=[]).write(root / "reports/similar.json")


def make_arm(
    root: Path, settings: params.Settings, name: str, gain: float | Sequence[float], seconds: float, trained: int
) -> None:
    """What the stages of one arm leave; of a vesselness arm that nothing was trained."""
    arm, folder = settings.arm(name), root / "reports/evaluation" / name
    learns = isinstance(arm.arm, TrainedSection)
    gains = [gain + 0.002 * i * gain for i in range(len(CASES))] if isinstance(gain, float | int) else gain
    names = [*CASES, *(f"case-{i}" for i in range(len(gains)))]
    cases = pd.DataFrame(
        [
            {
                "fold": 0,
                "seed": 0,
                "case_id": names[i],
                "patient_id": f"P{i}",
                "primary_angle": -30.0,
                "secondary_angle": 25.0,
            }
            | dict.fromkeys((*MEASURES, *CALIBRATION), 0.5 + 0.01 * i + one)
            for i, one in enumerate(gains)
        ]
    )
    write_table(folder / "cases.csv", cases)
    write_table(folder / "external.csv", cases[:0])
    keys = cases[["fold", "seed", "case_id", "patient_id"]]
    lost = {what: by for what, by in LOST.items() if (arm.arm.has_encoder if "token" in what else arm.arm.uses_view)}
    ablated = [keys.assign(ablation=what, dice=cases["dice"] - by) for what, by in lost.items()]
    write_table(folder / "ablations.csv", pd.concat([keys.assign(ablation="", dice=0.0)[:0], *ablated]))
    write_table(folder / "reliability.csv", pd.DataFrame(BINS, columns=RELIABILITY))
    make_pictures(folder / "pictures", len(cases))
    epochs = [(e, 0.5, 0.1 * e) for e in (1, 2, 3)] if learns else [(0, math.nan, 0.2)]
    curves = [
        {"fold": 0, "seed": 0, "epoch": e, "train_loss": loss, "val_loss": 0.6, "val_dice": d} for e, loss, d in epochs
    ]
    write_table(root / f"reports/curves/{name}.csv", pd.DataFrame(curves))
    card = Card(
        fold=0,
        seed=0,
        epoch=2 if learns else 0,
        learning_rate=0.003,
        tried={},
        threshold=0.5,
        val_dice=0.2,
        data_hash="d4",
        weights={"path": "random" if arm.arm.has_encoder else "none"},
        cases={"train": 9, "val": 8},
        patients=9,
        settings=arm,
    )
    card.write(root / f"models/{name}/fold-0/seed-0/card.json")
    prefix = Prefix(blocks=6) if arm.arm.has_encoder else None
    ArmVerdict(ok=True, prefix=prefix).write(root / f"reports/probe/arms/{name}.json")
    speed = {"seconds_per_epoch": 3.0, "cases_per_second": 7.0} if learns else {}
    for step in ("encode", "train", "evaluate"):
        cost = Cost(
            stage=f"{step}@{name}",
            seconds=seconds,
            peak_memory_bytes=2**30,
            peak_device_memory_bytes=0,
            parameters_trained=trained if learns else 0,
            threads=2,
            machine={"cores": "2"},
            revision="abc123",
            **speed,
        )
        cost.write(root / f"reports/cost/{name}/{step}.json")


def make_pictures(folder: Path, count: int) -> None:
    """Frame, truth and prediction of seed 0, 24 x 32 pixels, of each case."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(random.integers(60, 200, (24, 32), dtype=np.uint8)).save(folder / f"frame-{i:05d}.png")
        for kind, column in (("truth", 10), ("prediction-0", 12)):
            mask = np.zeros((24, 32), np.uint8)
            mask[:, column : column + 5] = 255
            Image.fromarray(mask).save(folder / f"{kind}-{i:05d}.png")


class Tags(HTMLParser):
    """Start tags of a page with their attributes; `unclosed` is empty for a page whose tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.unclosed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "img", "br"):
            self.unclosed.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        """Attributes of every tag of this name."""
        return [attributes for name, attributes in self.tags if name == tag]
