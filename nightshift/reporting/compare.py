"""The comparison of arms: its numbers, and everything that is written about it."""

from collections.abc import Mapping
from pathlib import Path

from nightshift.config.sections import Compare
from nightshift.core.io import write_text
from nightshift.core.tables import write_table
from nightshift.reporting import figures, overlays, render
from nightshift.reporting.about import About
from nightshift.reporting.load import CURVES, ArmResults, reference_first
from nightshift.reporting.model_results import model_results
from nightshift.reporting.summary import measures_table, summarise


def write(arms: Mapping[str, ArmResults], chosen: Compare, about: About, folder: Path) -> None:
    """Write metrics.json, measures.csv, plots/, report.html and report.md, and print the answer.

    Of a run of the pipeline, whose models are known, also models.json.

    Args:
        arms: the results by name.
        chosen: the reference, the level of significance, and the margin of what is recommended.
        about: what is compared, and how to do it again.
        folder: where to write.

    Raises:
        UserError: before anything is written, for cases that differ between arms and pictures that are missing.
    """
    arms = reference_first(arms, chosen.reference)
    comparison = summarise(arms, chosen)
    panels = overlays.panels(arms)
    contents = render.contents(arms, comparison, panels, about, chosen.margin)
    pages = {name: render.render(f"{name}.j2", contents) for name in ("report.html", "report.md")}
    comparison.metrics.write(folder / "metrics.json")
    answer = f"{contents['head']}: {contents['rest']}"
    if all(arm.cards for arm in arms.values()):
        model_results(arms, comparison, about, answer).write(folder / "models.json")
    write_table(folder / "measures.csv", measures_table(comparison))
    if render.has_curves(arms):
        figures.write_png(folder / "plots/curves.png", render.curves(arms, CURVES))
    drawn = render.arm_figures(comparison, chosen.margin) if len(arms) > 2 else {}
    for name, figure in (drawn | render.case_figures(arms) | render.measure_figures(arms, comparison)).items():
        figures.write_png(folder / f"plots/{name}.png", figure)
    figures.write_png(folder / "plots/overlays.png", overlays.overlays(panels))
    for name, text in pages.items():
        write_text(folder / name, text)
    print(answer)
    print(f"report: {(folder / 'report.html').as_posix()}")
