"""What the probe's cases say: the four hypotheses, the contradictory fixes, the sizes to use, each arm's verdict."""

from collections import Counter
from typing import Any

from nightshift.probe.cases import Row
from nightshift.config.params import Encoder, Settings

SAME = ("encoder", "height", "width", "wrapper", "dtype", "table")


def hypotheses(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """lora_wrapper, data_parallel, resolution, attention_layer: verdict, because (one sentence), the deciding cases."""
    plain = {_key(r): r for r in rows if r["adapter"] == "none"}
    adapted = [r for r in rows if r["adapter"] != "none" and _key(r) in plain]
    changed = [r for r in adapted if _end(r) != _end(plain[_key(r)])]
    replicas = [r for r in rows if r["wrapper"] == "replica_installed" and r["table"] == "as_shipped"]
    broken = [r for r in replicas if r["cause"] == "replica_real_view"]
    shipped = [r for r in rows if r["adapter"] == "none" and r["wrapper"] == "none" and r["table"] == "as_shipped"]
    grid = [r for r in shipped if r["cause"] == "grid"]
    native = [r for r in shipped if r["dtype"] == "float32" and r["height"] == r["width"] == 1008]
    unexplained = [r for r in native if r["outcome"] != "ok"]
    return {
        "lora_wrapper": _answer(
            changed,
            adapted,
            f"{len(changed)} of {len(adapted)} cases end otherwise with adapters than without",
        ),
        "data_parallel": _answer(
            broken,
            replicas,
            f"a replica made by the installed torch meets {broken[0]['expected_shape']} with a table of "
            f"{broken[0]['table_shape']} at block {broken[0]['block']}, at any resolution, LoRA or not"
            if broken
            else "a replica made by the installed torch has its complex tables back and runs",
        ),
        "resolution": _answer(
            grid,
            shipped,
            f"{len(grid)} of {len(shipped)} sizes and types meet a table made for another grid, first at block "
            f"{grid[0]['block']}: {grid[0]['table_shape']} against {grid[0]['expected_shape']}"
            if grid
            else "no size met a table made for another grid",
        ),
        "attention_layer": _answer(
            unexplained,
            native,
            f"at 1008 px {len(native) - len(unexplained)} of {len(native)} plain cases run, and their rotation equals "
            "the right one in float64",
        ),
    }


def fixes(rows: list[Row]) -> dict[str, str]:
    """The questions behind the hypotheses, a sentence each: `.contiguous()`, 1008 px, two GPUs."""
    by = {(r["height"], r["width"], r["adapter"], r["wrapper"], r["table"]): _end(r) for r in rows}
    pairs = [(k, (*k[:2], "lora_by_hand_contiguous", *k[3:])) for k in by if k[2] == "lora_by_hand"]
    pairs = [(a, b) for a, b in pairs if b in by]
    differ = sum(by[a] != by[b] for a, b in pairs)
    whole = {r["outcome"] for r in rows if r["wrapper"] == "replica_legacy" and r["table"] == "as_shipped"}
    head = {r["outcome"] for r in rows if r["wrapper"] == "head_only"}
    gpus = (
        "a frozen script runs on two GPUs where DataParallel wraps the head alone, and a LoRA script, which must wrap "
        "the trunk, fails under the rules of torch <= 2.10"
        if whole == {"assertion"} and head == {"ok"}
        else "these cases do not tell the two scripts apart"
    )
    return {
        "contiguous": f"`.contiguous()` changes the outcome of {differ} of {len(pairs)} cases",
        "two_gpus": gpus,
    }


def resolutions(encoder: Encoder, largest: int = 1344) -> list[dict[str, Any]]:
    """Usable sizes (repaired): tokens, share of windowed tokens that is padding, FLOPs and activations against 1008.

    A forward's multiplications and additions, per block: qkv and proj 8 t D^2 (t tokens, padded in windowed blocks),
    the attention 4 t s D (s tokens seen: window^2 or all), the MLP 4 r t D^2. Activations kept: t (4 D) + t (1 + r) D.
    """
    patch, window = encoder.patch_size, encoder.window_size
    sides = [patch * grid for grid in range(window, largest // patch + 1, window // 2)]
    reference = _cost(encoder, 1008 // patch)
    return [
        {
            "side": side,
            "tokens": (grid := side // patch) ** 2,
            "window_padding": round(1 - grid**2 / _padded(grid, window) ** 2, 3),
            "relative_flops": round(_cost(encoder, grid)[0] / reference[0], 3),
            "relative_activations": round(_cost(encoder, grid)[1] / reference[1], 3),
        }
        for side in sides
    ]


def recommended(sizes: list[dict[str, Any]], frame: int) -> int:
    """The cheapest size that is not smaller than the frame and pads no window; the largest where none is."""
    fitting = [s for s in sizes if s["side"] >= frame and s["window_padding"] == 0]
    return min(fitting, key=lambda s: s["relative_flops"])["side"] if fitting else sizes[-1]["side"]


def arm_verdict(row: Row, settings: Settings) -> dict[str, Any]:
    """Whether the configured encoder runs, and is right, as this arm uses it; cause and cure where it does not."""
    if row["outcome"] == "ok":
        return {"ok": True, "cause": "", "cure": ""}
    patch, side, native = settings.preset.patch_size, row["height"], settings.preset.img_size
    if row["cause"] == "pixels_dropped":
        cause = f"at {side} px the last {side % patch} rows and columns of pixels are dropped without a word"
        cure = f"Set encoder.resolution to a multiple of {patch}, {side // patch * patch} for example"
    elif row["cause"] == "grid":
        cause = (
            f"at {side} px the table of block {row['block']} is {row['table_shape']} and the tokens need "
            f"{row['expected_shape']}"
        )
        cure = f"Set encoder.rope to repaired, or encoder.resolution to {native}, which the tables are made for"
    else:
        cause, cure = row["cause"], "Set encoder.rope to repaired"
    return {"ok": False, "cause": cause, "cure": cure}


def sentences(verdict: dict[str, Any], rows: list[Row]) -> list[str]:
    """The hypotheses, the contradictory fixes and the count of cases, a sentence each."""
    counts = Counter(row["cause"] or row["outcome"] for row in rows)
    return [
        *(f"{name}: {h['verdict']}: {h['because']}" for name, h in verdict["hypotheses"].items()),
        *(f"{sentence}." for sentence in verdict["fixes"].values()),
        f"{len(rows)} cases: " + ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) + ".",
    ]


def table(rows: list[Row]) -> str:
    """Cases as text in columns: case, outcome, cause, block, both shapes."""
    names = ("case", "outcome", "cause", "block", "table_shape", "expected_shape")
    lines = [names, *(tuple(str(row[name]) for name in names) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def report(verdict: dict[str, Any], rows: list[Row]) -> str:
    """The verdict in plain words, as Markdown."""
    lines = [f"# Why SAM 3's RoPE asserts: torch {verdict['torch']}, sam3 {verdict['sam3']}", ""]
    lines += [f"- {sentence}" for sentence in sentences(verdict, rows)]
    lines += ["", "## Sizes", "", "With `encoder.rope: repaired`; cost of the trunk against 1008 px.", ""]
    lines += ["| side, px | tokens | window padding | FLOPs | activations |", "|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {s['side']} | {s['tokens']} | {s['window_padding']:.0%} | {s['relative_flops']:.2f} | "
        f"{s['relative_activations']:.2f} |"
        for s in verdict["resolutions"]
    ]
    best = verdict["recommended"]
    lines += [
        "",
        f"For frames of {best['frame']} px: {best['side']} px, the cheapest that loses no detail and pads no window.",
    ]
    return "\n".join(lines) + "\n"


def _answer(against: list[Row], asked: list[Row], because: str) -> dict[str, Any]:
    verdict = "supported" if against else "refuted"
    return {"verdict": verdict, "because": because + ".", "cases": [r["case"] for r in against or asked]}


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in SAME)


def _end(row: Row) -> tuple[Any, ...]:
    return row["outcome"], row["cause"], row["block"]


def _padded(grid: int, window: int) -> int:
    return -(-grid // window) * window


def _cost(encoder: Encoder, grid: int) -> tuple[float, float]:
    width, ratio, window = encoder.embed_dim, encoder.mlp_ratio, encoder.window_size
    flops = activations = 0.0
    for block in range(encoder.depth):
        tokens, seen = grid**2, grid**2
        if block not in encoder.global_blocks:
            tokens, seen = _padded(grid, window) ** 2, window**2
        flops += 8 * tokens * width**2 + 4 * tokens * seen * width + 4 * ratio * grid**2 * width**2
        activations += 4 * tokens * width + (1 + ratio) * grid**2 * width
    return flops, activations
