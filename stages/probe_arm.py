"""Whether the configured encoder runs as an arm uses it, and what of it is kept -> reports/probe/arms/ARM.json."""

import sys
from pathlib import Path

from nightshift.config import resolved
from nightshift.config.arguments import arm_from
from nightshift.console.errors import run
from nightshift.probe.arm import ProbeArm, verdict_of


def main(arm: str) -> None:
    verdict = verdict_of(resolved.read(f"arms/{arm}/probe", ProbeArm))
    verdict.write(Path(f"reports/probe/arms/{arm}.json"))
    if verdict.prefix is None:
        print(f"{arm}: does not use sam3's encoder, so none of its RoPE can fail")
    else:
        print(f"{arm}: runs as configured" if verdict.ok else f"{arm}: {verdict.cause}. {verdict.cure}")


if __name__ == "__main__":
    run(lambda: main(arm_from(sys.argv[1:])))
