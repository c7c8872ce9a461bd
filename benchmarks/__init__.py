"""Speed and memory, as ratios that are measured side by side in one run; never in a timed test."""

import sys
from pathlib import Path

# Some run the miniature pipeline of the tests: `from helpers.chain import clone`.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
