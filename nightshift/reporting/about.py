"""What a report is about: the run or the folders that it compares, and how to make its numbers again."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import yaml

from nightshift.config.params import Params, Settings
from nightshift.console.errors import UserError
from nightshift.core.io import read_json
from nightshift.core.records import BetweenSets, SimilarFrames, Skipped
from nightshift.core.tables import AGAIN, read_table
from nightshift.reporting.load import STEPS, ArmResults
from nightshift.reporting.records import ProbeVerdict
from nightshift.reporting.text_limits import left_out, look_alike, masks_apart

PROBE = Path("reports/probe")


@dataclass(frozen=True)
class About:
    """What is compared, in a line, how to do it again, and what only a run of the pipeline has.

    `alerts`: what is wrong with the data, to be said on top. `notes`: what else could be wrong. `unnamed`: both, but no
    case is named. `probe_cases`: rows of
    reports/probe/cases.csv. `heatmap`: their picture, as a data URI. `versions`: of packages. `settings`: the text of
    each file. `sets`: the first data set and the second one.
    """

    what: str
    commands: list[str]
    alerts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    probe: ProbeVerdict | None = None
    probe_cases: pd.DataFrame | None = None
    heatmap: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    sets: BetweenSets = field(default_factory=BetweenSets)


def about_run(chosen: Settings, arms: Mapping[str, ArmResults], notes: Sequence[str] = ()) -> About:
    """What a run of the pipeline is about.

    Args:
        chosen: the settings that were run.
        arms: the results.
        notes: further limits of the comparison.

    Raises:
        UserError: a file is missing, or is not what its stage writes.
    """
    encoder = f"Encoder {chosen.use.encoder}, d" if any(arm.has_encoder for arm in arms.values()) else "D"
    similar, skipped = SimilarFrames.read(Path("reports/similar.json")), Skipped.read(Path("reports/skipped.json"))
    masks = masks_apart(chosen.source)
    return About(
        what=f"{encoder}ata {', second data set '.join(data.name for data in chosen.data.sets)}.",
        commands=commands(arms),
        alerts=look_alike(similar),
        notes=[*notes, *masks, *left_out(skipped)],
        unnamed=[*look_alike(similar, named=False), *masks, *left_out(skipped, named=False)],
        probe=ProbeVerdict.read(PROBE / "verdict.json"),
        probe_cases=read_table(PROBE / "cases.csv", texts=("case", "outcome", "cause")),
        heatmap=_picture(PROBE / "heatmap.svg"),
        versions=_versions(Path("reports/env.json")),
        settings=_settings(chosen),
        sets=BetweenSets.read(Path("reports/external.json")),
    )


def _settings(chosen: Settings) -> dict[str, str]:
    """The text of params.yaml and of the presets, as they were run."""
    values = chosen.model_dump(mode="json", exclude_none=True)
    return {
        "params.yaml": _yaml({name: values[name] for name in Params.model_fields}),
        f"conf/encoder/{chosen.use.encoder}.yaml": _yaml(values["preset"]),
        **{data.file: _yaml(data.source.model_dump(mode="json", exclude_none=True)) for data in chosen.data.sets},
    }


def _yaml(values: object) -> str:
    return yaml.safe_dump(values, sort_keys=False)


def _versions(path: Path) -> dict[str, str]:
    """By package. Raises UserError."""
    try:
        return {str(package): str(version) for package, version in read_json(path).items()}
    except (ValueError, AttributeError):
        raise UserError(f"{path}: not a JSON object; {AGAIN}") from None


def _picture(path: Path) -> str:
    """An SVG as a data URI. Raises UserError."""
    try:
        return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError:
        raise UserError(f"{path}: no such file yet; `dvc repro` makes it") from None


def runs(arms: Mapping[str, ArmResults]) -> list[tuple[str, str, str]]:
    """(stages, revision, machine), stages that ran alike in one row."""
    alike: dict[tuple[str, str], list[str]] = {}
    for step in STEPS:
        for name, arm in arms.items():
            if cost := arm.costs.get(step):
                machine = ", ".join(f"{key} {value}" for key, value in cost.machine.items())
                alike.setdefault((cost.revision, machine), []).append(f"{step}@{name}")
    return [(", ".join(stages), revision, machine) for (revision, machine), stages in alike.items()]


def commands(arms: Mapping[str, ArmResults]) -> list[str]:
    """Lines for a shell that make the numbers again, revision by revision; `+` (uncommitted changes) is left out."""
    stages: dict[str, list[str]] = {}
    for names, revision, _ in runs(arms):
        stages.setdefault(revision.removesuffix("+"), []).append(names.replace(",", ""))
    edited = any(revision.endswith("+") for _, revision, _ in runs(arms))
    lines = ["# there were uncommitted changes: set params.yaml and conf/ as below, too"] if edited else []
    for revision, of_revision in stages.items():
        lines += [f"git checkout {revision}"] if revision != "unknown" else []
        lines.append("dvc repro" if len(stages) == 1 else f"dvc repro {' '.join(of_revision)}")
    return lines
