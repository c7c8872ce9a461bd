"""The probe's cases. Shapes are asked of the full-size encoder on the meta device: the assertion depends on them alone.

Values (wrong without a word) are asked of a shallow trunk with the same grid, by real forwards. A case's outcome and
cause are read from the tensors that failed, never from what the case was meant to show.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch

from nightshift.backbone import encoder
from nightshift.model.segmentation import lora
from nightshift.backbone.rope import Failure, failure_of, first_failure, make_real, set_grid
from nightshift.probe.rope_check import first_wrong
from nightshift.config.params import Encoder, Settings, read_preset
from nightshift.probe.wrappers import ADAPTERS, adapt, ddp_over_gloo, installed_replica, legacy_replica

COLUMNS = (
    "case", "encoder", "height", "width", "grid_h", "grid_w", "adapter", "wrapper", "dtype", "table", "outcome",
    "cause", "block", "table_shape", "expected_shape",
)  # fmt: skip
NOT_SQUARE = ((504, 2016), (756, 1344), (672, 1512), (896, 1134))  # 5184 tokens each, as 1008 x 1008 has
WRAPPERS: dict[str, Callable[[encoder.ViT], encoder.ViT]] = {
    "none": lambda trunk: trunk,
    "replica_installed": installed_replica,
    "replica_legacy": legacy_replica,
    "head_only": lambda trunk: trunk,  # a replica of the head alone leaves the trunk what it is
}
Row = dict[str, Any]


def probe_cases(settings: Settings) -> list[Row]:
    """A row (COLUMNS) per case: full size, shallow, wrapped, and the configured encoder as each arm runs it."""
    full = read_preset("encoder", "sam3", Encoder)
    shallow = full.model_copy(update={"embed_dim": 32, "num_heads": 1, "depth": 2, "global_blocks": [1], "d_model": 16})
    rows = [*_sizes(full, settings.probe.resolutions), *_values(shallow), *_loaded(shallow)]
    rows += [*_wrappers(full, shallow, settings.probe.ddp), *_on_gpus(shallow)]
    return rows + [configured(settings, adapter) for adapter in ("none", "peft")]


def _sizes(full: Encoder, sides: list[int]) -> list[Row]:
    """Every adapter at every side, tables as shipped; and repaired, the plain trunk at every side."""
    rows = []
    for adapter in ADAPTERS:
        trunk = adapt(encoder.build(full, "meta").trunk, adapter)
        rows += [_shape_case("sam3", trunk, (side, side), adapter=adapter) for side in sides]
    make_real(trunk)
    for side in sides:
        set_grid(trunk, side // full.patch_size)
        rows.append(_shape_case("sam3", trunk, (side, side), adapter=adapter, table="repaired"))
    return rows


def _values(shallow: Encoder) -> list[Row]:
    """Real forwards: what passes the assertion and is wrong, and what is right."""

    def regenerate(trunk: encoder.ViT, side: int, scaled: bool = True) -> encoder.ViT:
        for block in trunk.blocks:
            block.attn.rope_interp = scaled
        set_grid(trunk, side // shallow.patch_size)
        for block in trunk.blocks:
            block.attn.rope_interp = True
        return trunk

    def repair(trunk: encoder.ViT, side: int) -> encoder.ViT:
        make_real(trunk)
        return regenerate(trunk, side)

    square = (1008, 1008)
    cases: list[tuple[tuple[int, int], str, str, Callable[[encoder.ViT], Any]]] = [
        (square, "float32", "as_shipped", lambda t: t),
        *((size, "float32", "as_shipped", lambda t: t) for size in (*NOT_SQUARE, (1009, 1009), (1016, 1016))),
        *(((s, s), "float32", "regenerated", lambda t, s=s: regenerate(t, s)) for s in (504, 672)),
        *(((s, s), "float32", "unscaled", lambda t, s=s: regenerate(t, s, scaled=False)) for s in (336, 504, 1008)),
        *(((s, s), "float32", "repaired", lambda t, s=s: repair(t, s)) for s in (504, 672, 1008)),
        (square, "autocast_bfloat16", "as_shipped", lambda t: t),
        (square, "bfloat16", "as_shipped", lambda t: t.to(torch.bfloat16)),
        (square, "float16", "as_shipped", lambda t: t.half()),
        (square, "bfloat16", "repaired", lambda t: repair(t, 1008).to(torch.bfloat16)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns that `.to(bfloat16)` discards the imaginary part
        return [_value_case(change(encoder.build(shallow).trunk), *case) for *case, change in cases]


def _loaded(shallow: Encoder) -> list[Row]:
    """A trunk built for 504 px opens weights that were saved at 1008 px, tables and all."""
    state, rows = encoder.build(shallow).trunk.state_dict(), []
    for table in ("from_file", "from_file_repaired"):
        trunk = encoder.build(shallow.model_copy(update={"img_size": 504})).trunk
        if table.endswith("repaired"):
            make_real(trunk)
        try:
            trunk.load_state_dict(state)
            rows.append(_value_case(trunk, (504, 504), "float32", table))
        except RuntimeError as error:
            cause = "table_size" if "size mismatch for" in str(error) and "freqs_cis" in str(error) else str(error)
            row = _row("sam3-shallow", trunk, (504, 504), None, table=table)
            rows.append(row | {"outcome": "error", "cause": cause.splitlines()[0]})
    return rows


def _value_case(trunk: encoder.ViT, size: tuple[int, int], dtype: str, table: str) -> Row:
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(next(trunk.parameters()).dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype.startswith("autocast")):
        failure, wrong = None, None
        try:
            wrong = first_wrong(trunk, images)
        except AssertionError as error:
            failure = failure_of(error)
            if failure is None:
                raise
    row = _row("sam3-shallow", trunk, size, failure, dtype=dtype, table=table)
    return row | {"outcome": "wrong", "cause": wrong.cause, "block": wrong.block} if wrong else row


def asked(full: Encoder, sides: list[int], adapters: list[str], wrappers: list[str]) -> list[Row]:
    """The cases of a question of one's own: every combination, full size, tables as shipped."""
    rows = []
    for adapter in adapters:
        trunk = adapt(encoder.build(full, "meta").trunk, adapter)
        for wrapper in wrappers:
            wrapped = WRAPPERS[wrapper](trunk)
            rows += [_shape_case("sam3", wrapped, (side, side), adapter=adapter, wrapper=wrapper) for side in sides]
    return rows


