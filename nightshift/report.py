"""The comparison as people read it: what the stages of both arms wrote, put into words, as HTML and Markdown.

Every sentence and warning is written from the data; templates/ only lays them out.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from pydantic import BaseModel

from nightshift import figures
from nightshift.errors import UserError
from nightshift.figures import LABELS
from nightshift.files import read_csv, read_json
from nightshift.settings import Settings
from nightshift.statistics import FEWEST_UNITS, MEASURES, Row, per_case, unit, units, verdict

ARMS = ("frozen", "lora")
STEPS = ("encode", "train", "evaluate")
ANGLES = ("primary_angle", "secondary_angle")
FEW = 20  # patients; fewer get a warning
NAMES = ("Dice", "IoU", "clDice", "HD95, px (lower is better)", "Precision", "Recall")  # of MEASURES
HEADS = {"lora": "LoRA is better", "frozen": "Frozen is better", "undecided": "Undecided"}
SUSPECTS = {"lora_wrapper": "LoRA wrapper", "data_parallel": "DataParallel"}


@dataclass(frozen=True)
class ArmResults:
    """What the stages of one arm wrote; cards in the order of their seeds, costs by step."""

    cases: list[Row]
    curves: list[Row]
    cards: list[Row]
    costs: dict[str, Row]
    probe: Row
    pictures: Path


def read_arm(arm: str) -> ArmResults:
    """Raises UserError for a file that is missing or is not what its stage writes."""
    folder, cost = Path("reports/evaluation") / arm, ("seconds", "peak_memory_bytes", "machine", "revision")
    cards = [
        read_record(path, "seed", "settings", "data_hash", "weights", "epoch", "threshold", "val_dice")
        for path in Path("models", arm).glob("seed-*/card.json")
    ]
    if not cards:
        raise UserError(f"models/{arm}: no seed-N/card.json in it yet; `dvc repro` makes it")
    cases = read_table(folder / "cases.csv", ("seed", *MEASURES), ("case_id", "patient_id", *ANGLES))
    curves = read_table(f"reports/curves/{arm}.csv", ("seed", "epoch", *figures.CURVES))
    for rows, what in ((cases, folder.as_posix()), (curves, f"reports/curves/{arm}.csv")):
        if {row["seed"] for row in rows} != {card["seed"] for card in cards}:
            raise UserError(f"{what}: not the seeds that models/{arm} has; `dvc repro` makes it anew")
    costs = {step: read_record(f"reports/cost/{step}_{arm}.json", *cost) for step in STEPS}
    costs["train"] = read_record(f"reports/cost/train_{arm}.json", *cost, "parameters_trained")
    return ArmResults(
        cases=cases,
        curves=curves,
        cards=sorted(cards, key=lambda card: card["seed"]),
        costs=costs,
        probe=read_record(f"reports/probe/{arm}.json", "ok", "cause", "cure"),
        pictures=folder / "pictures",
    )


def read_record(path: Path | str, *keys: str) -> Row:
    """A JSON object with at least `keys`. Raises UserError."""
    try:
        record = read_json(path)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}); `dvc repro` makes it anew") from None
    if missing := [key for key in keys if key not in record]:
        raise UserError(f"{path}: no key '{missing[0]}'; `dvc repro` makes it anew")
    return record


def read_table(path: Path | str, numbers: Sequence[str], texts: Sequence[str] = ()) -> list[Row]:
    """Rows of a CSV with `numbers` as finite floats and `texts` as they are. Raises UserError, naming the line."""
    rows: list[Row] = read_csv(path)
    if not rows:
        raise UserError(f"{path}: no rows; `dvc repro` makes it anew")
    if missing := [column for column in (*numbers, *texts) if column not in rows[0]]:
        raise UserError(f"{path}: no column '{missing[0]}'; `dvc repro` makes it anew")
    for line, row in enumerate(rows, start=2):
        for column in numbers:
            try:
                row[column] = float(row[column])
            except (TypeError, ValueError):
                row[column] = math.nan
            if not math.isfinite(row[column]):
                raise UserError(f"{path}: line {line}: {column} is not a finite number; `dvc repro` makes it anew")
    return rows


def contents(chosen: Settings, arms: dict[str, ArmResults], results: dict[str, Row], extremes: list[Row]) -> Row:
    """All that the templates show, as text, lists of text and pictures; results: by measure, from `compare`."""
    dice = {name: np.array(list(per_case(arm.cases, "dice").values())) for name, arm in arms.items()}
    head, rest = answer(results["dice"], arms)
    probe = read_record("reports/probe/verdict.json", "torch", "sam3", "hypotheses")
    return {
        "use": chosen.use,
        "head": head,
        "rest": rest,
        "random_weights": any(card["weights"]["path"] == "random" for arm in arms.values() for card in arm.cards),
        "warnings": warnings(arms),
        "units": units(arms["frozen"].cases),
        "measures": [_measure(name, results[key]) for name, key in zip(NAMES, MEASURES, strict=True)],
        "arms": {LABELS[name]: arm for name, arm in arms.items()},
        "probe": probe,
        "hypotheses": {SUSPECTS.get(k, k.replace("_", " ").capitalize()): v for k, v in probe["hypotheses"].items()},
        "probe_cases": read_table("reports/probe/cases.csv", (), ("case", "outcome", "cause")),
        "curves": {label: figures.svg_uri(curves(arms, [column])) for column, label in figures.CURVES.items()},
        "paired": figures.svg_uri(figures.paired(dice["frozen"], dice["lora"])),
        "wins": f"LoRA has the higher Dice in {int((dice['lora'] > dice['frozen']).sum())} of {len(dice['lora'])} "
        f"test cases, the frozen arm in {int((dice['lora'] < dice['frozen']).sum())}.",
        "panels": extremes,
        "fills": {text: figures.FILLS.get(name, (255, 255, 255)) for name, text in figures.MEANINGS.items()},
        "costs": cost_rows(arms),
        "runs": runs(arms),
        "commands": commands(arms),
        "versions": read_record("reports/env.json"),
        "settings": {
            "params.yaml": _yaml(chosen),
            f"conf/encoder/{chosen.use.encoder}.yaml": _yaml(chosen.preset),
            f"conf/data/{chosen.use.data}.yaml": _yaml(chosen.data),
        },
    }


def curves(arms: dict[str, ArmResults], columns: list[str]) -> Figure:
    """Both arms' training, a panel per column of figures.CURVES."""
    chosen = {name: {card["seed"]: card["epoch"] for card in arm.cards} for name, arm in arms.items()}
    return figures.curves({name: arm.curves for name, arm in arms.items()}, chosen, columns)


