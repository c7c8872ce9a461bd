"""The probe's cases. Shapes are asked of the full-size encoder on the meta device: the assertion depends on them alone.

Values (wrong without an error) are asked of a shallow trunk with the same grid, by real forwards. A case's outcome and
cause are read from the tensors that failed, never from what the case was meant to show.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace

import torch

from nightshift.backbone import encoder
from nightshift.backbone.full_size import FULL_SIZE
from nightshift.backbone.rope import first_failure, make_real, set_grid
from nightshift.backbone.rope_error import Failure, failure_of, patch_of
from nightshift.console.errors import is_out_of_memory
from nightshift.console.progress import say
from nightshift.probe.ddp import SMALL, ddp_over_gloo
from nightshift.probe.names import ADAPTERS, PLAIN
from nightshift.probe.rope_check import first_wrong
from nightshift.probe.wrappers import WRAP, adapt

NOT_SQUARE = ((504, 2016), (756, 1344), (672, 1512), (896, 1134))  # 5184 tokens each, as 1008 x 1008 has
Trunks = dict[str, encoder.ViT]  # by their tables
SHALLOW = replace(FULL_SIZE, embed_dim=32, num_heads=1, depth=2, global_blocks=(1,), d_model=16)


@dataclass(frozen=True)
class ProbeCase:
    """A way of running SAM 3 and how it ends: a row of reports/probe/cases.csv.

    `outcome` is ok, assertion, wrong (it runs, and the output is not the right one) or error; `cause` a key of
    `names.CAUSES`, the first line of another error, or empty; `block`, `table_shape` and `expected_shape` say where.
    """

    case: str
    encoder: str
    height: int
    width: int
    grid_h: int
    grid_w: int
    adapter: str
    wrapper: str
    dtype: str
    table: str
    outcome: str = "ok"
    cause: str = ""
    block: int | None = None
    table_shape: str = ""
    expected_shape: str = ""


COLUMNS = tuple(field.name for field in fields(ProbeCase))


def all_cases(sides: Sequence[int], ddp: bool) -> list[ProbeCase]:
    """What `dvc repro probe` asks: full size at `sides` (pixels), shallow, wrapped, on the GPUs that there are.

    `ddp`: also DDP in two real processes, which run beside the others.
    """
    with ddp_over_gloo() if ddp else nullcontext(dict[str, str]) as errors:
        trunks = _as_shipped()
        cases = [*_sizes(trunks, sides), *_values(), *_loaded(), *_wrappers(trunks)]
        return [*cases, *_ddp(errors()), *_on_gpus()]


def combinations(sizes: Sequence[tuple[int, int]], adapters: Sequence[str], wrappers: Sequence[str]) -> list[ProbeCase]:
    """Every combination of sizes (height and width in pixels), adapters and wrappers: full size, tables as shipped."""
    cases, trunks = [], _as_shipped()
    for adapter in adapters:
        for table, trunk in _adapted(trunks, adapter).items():
            for wrapper in wrappers:
                wrapped, labels = WRAP[wrapper](trunk), {"adapter": adapter, "wrapper": wrapper, "table": table}
                cases += [shape_case("sam3", wrapped, size, **labels) for size in sizes]
    return cases


def shape_case(name: str, trunk: encoder.ViT, size: tuple[int, int], **labels: str) -> ProbeCase:
    """Whether images of that size run through a trunk on the meta device, and whether any of their pixels are dropped.

    Args:
        name: of the encoder, in the case.
        trunk: on the meta device.
        size: height and width in pixels.
        labels: `adapter`, `wrapper`, `dtype` and `table` of the case, where they are not the plain ones.
    """
    with _one_of_each_kind(trunk):
        failure = first_failure(trunk, torch.empty(1, 3, *size, device="meta"))
    case = _case(name, trunk, size, failure, **labels)
    # The patch embedding is a convolution without padding: what its stride does not reach is not in any token.
    lost = size[0] % patch_of(trunk) or size[1] % patch_of(trunk)
    return replace(case, outcome="wrong", cause="pixels_dropped") if lost and case.outcome == "ok" else case


@contextmanager
def _one_of_each_kind(trunk: encoder.ViT) -> Iterator[None]:
    """Meanwhile blocks that are like an earlier one do nothing: by shapes alone they would end as that one does."""
    blocks, seen = list(trunk.blocks), set()
    for i, block in enumerate(blocks):
        shapes = ((name, t.shape, t.dtype) for name, t in (*block.named_parameters(), *block.named_buffers()))
        kind = block.window_size, *((name, type(module)) for name, module in block.named_modules()), *shapes
        if kind in seen:
            trunk.blocks[i] = torch.nn.Identity()
        seen.add(kind)
    try:
        yield
    finally:
        for i, block in enumerate(blocks):
            trunk.blocks[i] = block


def _as_shipped() -> Trunks:
    """Full-size trunks on the meta device by their tables: complex ones and, where sam3 has them, its own real ones."""
    tables = {"as_shipped": False} | ({"rope_real": True} if encoder.has_rope_real() else {})
    return {name: encoder.build(FULL_SIZE, "meta", real).trunk for name, real in tables.items()}


def _adapted(trunks: Trunks, adapter: str) -> Trunks:
    """Copies with that adapter: on the meta device a copy takes a tenth of the time that building takes."""
    return {name: adapt(copy.deepcopy(trunk), adapter) for name, trunk in trunks.items()}


def _sizes(trunks: Trunks, sides: Sequence[int]) -> list[ProbeCase]:
    """Every adapter at every side, tables as shipped; and repaired, the last of them at every side."""
    cases = []
    for adapter in ADAPTERS:
        for table, trunk in _adapted(trunks, adapter).items():
            cases += [shape_case("sam3", trunk, (side, side), adapter=adapter, table=table) for side in sides]
    make_real(trunk)
    for side in sides:
        set_grid(trunk, side // FULL_SIZE.patch_size)
        cases.append(shape_case("sam3", trunk, (side, side), adapter=adapter, table="repaired"))
    return cases


def _values() -> list[ProbeCase]:
    """Real forwards: tables and sizes that pass the assertion and are wrong, and those that are right."""

    def regenerate(trunk: encoder.ViT, side: int, scaled: bool = True) -> encoder.ViT:
        for block in trunk.blocks:
            block.attn.rope_interp = scaled
        set_grid(trunk, side // SHALLOW.patch_size)
        for block in trunk.blocks:
            block.attn.rope_interp = True
        return trunk

    def repair(trunk: encoder.ViT, side: int) -> encoder.ViT:
        make_real(trunk)
        return regenerate(trunk, side)

    def real() -> encoder.ViT:
        return encoder.build(SHALLOW, rope_real=True).trunk

    square = (1008, 1008)
    kinds: list[tuple[tuple[tuple[int, int], str, str], Callable[[encoder.ViT], encoder.ViT]]] = [
        ((square, "float32", "as_shipped"), lambda t: t),
        *(((size, "float32", "as_shipped"), lambda t: t) for size in (*NOT_SQUARE, (1009, 1009), (1016, 1016))),
        *((((s, s), "float32", "regenerated"), lambda t, s=s: regenerate(t, s)) for s in (504, 672)),
        *((((s, s), "float32", "unscaled"), lambda t, s=s: regenerate(t, s, scaled=False)) for s in (336, 504, 1008)),
        *((((s, s), "float32", "repaired"), lambda t, s=s: repair(t, s)) for s in (504, 672, 1008)),
        ((square, "autocast_bfloat16", "as_shipped"), lambda t: t),
        ((square, "bfloat16", "as_shipped"), lambda t: t.to(torch.bfloat16)),
        ((square, "float16", "as_shipped"), lambda t: t.half()),
        ((square, "bfloat16", "repaired"), lambda t: repair(t, 1008).to(torch.bfloat16)),
    ]
    if encoder.has_rope_real():
        kinds += [((size, "float32", "rope_real"), lambda t: real()) for size in (square, *NOT_SQUARE)]
        kinds += [((square, "bfloat16", "rope_real"), lambda t: real().to(torch.bfloat16))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns that `.to(bfloat16)` discards the imaginary part
        return [_value_case(change(encoder.build(SHALLOW).trunk), *labels) for labels, change in kinds]


def _loaded() -> list[ProbeCase]:
    """A trunk built for 504 px opens weights that were saved at 1008 px, tables and all."""
    state, cases = encoder.build(SHALLOW).trunk.state_dict(), []
    for table in ("from_file", "from_file_repaired"):
        trunk = encoder.build(replace(SHALLOW, img_size=504)).trunk
        if table.endswith("repaired"):
            make_real(trunk)
        try:
            trunk.load_state_dict(state)
            cases.append(_value_case(trunk, (504, 504), "float32", table))
        except RuntimeError as error:
            cause = "table_size" if "size mismatch for" in str(error) and "freqs_cis" in str(error) else str(error)
            cases.append(_with_error(_case("sam3-shallow", trunk, (504, 504), None, table=table), cause))
    return cases


def _value_case(trunk: encoder.ViT, size: tuple[int, int], dtype: str, table: str) -> ProbeCase:
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(next(trunk.parameters()).dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype.startswith("autocast")):
        failure, wrong = None, None
        try:
            wrong = first_wrong(trunk, images)
        except AssertionError as error:
            failure = failure_of(error)
            if failure is None:
                raise
    case = _case("sam3-shallow", trunk, size, failure, dtype=dtype, table=table)
    return replace(case, outcome="wrong", cause=wrong.cause, block=wrong.block) if wrong else case


def _wrappers(shipped: Trunks) -> list[ProbeCase]:
    """DataParallel around the trunk, by the installed torch and by the rules of torch <= 2.10; around the head."""
    cases, square = [], (1008, 1008)
    for adapter in ("none", "peft_attention"):
        trunks = _adapted(shipped | {"repaired": shipped["as_shipped"]}, adapter)
        make_real(trunks["repaired"])
        for table, trunk in trunks.items():
            for wrapper in ("replica_installed", "replica_legacy", "head_only"):
                wrapped = WRAP[wrapper](trunk)
                cases.append(shape_case("sam3", wrapped, square, adapter=adapter, wrapper=wrapper, table=table))
    return cases


def _ddp(errors: Mapping[str, str]) -> list[ProbeCase]:
    """Of what `ddp_over_gloo` found."""
    cases, trunk, size = [], encoder.build(SMALL, "meta").trunk, (SMALL.img_size, SMALL.img_size)
    for table, error in errors.items():
        case = _case("sam3-small", trunk, size, None, adapter="lora_by_hand", wrapper="ddp_gloo", table=table)
        cases.append(_with_error(case, error) if error else case)
    return cases


def _on_gpus() -> list[ProbeCase]:
    """The real `replicate` on one GPU and on all of them, forward and backward; no case where none is free."""
    cases: list[ProbeCase] = []
    from nightshift.engine.device import device  # `nightshift probe` works without pydantic, which these want
    from nightshift.jobs import gpu_lock

    for count in dict.fromkeys((1, len(gpu_lock.device_numbers(1))) if device().type == "cuda" else ()):
        with gpu_lock.if_free("probe", count) as (numbers, busy):
            if busy:
                say(f"no DataParallel on {count} GPU(s): {busy}")
                continue
            for table in ("as_shipped", "repaired"):
                trunk = encoder.build(SHALLOW).trunk
                if table == "repaired":
                    make_real(trunk)
                cases.append(_on_gpu(adapt(trunk, "lora_by_hand").to(f"cuda:{numbers[0]}"), numbers, table))
    return cases


def _on_gpu(trunk: encoder.ViT, numbers: Sequence[int], table: str) -> ProbeCase:
    size = (1008, 1008)
    labels = {"adapter": "lora_by_hand", "wrapper": f"replica_on_{len(numbers)}_gpu", "table": table}
    case = _case("sam3-shallow", trunk, size, None, **labels)
    try:
        for number, replica in zip(numbers, torch.nn.parallel.replicate(trunk, numbers), strict=True):
            images = torch.rand(1, 3, *size, device=f"cuda:{number}")
            failure = first_failure(replica, images)
            if failure:
                return _case("sam3-shallow", trunk, size, failure, **labels)
            replica(images)[-1].sum().backward()
    except RuntimeError as error:
        return _with_error(case, "out of memory" if is_out_of_memory(error) else str(error))
    return case


def _case(
    name: str, trunk: encoder.ViT, size: tuple[int, int], failure: Failure | None, *, adapter: str = "none",
    wrapper: str = "none", dtype: str = "float32", table: str = "as_shipped",
) -> ProbeCase:  # fmt: skip
    words = (name, f"{size[0]}x{size[1]}", adapter, wrapper, dtype, table)
    case = ProbeCase(
        case="-".join(word for word in words if word not in PLAIN),
        encoder=name,
        height=size[0],
        width=size[1],
        grid_h=size[0] // patch_of(trunk),
        grid_w=size[1] // patch_of(trunk),
        adapter=adapter,
        wrapper=wrapper,
        dtype=dtype,
        table=table,
    )
    if failure is None:
        return case
    return replace(
        case,
        outcome="assertion",
        cause=failure.cause,
        block=failure.block,
        table_shape=" x ".join(map(str, failure.table_shape)),
        expected_shape=" x ".join(map(str, failure.expected_shape)),
    )


def _with_error(case: ProbeCase, error: str) -> ProbeCase:
    return replace(case, outcome="error", cause=error.splitlines()[0])
