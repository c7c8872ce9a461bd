"""What a shape case of the probe costs on the meta device against building the model and running it for real.

Prints one line and writes nothing: the median of the meta cases (1008 px and 1024 px, five each) over one build of the
full-size trunk with weights and one forward of a 1008 px frame.

    python -m benchmarks.probe
"""

import statistics
import time

import torch

from nightshift import encoder, settings
from nightshift.rope import first_failure
from nightshift.settings import Encoder


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    preset = settings.read_preset("encoder", "sam3", Encoder)
    meta = encoder.build(preset, "meta").trunk
    frames = [torch.empty(1, 3, side, side, device="meta") for side in (1008, 1024)]
    cases = [seconds(lambda frame=frame: first_failure(meta, frame)) for _ in range(5) for frame in frames]

    def real() -> None:
        with torch.no_grad():
            encoder.build(preset).trunk(torch.zeros(1, 3, 1008, 1008))

    whole = seconds(real)
    median = statistics.median(cases)
    print(f"probe_case_over_real_forward {median / whole:.5f} (median case {median:.3f} s, real {whole:.1f} s)")


if __name__ == "__main__":
    main()
