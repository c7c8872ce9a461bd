"""What must hold before an arm is encoded or trained: the probe found that the encoder runs as the arm uses it."""

import os
from pathlib import Path

from nightshift.console.errors import UserError
from nightshift.core.records import ArmVerdict

NO_TRAINING = "NIGHTSHIFT_NO_TRAINING"  # in the environment of a `dvc repro` that is to take arms from the run cache


def require_ok(arm: str) -> ArmVerdict:
    """The probe's verdict for an arm, from reports/probe/arms/ARM.json.

    Raises:
        UserError: the verdict is not ok, with cause and cure; or NO_TRAINING is set.
    """
    if os.environ.get(NO_TRAINING):
        raise UserError(
            f"arm {arm} is not trained with the present settings, code and data, and nothing is trained by itself: "
            f"`dvc repro train@{arm}` does it"
        )
    verdict = ArmVerdict.read(Path("reports/probe/arms") / f"{arm}.json")
    if not verdict.ok:
        raise UserError(f"the probe refuses arm {arm}: {verdict.cause}. {verdict.cure}")
    return verdict
