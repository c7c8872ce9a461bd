"""What the probe's cases say: the four hypotheses, the contradictory fixes, the causes and the sizes to use.

Frames of cases have the columns of `cases.ProbeCase`, as `frame_of` makes them.
"""

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from nightshift.backbone.full_size import EncoderSize
from nightshift.core.records import Record
from nightshift.probe.cases import COLUMNS, ProbeCase
from nightshift.probe.names import CAUSES

SAME = ["encoder", "height", "width", "wrapper", "dtype", "table"]  # of a case with an adapter and of one without
END = ["outcome", "cause", "block"]


class Answer(Record):
    """Of one hypothesis: `supported` or `refuted`, why in one sentence, and the names of the cases that decided."""

    verdict: str
    because: str
    cases: list[str]


class SideCost(Record):
    """A usable side in pixels, what it takes against 1008 px, and the share of windowed tokens that is padding."""

    side: int
    tokens: int
    window_padding: float
    relative_flops: float
    relative_activations: float


class Recommended(Record):
    """The side to use for square frames of `frame` pixels."""

    frame: int
    side: int


class Cause(Record):
    """What a cause in the table of cases means, and what cures it."""

    means: str
    cure: str


class Verdict(Record):
    """reports/probe/verdict.json."""

    torch: str
    sam3: str
    hypotheses: dict[str, Answer]
    fixes: dict[str, str]
    causes: dict[str, Cause]
    resolutions: list[SideCost]
    recommended: Recommended


def frame_of(cases: Sequence[ProbeCase]) -> pd.DataFrame:
    """Cases as a frame; `block` is Int64 and missing where no block failed."""
    return pd.DataFrame([asdict(case) for case in cases], columns=list(COLUMNS)).astype({"block": "Int64"})


def verdict_of(frame: pd.DataFrame, size: EncoderSize, side: int, versions: dict[str, str]) -> Verdict:
    """All that the cases say.

    Args:
        frame: the cases.
        size: of the encoder, for the sizes to use.
        side: of the square frames, in pixels, for which a size is recommended.
        versions: of torch and sam3.
    """
    sides = resolutions(size)
    return Verdict(
        torch=versions["torch"],
        sam3=versions["sam3"],
        hypotheses=hypotheses(frame),
        fixes=fixes(frame),
        causes={name: Cause(means=means, cure=cure) for name, (means, cure) in CAUSES.items()},
        resolutions=sides,
        recommended=Recommended(frame=side, side=recommended(sides, side)),
    )


def hypotheses(frame: pd.DataFrame) -> dict[str, Answer]:
    """lora_wrapper, data_parallel, resolution, attention_layer: each the answer of the cases that tell."""
    plain = frame[frame["adapter"] == "none"]
    adapted = frame[frame["adapter"] != "none"].merge(plain[SAME + END], on=SAME, suffixes=("", "_plain"))
    changed = adapted[_differ(adapted, "", "_plain")]
    replicas = frame[(frame["wrapper"] == "replica_installed") & (frame["table"] == "as_shipped")]
    broken = replicas[replicas["cause"] == "replica_real_view"]
    shipped = plain[(plain["wrapper"] == "none") & (plain["table"] == "as_shipped")]
    grid = shipped[shipped["cause"] == "grid"]
    native = shipped[(shipped["dtype"] == "float32") & (shipped["height"] == 1008) & (shipped["width"] == 1008)]
    unexplained = native[native["outcome"] != "ok"]
    return {
        "lora_wrapper": _answer(
            changed, adapted, f"{len(changed)} of {len(adapted)} cases end otherwise with adapters than without"
        ),
        "data_parallel": _answer(
            broken,
            replicas,
            f"a replica made by the installed torch meets {broken.iloc[0]['expected_shape']} with a table of "
            f"{broken.iloc[0]['table_shape']} at block {broken.iloc[0]['block']}, at any resolution, LoRA or not"
            if len(broken)
            else "a replica made by the installed torch has its complex tables back and runs",
        ),
        "resolution": _answer(
            grid,
            shipped,
            f"{len(grid)} of {len(shipped)} sizes and types meet a table made for another grid, first at block "
            f"{grid.iloc[0]['block']}: {grid.iloc[0]['table_shape']} against {grid.iloc[0]['expected_shape']}"
            if len(grid)
            else "no size met a table made for another grid",
        ),
        "attention_layer": _answer(
            unexplained,
            native,
            f"at 1008 px {len(native) - len(unexplained)} of {len(native)} plain cases run, and their rotation equals "
            "the right one in float64",
        ),
    }


def fixes(frame: pd.DataFrame) -> dict[str, str]:
    """The questions behind the hypotheses, a sentence each: `.contiguous()`, two GPUs."""
    by_hand, contiguous = (frame[frame["adapter"] == f"lora_by_hand{end}"] for end in ("", "_contiguous"))
    pairs = by_hand.merge(contiguous[SAME + END], on=SAME, suffixes=("", "_contiguous"))
    differ = _differ(pairs, "", "_contiguous").sum()
    legacy = frame[(frame["wrapper"] == "replica_legacy") & (frame["table"] == "as_shipped")]
    head = frame[frame["wrapper"] == "head_only"]
    gpus = (
        "a frozen script runs on two GPUs where DataParallel wraps the head alone, and a LoRA script, which must wrap "
        "the trunk, fails under the rules of torch <= 2.10"
        if set(legacy["outcome"]) == {"assertion"} and set(head["outcome"]) == {"ok"}
        else "these cases do not tell the two scripts apart"
    )
    return {
        "contiguous": f"`.contiguous()` changes the outcome of {differ} of {len(pairs)} cases",
        "two_gpus": gpus,
    }


