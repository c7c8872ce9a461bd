"""The trained models of an arm on the test cases -> reports/evaluation/ARM."""

import sys

from nightshift.config.arguments import arm_from
from nightshift.console.errors import run
from nightshift.evaluation import evaluate
from nightshift.jobs import gpu_lock


def main(arm: str) -> None:
    with gpu_lock.locked(f"evaluate@{arm}"):
        evaluate.evaluate_arm(arm)


if __name__ == "__main__":
    run(lambda: main(arm_from(sys.argv[1:])))
