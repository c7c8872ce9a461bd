"""Learning curves as one HTML page that needs no network, and as a CSV."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from nightshift.core.io import write_text
from nightshift.core.tables import write_table
from nightshift.reporting import figures
from nightshift.reporting.figures_learning_curve import learning_curves as drawn
from nightshift.reporting.learning_curve import LearningCurves
from nightshift.reporting.render import render
from nightshift.reporting.styles import styles, variables
from nightshift.reporting.text_learning_curve import sentences

DELTA = ("delta", "delta_low", "delta_high")


def write(curves: LearningCurves, runs: Mapping[int, str], notes: list[str], folder: Path) -> list[str]:
    """Write learning-curve.html and learning-curve.csv; returns the sentences on when arms pay.

    Args:
        curves: the numbers.
        runs: where each came from, by number of training patients.
        notes: sentences that belong on top, as that weights are random.
        folder: where to write.
    """
    frame, said = table(curves), sentences(curves)
    write_table(folder / "learning-curve.csv", frame)
    values = {
        "sentences": said,
        "notes": notes,
        "figure": figures.svg_uri(drawn(curves)),
        "rows": frame.astype(object).where(frame.notna(), None).to_dict("records"),
        "runs": runs,
        "styles": list(styles(curves.arms).values()),
        "fitted": curves.fitted is not None,
        "test_patients": curves.test_patients,
        "confidence": f"{100 * (1 - curves.level):g} %",
        "variables": variables,
    }
    write_text(folder / "learning-curve.html", render("learning-curve.html.j2", values))
    return said


def table(curves: LearningCurves) -> pd.DataFrame:
    """A row for each number of training `patients`, and one for the largest that is extrapolated to.

    Of each arm `ARM.dice` with its interval `ARM.low` to `ARM.high`, and the fitted `ARM.fitted`; of all but the
    reference `ARM.delta`, fitted, with its simultaneous band `ARM.delta_low` to `ARM.delta_high`.
    """
    measured, parts = curves.points.set_index("patients"), []
    for arm in curves.arms:
        parts.append(measured.loc[measured["arm"] == arm, ["dice", "low", "high"]].add_prefix(f"{arm}."))
        if curves.fitted is not None:
            last = [*curves.numbers, curves.fitted.index[-1]]
            parts.append(curves.fitted.loc[last, [arm]].set_axis([f"{arm}.fitted"], axis=1))
        if arm in curves.band:
            parts.append(curves.band[arm].loc[last].set_axis([f"{arm}.{end}" for end in DELTA], axis=1))
    frame = pd.concat(parts, axis=1).rename_axis("patients").reset_index()
    return frame.assign(extrapolated=frame["patients"] > curves.numbers[-1])
