"""Cases as text for a terminal, without pandas: for `nightshift probe` beside torch and sam3 alone, too."""

from collections.abc import Sequence

from nightshift.backbone.rope_error import nearest_sizes
from nightshift.probe.cases import ProbeCase
from nightshift.probe.names import CAUSES

SHOWN = ("case", "outcome", "cause", "block", "table_shape", "expected_shape")


def table(cases: Sequence[ProbeCase]) -> str:
    """Cases in columns: case, outcome, cause, block, both shapes."""
    rows = [[_cell(getattr(case, name)) for name in SHOWN] for case in cases]
    lines = [list(SHOWN), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def causes(cases: Sequence[ProbeCase]) -> list[str]:
    """A line for each cause among the cases: what it means, and what cures it."""
    met = dict.fromkeys(case.cause for case in cases)
    return [f"{name}: {CAUSES[name][0]}; cure: {CAUSES[name][1]}" for name in met if name in CAUSES]


def resizes(sizes: Sequence[tuple[int, int]], patch: int) -> list[str]:
    """A line for each size (height, width) with a side that is no multiple of the patch: what to resize it to."""
    lines = []
    for height, width in dict.fromkeys(sizes):
        if height % patch or width % patch:
            rows, columns = nearest_sizes((height, width), patch)
            lines.append(
                f"{height} x {width} px: no multiple of {patch} px; resize or pad to {rows} x {columns} px first"
            )
    return lines


def _cell(value: object) -> str:
    return "" if value is None else str(value)
