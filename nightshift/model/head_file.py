"""head.safetensors: the trained head, as every arm with SAM 3's encoder saves it."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nightshift.console.errors import UserError
from nightshift.model.segmentation import SegmentationModel

NAME = "head.safetensors"


def save_head(model: SegmentationModel, folder: Path) -> None:
    """Write the head's weights."""
    save_file({name: value.cpu() for name, value in model.head.state_dict().items()}, folder / NAME)


def load_head(model: SegmentationModel, folder: Path) -> None:
    """Put the saved weights into the head. Raises UserError for a file that is missing, damaged or of another head."""
    try:
        model.head.load_state_dict(load_file(folder / NAME))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder / NAME}: not the head of this arm: {str(error).splitlines()[0]}") from None
