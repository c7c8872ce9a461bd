"""head.safetensors: the trained head, as every arm with SAM 3's encoder saves it."""

from pathlib import Path

from nightshift.model.segmentation import SegmentationModel
from nightshift.model.weights_file import read_weights, save_weights

NAME = "head.safetensors"


def save_head(model: SegmentationModel, folder: Path) -> None:
    """Write the head's weights."""
    save_weights(model.head.state_dict(), folder / NAME)


def load_head(model: SegmentationModel, folder: Path) -> None:
    """Put the saved weights into the head. Raises UserError for a file that is missing, damaged or of another head."""
    model.head.load_state_dict(read_weights(folder / NAME, model.head.state_dict()))
