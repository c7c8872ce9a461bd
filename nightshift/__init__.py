"""The nouns of Nightshift: what the stages are made of. Nothing here imports from `stages`."""

import os

# Before torch is loaded: its threads sleep while they wait instead of spinning. Two runs on one CPU, a night and LoRA
# beside it, then take twice the time of one instead of ten times; one alone takes the same, and results do not change.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
