"""The comparison as people read it: what the stages of both arms wrote, as HTML and Markdown.

Sentences are made in wording.py and pictures in figures.py and overlays.py; templates/ only lay them out.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure
from pydantic import BaseModel

from nightshift.reporting import figures
from nightshift.reporting import overlays
from nightshift.reporting import text as wording
from nightshift.console.errors import UserError
from nightshift.evaluation.measures import DISTANCES, MEASURES
from nightshift.reporting.load import ANGLES, CURVES, LABELS, STEPS, ArmResults, Row, read_record, read_table
from nightshift.config.params import Settings
from nightshift.reporting.significance import by_unit, per_case, units

NAMES = dict(zip(MEASURES, ("Dice", "IoU", "clDice", "HD95", "Precision", "Recall", "Surface distance"), strict=True))
SUSPECTS = {"lora_wrapper": "LoRA wrapper", "data_parallel": "DataParallel"}
PROBE = Path("reports/probe")


@dataclass(frozen=True)
class About:
    """What is compared, in a line, how to do it again, and what only a run of the pipeline has.

    `notes`: what else could be wrong with the comparison; `matrix`: the probe's picture as a data URI; `settings`: the
    text of each file.
    """

    what: str
    commands: list[str]
    notes: list[str] = field(default_factory=list)
    probe: Row | None = None
    probe_cases: list[Row] = field(default_factory=list)
    matrix: str = ""
    versions: Row = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


def about_run(chosen: Settings, arms: dict[str, ArmResults], notes: Sequence[str] = ()) -> About:
    """With `notes` among its limits. Raises UserError for a file that is missing or is not what its stage writes."""
    return About(
        what=f"Encoder {chosen.use.encoder}, data {chosen.use.data}.",
        commands=commands(arms),
        notes=[*notes, *wording.left_out(read_record("reports/skipped.json", "total", "skipped"))],
        probe=read_record(PROBE / "verdict.json", "torch", "sam3", "hypotheses"),
        probe_cases=read_table(PROBE / "cases.csv", (), ("case", "outcome", "cause")),
        matrix=_picture(PROBE / "matrix.svg"),
        versions=read_record("reports/env.json"),
        settings={
            "params.yaml": _yaml(chosen),
            f"conf/encoder/{chosen.use.encoder}.yaml": _yaml(chosen.preset),
            f"conf/data/{chosen.use.data}.yaml": _yaml(chosen.data),
        },
    )


def contents(arms: dict[str, ArmResults], summary: Row, panels: list[Row], about: About) -> Row:
    """All that the templates show, as text, lists of text and pictures; summary: as comparison.py makes it."""
    cases = [arm.cases for arm in arms.values()]
    dice, level, measures = dice_by_case(arms), summary["level"], summary["measures"]
    head, rest = wording.answer(measures["dice"], summary["verdict"], summary["patients_needed"], arms, level)
    ablations = wording.ablation_rows(arms, level)
    return {
        "about": about,
        "head": head,
        "rest": rest,
        "interval": wording.interval(measures["dice"]["interval"]),
        "random_weights": any(card["weights"]["path"] == "random" for arm in arms.values() for card in arm.cards),
        "limits": [*about.notes, *wording.limits(arms, level)],
        "units": units(cases[0]),
        "confidence": f"{100 * (1 - level):g} %",
        "measures": [_measure(name, measures[name]) for name in MEASURES],
        "millimetres": [_measure(name, found) for name, found in summary["millimetres"].items()],
        "arms": {LABELS[name]: arm for name, arm in arms.items()},
        "suspects": {
            SUSPECTS.get(name, name.replace("_", " ").capitalize()): one
            for name, one in (about.probe or {"hypotheses": {}})["hypotheses"].items()
        },
        "curves": {
            figures.CURVES[column]: figures.svg_uri(curves(arms, [column]))
            for column in CURVES
            if all(arm.curves for arm in arms.values())
        },
        "wins": wording.wins(*dice),
        "scatter": figures.svg_uri(figures.paired(*(np.array(list(one.values())) for one in dice))),
        "every_case": figures.svg_uri(figures.dumbbells(*dice, "test case")),
        "patients": _by_patient(*cases),
        "view_map": _view_map(cases[0], *dice),
        "view_rows": wording.view_rows(*cases),
        "group_rows": wording.group_rows(*cases),
        "panels": panels,
        "fills": {text: overlays.FILLS.get(name, (255, 255, 255)) for name, text in overlays.MEANINGS.items()},
        "ablations": ablations,
        "ablation_plot": figures.svg_uri(figures.ablations(ablations)) if ablations else "",
        "costs": wording.cost_rows(arms),
        "runs": runs(arms),
    }


def dice_by_case(arms: dict[str, ArmResults]) -> list[dict[str, float]]:
    """Of each arm, by case id: the mean over seeds."""
    return [per_case(arm.cases, "dice") for arm in arms.values()]


def curves(arms: dict[str, ArmResults], columns: list[str]) -> Figure:
    """Both arms' training, a panel per column of CURVES."""
    chosen = {name: {card["seed"]: card["epoch"] for card in arm.cards} for name, arm in arms.items()}
    return figures.curves({name: arm.curves for name, arm in arms.items()}, chosen, columns)


