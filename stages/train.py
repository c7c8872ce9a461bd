"""Training of an arm, one model per fold and seed; epoch and threshold by validation -> models/ARM, reports/curves."""

import sys

from nightshift.config import resolved
from nightshift.config.arguments import arm_from
from nightshift.console.errors import run
from nightshift.jobs.preconditions import require_ok


def main(arm: str) -> None:
    require_ok(arm)
    from nightshift.jobs import launch  # torch: seconds, after what may refuse
    from nightshift.training.arm import side_by_side, trainings_of

    count = len(trainings_of(resolved.read_arm(arm)))
    launch.run("stages.train", arm, joined=not side_by_side(count))


def work(arm: str) -> None:
    from nightshift.training.arm import train_arm

    train_arm(resolved.read_arm(arm))


if __name__ == "__main__":
    run(lambda: main(arm_from(sys.argv[1:])))
