"""No arm starts on a configuration that the probe found to fail, or where only what is cached was asked for."""

import os
from pathlib import Path

from nightshift.console.errors import UserError
from nightshift.core.io import read_json

NO_TRAINING = "NIGHTSHIFT_NO_TRAINING"  # in the environment of a `dvc repro` that is to take arms from the run cache


def require_ok(arm: str) -> None:
    """Raises UserError with cause and cure when reports/probe/ARM.json is not ok, or when NO_TRAINING is set."""
    if os.environ.get(NO_TRAINING):
        raise UserError(
            f"the {arm} arm is not trained with the present settings, code and data, and nothing is trained by "
            f"itself: `dvc repro train_{arm}` does it"
        )
    verdict = read_json(Path("reports/probe") / f"{arm}.json")
    if not verdict["ok"]:
        raise UserError(f"the probe refuses the {arm} arm: {verdict['cause']}. {verdict['cure']}")
