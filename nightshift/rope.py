"""The repair of SAM 3's position tables, for scripts of your own. Needs torch and sam3 alone.

The bare assertion of `reshape_for_broadcast` becomes a sentence of cause and cure:

    from nightshift.rope import explain

    with explain():
        model(images)

The repair, for any size that is a multiple of 14, DataParallel on any torch, DDP, `.to(torch.bfloat16)`:

    from nightshift.rope import make_real, set_grid

    trunk = model.backbone.vision_backbone.trunk
    make_real(trunk)
    set_grid(trunk, pixels=images.shape[-2:])
"""

from nightshift.backbone.rope import explain, first_failure, make_real, set_grid
from nightshift.backbone.rope_error import Failure, RopeError

__all__ = ["Failure", "RopeError", "explain", "first_failure", "make_real", "set_grid"]