def resolutions(size: EncoderSize, largest: int = 1344) -> list[SideCost]:
    """Usable sizes (repaired): tokens, share of windowed tokens that is padding, FLOPs and activations against 1008.

    A forward's multiplications and additions, per block: qkv and proj 8 t D^2 (t tokens, padded in windowed blocks),
    the attention 4 t s D (s keys of a token: window^2 or all), the MLP 4 r t D^2.
    Activations kept: t (4 D) + t (1 + r) D.
    """
    patch, window = size.patch_size, size.window_size
    flops, activations = _cost(size, 1008 // patch)
    sides = []
    for grid in range(window, largest // patch + 1, window // 2):
        cost = _cost(size, grid)
        sides.append(
            SideCost(
                side=patch * grid,
                tokens=grid**2,
                window_padding=round(1 - grid**2 / _padded(grid, window) ** 2, 3),
                relative_flops=round(cost[0] / flops, 3),
                relative_activations=round(cost[1] / activations, 3),
            )
        )
    return sides


def recommended(sides: Sequence[SideCost], frame: int) -> int:
    """The cheapest size that is not smaller than the frame and pads no window; the largest where none is."""
    fitting = [side for side in sides if side.side >= frame and side.window_padding == 0]
    return min(fitting, key=lambda side: side.relative_flops).side if fitting else sides[-1].side


def sentences(verdict: Verdict, frame: pd.DataFrame) -> list[str]:
    """The hypotheses, the contradictory fixes and the count of cases, a sentence each."""
    counts = ends(frame).value_counts().sort_index()
    return [
        *(f"{name}: {answer.verdict}: {answer.because}" for name, answer in verdict.hypotheses.items()),
        *(f"{sentence}." for sentence in verdict.fixes.values()),
        f"{len(frame)} cases: " + ", ".join(f"{count} {name}" for name, count in counts.items()) + ".",
    ]


def ends(frame: pd.DataFrame) -> "pd.Series[str]":
    """How each case ends: its cause, or `ok` where there is none."""
    return frame["cause"].where(frame["cause"] != "", frame["outcome"])


def report(verdict: Verdict, frame: pd.DataFrame) -> str:
    """The verdict in plain words, as Markdown."""
    best, counts = verdict.recommended, ends(frame).value_counts()
    lines = [
        f"# Why SAM 3's RoPE asserts: torch {verdict.torch}, sam3 {verdict.sam3}",
        "",
        *(f"- {sentence}" for sentence in sentences(verdict, frame)),
        "",
        "## Causes",
        "",
        "| cause | cases | what it means | what cures it |",
        "|---|---:|---|---|",
        *(f"| {name} | {counts.get(name, 0)} | {c.means} | {c.cure} |" for name, c in verdict.causes.items()),
        "",
        "## Sizes",
        "",
        "With `encoder.rope: repaired`; cost of the trunk against 1008 px.",
        "",
        "| side, px | tokens | window padding | FLOPs | activations |",
        "|---:|---:|---:|---:|---:|",
        *(
            f"| {s.side} | {s.tokens} | {s.window_padding:.0%} | {s.relative_flops:.2f} | "
            f"{s.relative_activations:.2f} |"
            for s in verdict.resolutions
        ),
        "",
        f"For frames of {best.frame} px: {best.side} px, the cheapest that loses no detail and pads no window.",
    ]
    return "\n".join(lines) + "\n"


def _answer(against: pd.DataFrame, relevant: pd.DataFrame, because: str) -> Answer:
    deciding = against if len(against) else relevant
    verdict = "supported" if len(against) else "refuted"
    return Answer(verdict=verdict, because=because + ".", cases=deciding["case"].tolist())


def _differ(pairs: pd.DataFrame, one: str, other: str) -> "pd.Series[bool]":
    """Rows whose two cases, told apart by the suffixes of their columns, end otherwise; no block is -1."""
    left, right = (pairs[[name + end for name in END]].fillna({f"block{end}": -1}) for end in (one, other))
    return (left != right.set_axis(left.columns, axis=1)).any(axis=1)


def _padded(grid: int, window: int) -> int:
    return -(-grid // window) * window


def _cost(size: EncoderSize, grid: int) -> tuple[float, float]:
    width, ratio, window = size.embed_dim, size.mlp_ratio, size.window_size
    flops = activations = 0.0
    for block in range(size.depth):
        tokens, keys = grid**2, grid**2
        if block not in size.global_blocks:
            tokens, keys = _padded(grid, window) ** 2, window**2
        flops += 8 * tokens * width**2 + 4 * tokens * keys * width + 4 * ratio * grid**2 * width**2
        activations += 4 * tokens * width + (1 + ratio) * grid**2 * width
    return flops, activations
