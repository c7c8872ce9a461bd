"""Where the stages keep cases, features and models, and the names that their folders and files share."""

from pathlib import Path

PREPARED = Path("data/prepared")
ENCODED = Path("data/encoded")
MODELS = Path("models")
SYNTHETIC = Path("data/raw/synthetic")
SPLITS = ("train", "val", "test")
LEVELS = 3  # of the neck's levels, finest first, those that the head uses