def _wrappers(full: Encoder, shallow: Encoder, ddp: bool) -> list[Row]:
    """DataParallel around the trunk, by the installed torch and by the rules of torch <= 2.10; around the head; DDP."""
    rows, square = [], (1008, 1008)
    for adapter in ("none", "peft_attention"):
        trunk = adapt(encoder.build(full, "meta").trunk, adapter)
        for table in ("as_shipped", "repaired"):
            if table == "repaired":
                make_real(trunk)
            for wrapper in ("replica_installed", "replica_legacy", "head_only"):
                wrapped = WRAPPERS[wrapper](trunk)
                rows.append(_shape_case("sam3", wrapped, square, adapter=adapter, wrapper=wrapper, table=table))
    if ddp:
        small = shallow.model_copy(update={"img_size": 168, "pretrain_img_size": 56, "window_size": 4})
        trunk = encoder.build(small, "meta").trunk
        for table, error in ddp_over_gloo(small).items():
            row = _row("sam3-small", trunk, (168, 168), None, adapter="lora_by_hand", wrapper="ddp_gloo", table=table)
            rows.append(row | {"outcome": "error", "cause": error.splitlines()[0]} if error else row)
    return rows


def _on_gpus(shallow: Encoder) -> list[Row]:
    """The real `replicate` on the first GPU and on all of them, forward and backward; nothing where there is none."""
    rows: list[Row] = []
    for count in dict.fromkeys((1, torch.cuda.device_count()) if torch.cuda.is_available() else ()):
        for table in ("as_shipped", "repaired"):
            trunk = encoder.build(shallow).trunk
            if table == "repaired":
                make_real(trunk)
            trunk = adapt(trunk, "lora_by_hand").cuda()
            what = {"adapter": "lora_by_hand", "wrapper": f"replica_on_{count}_gpu", "table": table}
            row = _row("sam3-shallow", trunk, (1008, 1008), None, **what)
            try:
                for device, replica in enumerate(torch.nn.parallel.replicate(trunk, list(range(count)))):
                    images = torch.rand(1, 3, 1008, 1008, device=device)
                    failure = first_failure(replica, images)
                    if failure:
                        row = _row("sam3-shallow", trunk, (1008, 1008), failure, **what)
                        break
                    replica(images)[-1].sum().backward()
            except RuntimeError as error:
                row |= {"outcome": "error", "cause": str(error).splitlines()[0]}
            rows.append(row)
    return rows


def configured(settings: Settings, adapter: str) -> Row:
    """The encoder as params.yaml describes it, at its resolution, with the LoRA arm's adapters or without."""
    trunk = encoder.configured(settings, "meta").trunk
    if adapter == "peft":
        lora.add_adapters(trunk, settings.lora)
    size = settings.resolution, settings.resolution
    return _shape_case(
        settings.use.encoder, trunk, size, adapter=adapter, table=settings.encoder.rope, case="configured"
    )


def _shape_case(name: str, trunk: encoder.ViT, size: tuple[int, int], **what: str) -> Row:
    row = _row(name, trunk, size, first_failure(trunk, torch.empty(1, 3, *size, device="meta")), **what)
    # The patch embedding is a convolution without padding: what its stride does not reach is not in any token.
    lost = size[0] - row["grid_h"] * _patch(trunk) or size[1] - row["grid_w"] * _patch(trunk)
    return row | {"outcome": "wrong", "cause": "pixels_dropped"} if lost and row["outcome"] == "ok" else row


def _patch(trunk: encoder.ViT) -> int:
    return trunk.patch_embed.proj.stride[0]


def _row(
    name: str, trunk: encoder.ViT, size: tuple[int, int], failure: Failure | None, *, adapter: str = "none",
    wrapper: str = "none", dtype: str = "float32", table: str = "as_shipped", case: str = "",
) -> Row:  # fmt: skip
    words = (case, name, f"{size[0]}x{size[1]}", adapter, wrapper, dtype, table)
    return {
        "case": "-".join(word for word in words if word not in ("", "none", "float32", "as_shipped")),
        "encoder": name,
        "height": size[0],
        "width": size[1],
        "grid_h": size[0] // _patch(trunk),
        "grid_w": size[1] // _patch(trunk),
        "adapter": adapter,
        "wrapper": wrapper,
        "dtype": dtype,
        "table": table,
        "outcome": "assertion" if failure else "ok",
        "cause": failure.cause if failure else "",
        "block": failure.block if failure else "",
        "table_shape": " x ".join(map(str, failure.table_shape)) if failure else "",
        "expected_shape": " x ".join(map(str, failure.expected_shape)) if failure else "",
    }
