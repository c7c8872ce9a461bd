"""Training of an arm, one model per seed; epoch and threshold by validation -> models/ARM, reports/curves/ARM.csv."""

import sys

from nightshift.config import resolved
from nightshift.config.arguments import arm_from
from nightshift.console.errors import run
from nightshift.jobs.preconditions import require_ok


def main(arm: str) -> None:
    require_ok(arm)
    from nightshift.jobs import launch  # torch: seconds, after what may refuse

    launch.run("stages.train", arm)


def work(arm: str) -> None:
    from nightshift.training import trainer

    trainer.train_arm(resolved.read_arm(arm))


if __name__ == "__main__":
    run(lambda: main(arm_from(sys.argv[1:])))
