"""The report's tables as text: what each arm has, and how the others differ from the reference."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from nightshift.carm import FAR, QUADRANTS, quadrant
from nightshift.reporting.load import ANGLES, ArmResults, group_names
from nightshift.reporting.numbers import duration, gibibytes, interval, p_cell, p_value, ratio
from nightshift.reporting.records import Interval
from nightshift.reporting.significance import AblationEffect, Difference, ablation_effect, per_unit
from nightshift.reporting.styles import label, subject
from nightshift.reporting.summary import Comparison
from nightshift.reporting.text_measures import measure_name

Texts = tuple[str, ...]

VALUES = 12  # most values of a group's column; one with more, such as remarks, makes no groups
ABLATIONS = {
    "wrong_angles": f"the angles of another case, at least {FAR:.0f}\u00b0 away",
    "zero_angles": "all angles zero",
    "no_tokens": "the encoder's tokens replaced by their mean",
}


@dataclass(frozen=True)
class MeasureRow:
    """One measure: its name, the means of all arms, and of each arm but the reference the difference and its test."""

    measure: str
    means: list[str]
    differences: list[Texts]  # difference, interval, p, p by Holm


def measure_rows(comparison: Comparison) -> list[MeasureRow]:
    """Every measure; the differences in the order of the arms."""
    return [
        MeasureRow(
            measure_name(measure, comparison),
            [f"{means[measure]:.3f}" for means in comparison.means.values()],
            [_difference(measures[measure]) for measures in comparison.against.values()],
        )
        for measure in comparison.measures
    ]


def _difference(one: Difference) -> Texts:
    return f"{one.delta:+.3f}", interval(one.interval), p_cell(one.p), p_cell(one.p_holm)


@dataclass(frozen=True)
class ArmRow:
    """An arm among all: what it is (`notes`), its Dice, how it stands to the reference and to the best, and its time.

    `against`: difference from the reference, interval, p by Holm, verdict. `from_best`: difference from the best,
    interval, whether it is told from it. Both are empty where an arm would be compared with itself.
    """

    name: str
    notes: str
    dice: str
    against: Texts
    from_best: Texts
    seconds: str


def arm_rows(comparison: Comparison, arms: Mapping[str, ArmResults]) -> list[ArmRow]:
    """Every arm; `seconds` to encode and train."""
    metrics = comparison.metrics
    kinds = {"reference": metrics.reference, "best": comparison.best, "recommended": metrics.recommended}
    rows = []
    for name, arm in arms.items():
        against, from_best = Texts(), Texts()
        if one := metrics.against.get(name):
            delta, ends, *_ = _difference(comparison.against[name]["dice"])
            against = delta, ends, p_cell(one.p_holm), one.verdict
        if name in comparison.from_best:
            delta, ends, *_ = _difference(comparison.from_best[name])
            from_best = delta, ends, "no" if name in comparison.not_told else "yes"
        notes = ", ".join(kind for kind, of in kinds.items() if of == name)
        seconds = "" if arm.seconds is None else duration(arm.seconds)
        rows.append(ArmRow(label(name), notes, f"{metrics.arms[name].dice:.3f}", against, from_best, seconds))
    return rows


@dataclass(frozen=True)
class Row:
    """A row with a column per arm: `values` of all arms, and of each but the reference how it differs from that.

    `cases`: how many it is about, where that is told.
    """

    name: str
    values: list[str]
    differences: list[str]
    cases: str = ""


@dataclass(frozen=True)
class AblationRow:
    """One ablation of one arm: `what` was changed, Dice under it, its change, and a sentence (`words`) on that."""

    what: str
    arm: str
    dice: float
    delta: float
    interval: Interval
    p: str
    words: str

    @property
    def range(self) -> str:
        """The interval as text."""
        return interval(self.interval)


def ablation_rows(arms: Mapping[str, ArmResults], level: float) -> list[AblationRow]:
    """Per ablation and arm a row, where the ablation could be made for that arm."""
    rows = []
    for key, what in ABLATIONS.items():
        for name, arm in arms.items():
            made = arm.ablations[arm.ablations["ablation"] == key] if len(arm.ablations) else arm.ablations
            effect = ablation_effect(arm.cases, made, level)
            if effect is None:
                continue
            mode = arm.cards[0].settings.view.mode if arm.cards else ""
            words = _ablated(key, label(name), effect, float(per_unit(arm.cases, "dice").mean()), mode, level)
            rows.append(AblationRow(what, name, effect.dice, effect.delta, effect.interval, p_value(effect.p), words))
    return rows


def not_ablated(arms: Mapping[str, ArmResults]) -> list[str]:
    """What is said of the arms that were not asked what others were, as they do not use the encoder or the view."""
    made = {name: set(arm.ablations["ablation"]) if len(arm.ablations) else set() for name, arm in arms.items()}
    sentences = []
    for keys, one, several in (
        ({"no_tokens"}, "does not use the encoder", "do not use the encoder"),
        ({"wrong_angles", "zero_angles"}, "does not use the view", "do not use the view"),
    ):
        lacking = [name for name, keys_made in made.items() if not keys & keys_made]
        if len(lacking) < len(arms):
            sentences += [f"{subject(lacking)} {one if len(lacking) == 1 else several}."] if lacking else []
    return sentences


def _ablated(key: str, name: str, effect: AblationEffect, whole: float, mode: str, level: float) -> str:
    """One sentence on what an ablation did to an arm whose Dice is `whole` without it."""
    by = f"{effect.delta:+.3f} Dice {interval(effect.interval)}"
    sure = effect.p < level
    if key == "no_tokens":
        if not sure or effect.delta > 0:
            does = "does better" if sure else "may lose nothing, too few cases to say"
            return f"Without the encoder {name} {does} ({by}): nothing shows that it uses the encoder."
        kept = effect.dice / whole if whole else 0.0
        return f"Without the encoder {name} keeps {kept:.0%} of its Dice ({by}): the rest comes from the tokens."
    given = "Wrong angles" if key == "wrong_angles" else "Angles of zero"
    if not effect.changed:
        why = ", because view.mode is none" if mode == "none" else ""
        return f"{given} change nothing for {name}{why}."
    if not sure:
        return f"{given} make no difference for {name} that these cases could show ({by})."
    if effect.delta > 0:
        return f"{given} make {name} better ({by}): the view does it harm."
    return f"{given} cost {name} {-effect.delta:.3f} Dice ({by}): it uses the view."


def view_rows(cases: Mapping[str, pd.DataFrame]) -> list[Row]:
    """Dice per quadrant of views. Empty without angles.

    Args:
        cases: by arm, the reference first; each mean is over cases and seeds.
    """
    known = next(iter(cases.values())).dropna(subset=list(ANGLES))
    sides = pd.Series([quadrant(*view) for view in zip(*(known[angle] for angle in ANGLES), strict=True)], dtype=object)
    members = {name: set(known["case_id"].to_numpy()[sides.to_numpy() == name]) for name in QUADRANTS}
    return [_dice_of(name, chosen, cases) for name, chosen in members.items() if chosen]


def group_rows(cases: Mapping[str, pd.DataFrame]) -> dict[str, list[Row]]:
    """As `view_rows`, a row per value, for each column of the user's own that has two to VALUES of them.

    A case's group is that of the reference's rows: a column may have come after another arm was evaluated.
    """
    first, tables = next(iter(cases.values())), {}
    for name in group_names(first):
        values = first[name].astype(str)
        if 2 <= values.nunique() <= VALUES:
            order = sorted(values.unique(), key=lambda v: (v == "", v.zfill(8) if v.isdecimal() else v))
            members = {value: set(first["case_id"][values == value]) for value in order}
            tables[name] = [_dice_of(value or "not given", chosen, cases) for value, chosen in members.items()]
    return tables


def _dice_of(what: str, chosen: set[str], cases: Mapping[str, pd.DataFrame]) -> Row:
    dice = [float(rows["dice"][rows["case_id"].isin(chosen)].mean()) for rows in cases.values()]
    differences = [f"{one - dice[0]:+.3f}" for one in dice[1:]]
    return Row(what, [f"{one:.3f}" for one in dice], differences, cases=str(len(chosen)))


def cost_rows(arms: Mapping[str, ArmResults]) -> list[Row]:
    """Per cost a row, ratios to the reference; `-` where an arm has no such cost. Nothing without costs."""
    if not all(arm.costs for arm in arms.values()):
        return []

    def row(name: str, step: str, key: str, show: Callable[[float], str]) -> Row:
        values: list[float | None] = [getattr(arm.costs[step], key) for arm in arms.values()]
        shown = ["-" if value is None else show(value) for value in values]
        return Row(name, shown, [ratio(values[0], other) for other in values[1:]])

    rows = [
        row("Encoding", "encode", "seconds", duration),
        row("Training, all models", "train", "seconds", duration),
        row("of it, learning rates not taken", "train", "seconds_tuning", duration),
        row("Training, an epoch", "train", "seconds_per_epoch", duration),
        row("Training, cases per second", "train", "cases_per_second", lambda n: f"{n:,.1f}"),
        row("Evaluation, all models", "evaluate", "seconds", duration),
        row("Peak memory in training", "train", "peak_memory_bytes", gibibytes),
        row("Peak memory of the GPU in training", "train", "peak_device_memory_bytes", gibibytes),
        row("Parameters trained", "train", "parameters_trained", lambda n: f"{n:,}"),
    ]
    return [one for one in rows if not set(one.values) <= {gibibytes(0), "-"}]