def panels(arms: dict[str, ArmResults]) -> list[Row]:
    """Worst, median and best case of each arm, in pictures of its first seed."""
    return figures.extremes(
        {name: arm.cases for name, arm in arms.items()},
        {name: arm.cards[0]["seed"] for name, arm in arms.items()},
        {name: arm.pictures for name, arm in arms.items()},
    )


def answer(dice: Row, arms: dict[str, ArmResults]) -> tuple[str, str]:
    """Who is better, and the rest of the sentence: by how much, how sure, and at what cost."""
    interval = f" {_interval(dice)}" if dice["ci95"] else ""
    numbers = (
        f"Dice {dice['lora']:.3f} with LoRA against {dice['frozen']:.3f} frozen, {dice['delta']:+.3f}{interval}, "
        f"{_p(dice['p'])}, over {units(arms['frozen'].cases)}"
    )
    seconds = {name: arm.costs["encode"]["seconds"] + arm.costs["train"]["seconds"] for name, arm in arms.items()}
    more = arms["lora"].costs["train"]["parameters_trained"] - arms["frozen"].costs["train"]["parameters_trained"]
    parameters = f"{_millions(abs(more))} {'more' if more >= 0 else 'fewer'} parameters"
    cost = (
        f"LoRA took {_ratio(seconds['frozen'], seconds['lora'])} the time to encode and train, and trains {parameters}."
    )
    return HEADS[verdict(dice)], f"{numbers}; {cost}"


