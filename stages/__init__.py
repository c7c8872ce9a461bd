"""The verbs of Nightshift: one module per DVC stage, each run as `python -m stages.NAME`."""
