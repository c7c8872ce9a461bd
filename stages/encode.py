"""The output of an arm's frozen prefix, once per train and val case -> data/encoded/ARM."""

import sys

from nightshift.config import resolved
from nightshift.config.arguments import arm_from
from nightshift.console.errors import run
from nightshift.jobs.preconditions import require_ok


def main(arm: str) -> None:
    require_ok(arm)
    from nightshift.jobs import launch  # torch: seconds, after what may refuse

    launch.run("stages.encode", arm)


def work(arm: str) -> None:
    from nightshift import feature_cache

    settings = resolved.read(f"arms/{arm}/encode", feature_cache.EncodeSettings)
    feature_cache.encode_arm(arm, settings, require_ok(arm).prefix)


if __name__ == "__main__":
    run(lambda: main(arm_from(sys.argv[1:])))