def warnings(arms: dict[str, ArmResults]) -> list[str]:
    """What in these data limits the answer."""
    cases = list({row["case_id"]: row for row in arms["frozen"].cases}.values())
    n, found = len({unit(row) for row in cases}), []
    lone, unseen = (sum(row[column] == "" for row in cases) for column in ("patient_id", "primary_angle"))
    if n < FEWEST_UNITS:
        found.append(f"This cannot be decided with {units(cases)}: p < 0.05 needs at least {FEWEST_UNITS}.")
    elif n < FEW:
        found.append(f"The test set has only {units(cases)}: single ones weigh heavily in every mean.")
    if lone:
        found.append(
            f"{lone} of {len(cases)} test cases have no patient id and count as a patient each: if several come from "
            "one patient, p is too small and the interval too narrow."
        )
    if unseen:
        found.append(f"{unseen} of {len(cases)} test cases have no C-arm angles: nothing can be said by view.")
    frozen, lora = (_flat(arm.cards[0]["settings"]) for arm in arms.values())
    unequal = [k for k in frozen.keys() & lora.keys() if frozen[k] != lora[k]]
    if unequal:
        what = ", ".join(f"{k} {frozen[k]} for frozen and {lora[k]} for LoRA" for k in sorted(unequal))
        found.append(f"The arms were not trained alike: {what}.")
    if arms["frozen"].cards[0]["data_hash"] != arms["lora"].cards[0]["data_hash"]:
        found.append("The arms were trained on different data: their data hashes differ.")
    for name, arm in arms.items():
        last = max(row["epoch"] for row in arm.curves)
        if late := [card["seed"] for card in arm.cards if card["epoch"] == last]:
            which = ", ".join(map(str, late))
            found.append(f"{LABELS[name]} was best in its last epoch (seed {which}): it may not be trained out.")
    if all(len(arm.cards) == 1 for arm in arms.values()):
        found.append("Each arm was trained with one seed: how far chance in training moves them is not measured.")
    return found


def _flat(settings: Row, prefix: str = "") -> Row:
    """{"train": {"epochs": 24}} -> {"train.epochs": 24}"""
    flat: Row = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def cost_rows(arms: dict[str, ArmResults]) -> list[tuple[str, str, str, str]]:
    """(what, frozen, LoRA, LoRA / frozen) as text."""
    frozen, lora = (arm.costs for arm in arms.values())

    def row(name: str, step: str, key: str, show: Callable[[float], str]) -> tuple[str, str, str, str]:
        a, b = frozen[step][key], lora[step][key]
        return name, show(a), show(b), _ratio(a, b)

    return [
        row("Encoding", "encode", "seconds", _duration),
        row("Training, all seeds", "train", "seconds", _duration),
        row("Evaluation, all seeds", "evaluate", "seconds", _duration),
        row("Peak memory in training", "train", "peak_memory_bytes", lambda size: f"{size / 2**30:.2f} GiB"),
        row("Parameters trained", "train", "parameters_trained", lambda n: f"{n:,}"),
    ]


def runs(arms: dict[str, ArmResults]) -> list[tuple[str, str, str]]:
    """(stages, revision, machine), stages that ran alike in one row."""
    alike: dict[tuple[str, str], list[str]] = {}
    for step in STEPS:
        for name, arm in arms.items():
            cost = arm.costs[step]
            machine = ", ".join(f"{key} {value}" for key, value in cost["machine"].items())
            alike.setdefault((cost["revision"], machine), []).append(f"{step}_{name}")
    return [(", ".join(stages), revision, machine) for (revision, machine), stages in alike.items()]


def commands(arms: dict[str, ArmResults]) -> list[str]:
    """Lines for a shell that make the numbers again, revision by revision; `+` (uncommitted changes) is left out."""
    stages: dict[str, list[str]] = {}
    for names, revision, _ in runs(arms):
        stages.setdefault(revision.removesuffix("+"), []).append(names.replace(",", ""))
    lines = []
    for revision, names in stages.items():
        lines += [f"git checkout {revision}"] if revision != "unknown" else []
        lines.append("dvc repro" if len(stages) == 1 else f"dvc repro {' '.join(names)}")
    return lines


def _measure(name: str, result: Row) -> tuple[str, ...]:
    return name, f"{result['frozen']:.3f}", f"{result['lora']:.3f}", f"{result['delta']:+.3f}", _interval(result)


def _interval(result: Row) -> str:
    return "[{:.3f}, {:.3f}]".format(*result["ci95"]) if result["ci95"] else "unbounded"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.4f}" if p < 0.1 else f"p = {p:.2f}"


def _ratio(a: float, b: float) -> str:
    return "-" if not a else "<0.1x" if b / a < 0.05 else f"{b / a:.1f}x"


def _millions(n: int) -> str:
    return f"{n / 1e6:.2f} M" if n >= 1e5 else f"{n:,}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def _yaml(settings: BaseModel) -> str:
    return yaml.safe_dump(settings.model_dump(exclude_none=True), sort_keys=False)


def _markdown(text: Any) -> Markup:
    """Text that Markdown takes for text: its signs escaped, and those of HTML too."""
    return Markup(re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", str(escape(" ".join(str(text).split())))))  # noqa: S704


def render(template: str, values: Row) -> str:
    """templates/TEMPLATE with `values`; everything is escaped, a name that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": _markdown, "png": figures.png_uri}
    return environment.get_template(template).render(values)
