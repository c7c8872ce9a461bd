"""The trained models of an arm on the test cases -> reports/evaluation/ARM."""

import sys

from nightshift.config import resolved
from nightshift.config.arguments import arm_from
from nightshift.config.sections import Predict
from nightshift.console.errors import run
from nightshift.evaluation import evaluate
from nightshift.jobs import gpu_lock
from nightshift.jobs.stale_metrics import remove_metrics


def main(arm: str) -> None:
    remove_metrics()
    with gpu_lock.locked(f"evaluate@{arm}"):
        evaluate.evaluate_arm(arm, resolved.read(f"arms/{arm}/evaluate", Predict))


if __name__ == "__main__":
    run(lambda: main(arm_from(sys.argv[1:])))
