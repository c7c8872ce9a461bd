"""What the probe costs: a shape case against building the model and running it for real, the stage against imports."""

import statistics
import subprocess
import sys
from collections.abc import Iterator

import torch

from benchmarks.timing import Row, in_turn, ratio, row, seconds
from nightshift.backbone import encoder
from nightshift.backbone.rope import first_failure
from nightshift.config import params
from nightshift.config.presets import Encoder


def rows() -> Iterator[Row]:
    """The median of the meta cases (1008 and 1024 px, five each) over one build and one forward of a 1008 px frame.

    And the stage over the imports of its cases, each in a process of its own.
    """
    preset = params.read_preset("encoder", "sam3", Encoder)
    meta = encoder.build(preset, "meta").trunk
    frames = [torch.empty(1, 3, side, side, device="meta") for side in (1008, 1024)]
    cases = [seconds(lambda frame=frame: first_failure(meta, frame)) for _ in range(5) for frame in frames]

    def real() -> None:
        with torch.no_grad():
            encoder.build(preset).trunk(torch.zeros(1, 3, 1008, 1008))

    yield row("probe_case_over_real_forward", statistics.median(cases) / seconds(real), "ratio")
    stage, imports = (lambda code=code: _python(code) for code in ("stages.probe.main()", ""))
    yield ratio("probe_seconds_over_imports", *in_turn(7, stage, imports, warm=1))


def _python(code: str) -> None:
    command = [sys.executable, "-c", f"import stages.probe, nightshift.probe.cases; {code}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
