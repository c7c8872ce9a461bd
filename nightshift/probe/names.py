"""Names in the table of cases, and what its causes mean. Imports nothing: `nightshift probe --help` is quick."""

ADAPTERS = ("none", "lora_by_hand", "lora_by_hand_contiguous", "peft_attention", "peft_attention_mlp")
WRAPPERS = (
    "none",
    "replica_installed",  # a DataParallel replica by the installed torch
    "replica_legacy",  # and by the rules of torch <= 2.10
    "head_only",  # DataParallel around the trained head leaves the trunk as it is
)
PLAIN = ("", "none", "float32", "as_shipped")  # what a case's name leaves out

# By cause: what it means, and what cures it.
CAUSES = {
    "grid": (
        "the position table of a global block was made for another frame size: SAM 3 ends in its assertion",
        "nightshift.rope.set_grid(trunk, pixels=...) or encoder.rope: repaired, where sides are multiples of 14 px; or "
        "frames of 1008 x 1008 px",
    ),
    "replica_real_view": (
        "torch <= 2.10 hands the complex position table to DataParallel's replicas as real numbers: SAM 3 ends in its "
        "assertion at block 0, at any size",
        "nightshift.rope.make_real(trunk) first, DataParallel around the trained head alone, or torch >= 2.11",
    ),
    "pixels_dropped": (
        "a side is no multiple of the patch, 14 px: the last rows or columns of pixels are dropped, without an error",
        "frames resized or padded to a multiple of 14 px",
    ),
    "positions": (
        "the table was made for another grid with as many tokens: it runs, with wrong positions",
        "nightshift.rope.set_grid(trunk, pixels=(height, width))",
    ),
    "imaginary_lost": (
        "`.to(torch.bfloat16)` drops the imaginary part of the complex table: it runs, with wrong positions",
        "nightshift.rope.make_real(trunk) before the cast, or torch.autocast instead of it",
    ),
    "unscaled": (
        "a table made anew without SAM 3's scale, window / grid: it runs, with wrong positions at all sizes but 336 px",
        "nightshift.rope.set_grid, which scales",
    ),
    "table_size": (
        "a weights file carries tables made for 1008 px, which a trunk of another size does not load",
        "nightshift.rope.make_real(trunk) before load_state_dict: its tables are no weights",
    ),
    "values": (
        "the position table is wrong in a way that is not known here",
        "nightshift.rope.make_real(trunk), which computes it anew",
    ),
}
