"""Numbers as the report shows them: intervals, p values, ratios, durations and memory that was measured."""

import math


def interval(ends: list[float] | None) -> str:
    """`[0.121, 0.163]`, or `unbounded`. An end near 0 gets more digits: on which side of 0 it lies decides."""
    if not ends:
        return "unbounded"
    return "[{}, {}]".format(*(f"{end:.1g}" if 0 < abs(end) < 0.0005 else f"{end:.3f}" for end in ends))


def p_value(p: float) -> str:
    """`p < 0.001`, `p = 0.0123`, `p = 0.70`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.4f}" if p < 0.1 else f"p = {p:.2f}"


def p_cell(p: float) -> str:
    """As `p_value`, for a table's cell: `< 0.001`, `0.0123`; empty for NaN."""
    return "" if math.isnan(p) else p_value(p).removeprefix("p ").removeprefix("= ")


def ratio(a: float | None, b: float | None) -> str:
    """b over a, as `2.7x`; `-` where there is none."""
    return "-" if not a or b is None else "<0.1x" if b / a < 0.05 else f"{b / a:.1f}x"


def duration(seconds: float) -> str:
    """`12.3 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def millions(n: int) -> str:
    """`0.15 M`; fewer than 100,000 as they are."""
    return f"{n / 1e6:.2f} M" if n >= 1e5 else f"{n:,}"


def gibibytes(size: float) -> str:
    """Bytes in units of 2^30, as `1.02 GiB`."""
    return f"{size / 2**30:.2f} GiB"
