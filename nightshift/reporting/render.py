"""The comparison as HTML and Markdown: what the templates show, and how they are filled in.

Sentences are made in text*.py and pictures in figures*.py and overlays.py; templates/ only lay them out.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from nightshift.core.templates import templates
from nightshift.reporting import (
    figures,
    figures_cases,
    figures_measures,
    overlays,
    styles,
    text,
    text_external,
    text_measures,
    text_tables,
    text_variation,
)
from nightshift.reporting.about import About, runs
from nightshift.reporting.load import ANGLES, CURVES, ArmResults
from nightshift.reporting.overlays import Panel
from nightshift.reporting.significance import per_case, per_unit, units
from nightshift.reporting.styles import Style, inside
from nightshift.reporting.summary import Comparison
from nightshift.reporting.text_limits import limits, not_alike
from nightshift.reporting.text_tables import Texts

SUSPECTS = {"lora_wrapper": "LoRA wrapper", "data_parallel": "DataParallel"}


@dataclass(frozen=True)
class Pair:
    """An arm against the reference: title, a sentence on the cases, and pictures as data URIs, empty where none."""

    title: str
    style: Style
    wins: str
    every_case: str
    patients: str
    scatter: str
    view_map: str


def contents(
    arms: Mapping[str, ArmResults], comparison: Comparison, panels: Sequence[Panel], about: About, margin: float
) -> dict[str, object]:
    """All that the templates show, as text, lists of text and pictures.

    Args:
        arms: the results, the reference first.
        comparison: their numbers.
        panels: the pictures of test cases.
        about: what is compared, and how to do it again.
        margin: as compare.margin.
    """
    shown, cases = styles.styles(arms), {name: arm.cases for name, arm in arms.items()}
    names, level = list(arms), comparison.metrics.level
    head, rest = text.answer(comparison, arms, margin)
    ablations = text_tables.ablation_rows(arms, level)
    several = len(arms) > 2
    pairs = [_pair(shown[names[0]], shown[name], arms, several=several) for name in names[1:]]
    probed = about.probe.hypotheses if about.probe else {}
    return {
        "about": about,
        "title": text.title(names),
        "head": head,
        "rest": rest,
        "random_weights": text.random_weights(arms),
        "alerts": [*about.alerts, *not_alike(arms)],
        "limits": [*about.notes, *limits(arms, level)],
        "units": units(cases[names[0]]),
        "confidence": f"{100 * (1 - level):g} %",
        "styles": list(shown.values()),
        "light": styles.variables(dark=False),
        "dark": styles.variables(dark=True),
        "signs": {style.css: style.sign for style in shown.values()},
        "arms": {style.label: arms[name] for name, style in shown.items()},
        "heads": [style.label for style in shown.values()],
        "all_names": styles.in_words(style.inside for style in shown.values()),
        "several_seeds": any(len(arm.cards) > 1 for arm in arms.values()),
        "reference": shown[names[0]].inside,
        "best": shown[comparison.best].inside,
        "measures": text_tables.measure_rows(comparison),
        "tested": len(comparison.tested),
        "external_rows": text_external.external_rows(comparison, arms, about.sets),
        "external_words": text_external.external_words(comparison, arms, about.sets),
        "external_measures": text_tables.measure_rows(comparison.external) if comparison.external else [],
        "external_units": units(next(iter(arms.values())).external) if comparison.external else "",
        "variation_rows": text_variation.variation_rows(comparison, arms),
        "variation_words": text_variation.variation_words(comparison, arms),
        "calibration": text_measures.calibration(arms, comparison),
        "measure_plots": {name: figures.svg_uri(one) for name, one in measure_figures(arms, comparison).items()},
        "unbounded": any(one.interval is None for of in comparison.against.values() for one in of.values()),
        "arm_rows": text_tables.arm_rows(comparison, arms) if several else [],
        "margin": f"{margin:g}",
        "arm_plots": [figures.svg_uri(one) for one in arm_figures(comparison, margin).values()] if several else [],
        "rope_answers": text.rope_answers(arms),
        "suspects": {SUSPECTS.get(name, name.replace("_", " ").capitalize()): one for name, one in probed.items()},
        "causes": _causes(about),
        "probe_columns": [] if about.probe_cases is None else [str(one) for one in about.probe_cases.columns],
        "probe_rows": [] if about.probe_cases is None else list(about.probe_cases.itertuples(index=False, name=None)),
        "curves": {figures.CURVES[c]: figures.svg_uri(curves(arms, [c])) for c in CURVES if has_curves(arms)},
        "not_trained": text.not_trained(arms),
        "pairs": pairs,
        "wins": " ".join(pair.wins for pair in pairs),
        "view_rows": text_tables.view_rows(cases),
        "group_rows": text_tables.group_rows(cases),
        "panels": panels,
        "fills": {meaning: overlays.FILLS.get(name, overlays.WHITE) for name, meaning in overlays.MEANINGS.items()},
        "ablations": ablations,
        "not_ablated": text_tables.not_ablated(arms),
        "css": {name: style.css for name, style in shown.items()},
        "labels": {name: style.label for name, style in shown.items()},
        "ablation_plot": figures.svg_uri(figures.ablations(ablations, shown)) if ablations else "",
        "costs": text_tables.cost_rows(arms),
        "runs": runs(arms),
    }


def has_curves(arms: Mapping[str, ArmResults]) -> bool:
    """Whether there is something for `curves` to draw."""
    return any(arm.trained for arm in arms.values())


def curves(arms: Mapping[str, ArmResults], columns: Sequence[str]) -> Figure:
    """The training of all arms that are trained, a panel per column of CURVES."""
    shown = styles.styles(arms)
    trained = {shown[name]: arm for name, arm in arms.items() if arm.trained}
    chosen = {style: {(card.fold, card.seed): card.epoch for card in arm.cards} for style, arm in trained.items()}
    return figures.curves({style: arm.curves for style, arm in trained.items()}, chosen, columns)


def arm_figures(comparison: Comparison, margin: float) -> dict[str, Figure]:
    """By name of the file, every arm with its interval: Dice, how far from the reference, how far from the best."""
    shown, metrics = styles.styles(comparison.means), comparison.metrics
    reference, best = (figures.short(inside(name), 20) for name in (metrics.reference, comparison.best))
    dice = {shown[name]: (one.dice, one.ci95) for name, one in metrics.arms.items()}
    against = {shown[name]: (of["dice"].delta, of["dice"].interval) for name, of in comparison.against.items()}
    from_best = {shown[name]: (one.delta, one.interval) for name, one in comparison.from_best.items()}
    what = f"Dice, difference from {best}, the best (dashed: -{margin:g})"
    return {
        "arms": figures.all_arms(dice, "Dice, mean over patients"),
        "arms-from-reference": figures.all_arms(against, f"Dice, difference from {reference}", [0]),
        "arms-from-best": figures.all_arms(from_best, what, [0, -margin]),
    }


def measure_figures(arms: Mapping[str, ArmResults], comparison: Comparison) -> dict[str, Figure]:
    """By name of the file: `reliability`, and `calibre`, where they are known."""
    shown, found = styles.styles(arms), {}
    if text_measures.calibration(arms, comparison):
        labels = {
            style: f"{figures.short(style.label, 20)}: {text_measures.errors(comparison.means[name])}"
            for name, style in shown.items()
        }
        bins = {style: arms[name].reliability for name, style in shown.items()}
        found["reliability"] = figures_measures.reliability(bins, labels)
    if recalls := text_measures.recalls(arms, comparison):
        found["calibre"] = figures_measures.recall_by_calibre(recalls, list(shown.values()))
    return found


def case_figures(arms: Mapping[str, ArmResults]) -> dict[str, Figure]:
    """By name of the file: every test case, each arm against the reference; `cases` where there is one such arm."""
    reference, *others = styles.styles(arms).values()
    dice = {name: per_case(arm.cases, "dice") for name, arm in arms.items()}
    return {
        "cases" if len(others) == 1 else f"cases-{other.name}": figures_cases.dumbbells(
            (reference, other), dice[reference.name], dice[other.name], "test case"
        )
        for other in others
    }


def _pair(reference: Style, other: Style, arms: Mapping[str, ArmResults], *, several: bool) -> Pair:
    """Sentence and pictures of one arm against the reference."""
    pair, cases = (reference, other), {style.name: arms[style.name].cases for style in (reference, other)}
    dice = {name: per_case(rows, "dice") for name, rows in cases.items()}
    a, b = dice[reference.name], dice[other.name]
    first = cases[reference.name]
    views = first.dropna(subset=list(ANGLES)).drop_duplicates("case_id").set_index("case_id")[list(ANGLES)]
    deltas = (b - a)[views.index].to_numpy()
    view_map = (
        figures_cases.by_view(pair, list(views.itertuples(index=False, name=None)), deltas) if len(views) else None
    )
    return Pair(
        title=f"{other.label} against {reference.inside}" if several else "",
        style=other,
        wins=text.wins(reference.name, other.name, dice),
        every_case=figures.svg_uri(figures_cases.dumbbells(pair, a, b, "test case")),
        patients=_by_patient(pair, arms),
        scatter=figures.svg_uri(figures_cases.paired(pair, a.to_numpy(), b.to_numpy())),
        view_map=figures.svg_uri(view_map) if view_map else "",
    )


def _by_patient(pair: figures_cases.Pair, arms: Mapping[str, ArmResults]) -> str:
    """A picture; none where each patient is one case, since that is every_case."""
    means = [per_unit(arms[style.name].cases, "dice") for style in pair]
    if len(means[0]) == arms[pair[0].name].cases["case_id"].nunique():
        return ""
    a, b = (one.rename(lambda unit: str(unit).removeprefix("patient ")) for one in means)
    return figures.svg_uri(figures_cases.dumbbells(pair, a, b, "patient"))


def _causes(about: About) -> list[Texts]:
    """(cause, what it means, what cures it) of the causes that the probe met."""
    if about.probe is None or about.probe_cases is None:
        return []
    met = set(about.probe_cases["cause"])
    return [(name, one.means, one.cure) for name, one in about.probe.causes.items() if name in met]


def _markdown(value: object) -> Markup:
    """Text that Markdown takes for text: its signs escaped, and those of HTML too."""
    plain = html.escape(" ".join(str(value).split()), quote=False)
    return Markup(re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", plain))  # noqa: S704


def _unbroken(value: str) -> str:
    """Text whose intervals, as [0.1, 0.2], are not broken across lines."""
    return re.sub(r"\[[^\]]*\]", lambda match: match.group().replace(" ", "\u00a0"), value)


def _cells(values: Iterable[object]) -> Markup:
    """Cells of a row of a Markdown table, escaped."""
    return Markup(" | ").join(_markdown(value) for value in values)


def render(template: str, values: Mapping[str, object]) -> str:
    """templates/TEMPLATE with `values`; everything is escaped, a name that is missing is an error."""
    environment = templates(Path(__file__).parent / "templates")
    environment.filters |= {
        "md": _markdown,
        "cells": _cells,
        "jpeg": figures.jpeg_uri,
        "unbroken": _unbroken,
    }
    return environment.get_template(template).render(values)