def _by_patient(frozen: list[Row], lora: list[Row]) -> str:
    """A picture; none where each patient is one case, since that is every_case."""
    means = [
        {name if kind == "patient" else f"case {name}": dice for (kind, name), dice in by_unit(rows, "dice").items()}
        for rows in (frozen, lora)
    ]
    alone = len(means[0]) == len({row["case_id"] for row in frozen})
    return "" if alone else figures.svg_uri(figures.dumbbells(*means, "patient"))


def _view_map(rows: list[Row], frozen: dict[str, float], lora: dict[str, float]) -> str:
    """A picture; none where no case has angles."""
    views = {row["case_id"]: tuple(float(row[name]) for name in ANGLES) for row in rows if row[ANGLES[0]] != ""}
    deltas = np.array([lora[case] - frozen[case] for case in views])
    return figures.svg_uri(figures.by_view(list(views.values()), deltas)) if views else ""


def runs(arms: dict[str, ArmResults]) -> list[tuple[str, str, str]]:
    """(stages, revision, machine), stages that ran alike in one row."""
    alike: dict[tuple[str, str], list[str]] = {}
    for step in STEPS:
        for name, arm in arms.items():
            if cost := arm.costs.get(step):
                machine = ", ".join(f"{key} {value}" for key, value in cost["machine"].items())
                alike.setdefault((cost["revision"], machine), []).append(f"{step}_{name}")
    return [(", ".join(stages), revision, machine) for (revision, machine), stages in alike.items()]


def commands(arms: dict[str, ArmResults]) -> list[str]:
    """Lines for a shell that make the numbers again, revision by revision; `+` (uncommitted changes) is left out."""
    stages: dict[str, list[str]] = {}
    for names, revision, _ in runs(arms):
        stages.setdefault(revision.removesuffix("+"), []).append(names.replace(",", ""))
    edited = any(revision.endswith("+") for _, revision, _ in runs(arms))
    lines = ["# there were uncommitted changes: set params.yaml and conf/ as below, too"] if edited else []
    for revision, names in stages.items():
        lines += [f"git checkout {revision}"] if revision != "unknown" else []
        lines.append("dvc repro" if len(stages) == 1 else f"dvc repro {' '.join(names)}")
    return lines


def _measure(name: str, found: Row) -> tuple[str, ...]:
    """Name, both arms, difference, interval, p, p by Holm (empty in millimetres)."""
    measure, in_mm, _ = name.partition("_mm")
    label = NAMES[measure] + (f", {'mm' if in_mm else 'px'} (lower is better)" if measure in DISTANCES else "")
    means = (f"{found['frozen']:.3f}", f"{found['lora']:.3f}", f"{found['delta']:+.3f}")
    ps = (
        wording.p_value(found[key]).removeprefix("p ").removeprefix("= ") if key in found else ""
        for key in ("p", "p_holm")
    )
    return label, *means, wording.interval(found["interval"]), *ps


def _picture(path: Path) -> str:
    try:
        return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError:
        raise UserError(f"{path}: no such file yet; `dvc repro` makes it") from None


def _yaml(settings: BaseModel) -> str:
    return yaml.safe_dump(settings.model_dump(exclude_none=True), sort_keys=False)


def _markdown(text: Any) -> Markup:
    """Text that Markdown takes for text: its signs escaped, and those of HTML too."""
    plain = html.escape(" ".join(str(text).split()), quote=False)
    return Markup(re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", plain))  # noqa: S704


def render(template: str, values: Row) -> str:
    """templates/TEMPLATE with `values`; everything is escaped, a name that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": _markdown, "jpeg": figures.jpeg_uri}
    return environment.get_template(template).render(values)
