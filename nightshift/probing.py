"""The probe's cases: encoders without weights, on the meta device, at many resolutions, with and without LoRA.

The assertion depends on shapes alone, so the verdict on meta is that of a real run, in a hundredth of the time.
"""

from typing import Any

import torch

from nightshift import encoder, lora
from nightshift.rope import first_failure
from nightshift.settings import Encoder, Settings, read_preset

COLUMNS = (
    "case", "encoder", "height", "width", "grid_h", "grid_w", "adapter", "wrapper", "dtype", "table", "outcome",
    "cause", "block", "table_shape", "expected_shape",
)  # fmt: skip
ADAPTERS = ("none", "peft")


def probe_cases(settings: Settings) -> list[dict[str, Any]]:
    """A row (COLUMNS) per encoder (full size, and the configured one if it is another), side and adapter."""
    rows = []
    for name in dict.fromkeys(("sam3", settings.use.encoder)):
        preset = read_preset("encoder", name, Encoder)
        sides = {*settings.probe.resolutions} if name == "sam3" else {preset.img_size}
        if name == settings.use.encoder:
            sides.add(settings.resolution)
        for adapter in ADAPTERS:
            trunk = encoder.build(preset, device="meta").trunk
            if adapter == "peft":
                lora.add_adapters(trunk, _fitted(settings, preset))
            rows += [_case(name, preset, trunk, adapter, side) for side in sorted(sides)]
    return rows


def _fitted(settings: Settings, preset: Encoder) -> Any:
    """The LoRA settings; on an encoder that is not the configured one, on all its blocks."""
    same = preset == settings.preset
    return settings.lora if same else settings.lora.model_copy(update={"blocks": "all"})


def _case(name: str, preset: Encoder, trunk: encoder.ViT, adapter: str, side: int) -> dict[str, Any]:
    grid = side // preset.patch_size
    failure = first_failure(trunk, torch.empty(1, 3, side, side, device="meta"))
    outcome, cause = ("assertion", failure.cause) if failure else ("ok", "")
    if failure is None and side % preset.patch_size:
        outcome, cause = "wrong", "pixels_dropped"
    return {
        "case": f"{name}-{side}-{adapter}",
        "encoder": name,
        "height": side,
        "width": side,
        "grid_h": grid,
        "grid_w": grid,
        "adapter": adapter,
        "wrapper": "none",
        "dtype": "float32",
        "table": "as_shipped",
        "outcome": outcome,
        "cause": cause,
        "block": failure.block if failure else "",
        "table_shape": _shape(failure.table_shape) if failure else "",
        "expected_shape": _shape(failure.expected_shape) if failure else "",
    }


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def hypotheses(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the cases say of the suspicions that this version asks about: the LoRA wrapper and the resolution."""
    plain, adapted = ({(r["encoder"], r["height"]): r for r in rows if r["adapter"] == a} for a in ADAPTERS)
    changed = [adapted[key]["case"] for key in plain if plain[key]["outcome"] != adapted[key]["outcome"]]
    failing = [r["case"] for r in plain.values() if r["cause"] == "grid"]
    return {
        "lora_wrapper": {
            "verdict": "supported" if changed else "refuted",
            "because": f"{len(changed)} of {len(plain)} sizes end otherwise with peft LoRA than without.",
            "cases": changed or [r["case"] for r in adapted.values()],
        },
        "resolution": {
            "verdict": "supported" if failing else "refuted",
            "because": f"without LoRA, {len(failing)} of {len(plain)} sizes meet a table made for another grid.",
            "cases": failing or [r["case"] for r in plain.values()],
        },
    }


def arm_verdict(rows: list[dict[str, Any]], settings: Settings, adapter: str) -> dict[str, Any]:
    """Whether the configured encoder runs at the configured resolution, and the cause and cure where it does not."""
    row = next(r for r in rows if r["case"] == f"{settings.use.encoder}-{settings.resolution}-{adapter}")
    if row["outcome"] == "ok":
        return {"ok": True, "cause": "", "cure": ""}
    side = settings.preset.img_size
    what = {
        "grid": f"at {row['height']} px block {row['block']} has a table of {row['table_shape']} for tokens that need "
        f"{row['expected_shape']}",
        "pixels_dropped": f"at {row['height']} px the last {row['height'] % settings.preset.patch_size} rows and "
        "columns are dropped without a word",
    }
    return {
        "ok": False,
        "cause": what.get(row["cause"], row["cause"]),
        "cure": f"Set encoder.resolution to {side} (or native), which its tables are made for",
    }


def resolutions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sizes that run and are right, with their tokens per frame."""
    return [
        {"encoder": r["encoder"], "side": r["height"], "tokens": r["grid_h"] * r["grid_w"]}
        for r in rows
        if r["adapter"] == "none" and r["outcome"] == "ok"
    ]
