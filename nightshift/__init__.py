"""Nightshift: SAM 3's frozen encoder against trained ones, on coronary angiograms. The packages, lower ones first:

console, config, core, carm, simulation, engine, jobs, ingest, data, backbone, model, arms, feature_cache, training,
evaluation, probe, reporting, commands. A package imports only from those before it.
"""

import os

# Set before torch is loaded: threads that wait sleep, on Linux (GNU's OpenMP) after they spun for some microseconds,
# not for a millisecond. Two runs on two cores, a queued one and LoRA beside it, take 2.4 times as long as one, not ten
# times. If they slept at once it would be twice, and a run alone would take a sixth longer. Results do not change.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
# MONAI imports MLflow wherever it is installed, and MLflow would report to its makers that it is used.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Pydantic would look through all installed packages for plugins, which is a tenth of what `inputs` takes.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
