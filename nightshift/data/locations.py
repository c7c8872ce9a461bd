"""Where the stages keep cases, features and models, and the names that their folders and files share."""

from pathlib import Path

PREPARED = Path("data/prepared")
ENCODED = Path("data/encoded")
MODELS = Path("models")
SYNTHETIC = Path("data/raw/synthetic")
SPLITS = ("train", "val", "test")
WEIGHTS = "weights.json"  # in data/encoded/ARM: the pretrained weights, as data/weights/ARM.json has them
