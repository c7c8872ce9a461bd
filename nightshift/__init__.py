"""Nightshift: SAM 3's frozen encoder against trained ones, on coronary angiograms. The packages, lower ones first:

console, config, core, carm, simulation, engine, jobs, ingest, data, backbone, model, arms, feature_cache, training,
evaluation, probe, reporting, commands. A package imports only from those before it.
"""

import os

# Set before torch is loaded: its threads sleep while they wait instead of spinning. Two runs on one CPU, a queued one
# and LoRA beside it, then take twice the time of one instead of ten times; one alone takes the same, and results do
# not change.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# MONAI imports MLflow wherever it is installed, and MLflow would report to its makers that it is used.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Pydantic would look through all installed packages for plugins, which is a tenth of what `inputs` takes.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
