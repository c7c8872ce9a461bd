"""Where the stages keep cases, features and models, and the names that their folders and files share."""

from pathlib import Path

PREPARED = Path("data/prepared")
EXTERNAL = Path("data/external")  # the second data set, prepared; it has no folds
ENCODED = Path("data/encoded")
MODELS = Path("models")
SYNTHETIC = Path("data/raw/synthetic")
SPLITS = ("train", "val", "test")
WEIGHTS = "weights.json"  # in data/encoded/ARM: the pretrained weights, as data/weights/ARM.json has them
# Of a prepared data set. Frames and masks lie apart: `encode` depends on frames alone.
FRAMES, MASKS, FOLDS, DETAILS = "cases", "masks", "folds.json", "details.csv"


def project_of(model: Path) -> Path:
    """The project's folder, of a model in its models/ARM/fold-F/seed-S."""
    return model.absolute().joinpath(*[".."] * 4).resolve()


def model_folder(arm: Path, fold: int, seed: int) -> Path:
    """Of one model in models/ARM."""
    return arm / f"fold-{fold}" / f"seed-{seed}"
