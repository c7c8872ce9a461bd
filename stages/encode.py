"""The output of an arm's frozen prefix, once per train and val case -> data/encoded/ARM."""

import sys

from nightshift.config import resolved
from nightshift.config.arguments import arm_from
from nightshift.console.errors import run
from nightshift.jobs.preconditions import require_ok


def main(arm: str) -> None:
    verdict = require_ok(arm)
    from nightshift.jobs import launch  # torch: seconds, after what may refuse

    if verdict.prefix is None:
        from nightshift import feature_cache

        feature_cache.encode_nothing(arm)
    else:
        launch.run("stages.encode", arm)


def work(arm: str) -> None:
    from nightshift import feature_cache

    prefix = require_ok(arm).prefix
    assert prefix is not None  # as in main
    settings = resolved.read(f"arms/{arm}/encode", feature_cache.EncodeSettings)
    feature_cache.encode_arm(arm, settings, prefix)


if __name__ == "__main__":
    run(lambda: main(arm_from(sys.argv[1:])))
