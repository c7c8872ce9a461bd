"""One part of the GPU's benchmark, in a process of its own: `python -m benchmarks.gpu_part NAME --out FILE`.

Each row is in the file as soon as it is measured; one of the same name that was there is replaced.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from filelock import FileLock

from benchmarks import gpu_encode, gpu_epochs, gpu_latency, gpu_modes, gpu_resume, gpu_steps
from benchmarks.gpu_rows import Bench, Measurement, collected
from benchmarks.timing import Row, line
from nightshift.core.io import write_json
from nightshift.engine.device import seed_everything

MEASUREMENTS: dict[str, Callable[[Bench], Iterator[Measurement]]] = {
    "plan": gpu_steps.plan,
    "encode": gpu_encode.measurements,
    "lora": gpu_steps.lora,
    "modes": gpu_modes.measurements,
    "epochs": gpu_epochs.measurements,
    "others": gpu_steps.others,
    "latency": gpu_latency.measurements,
    "resume": gpu_resume.measurements,
}


def main() -> None:
    """Measure the part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=tuple(MEASUREMENTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    seed_everything(0)
    device = torch.device("cuda" if torch.cuda.is_available() and not arguments.small else "cpu")
    bench = Bench(device, arguments.small, arguments.out.with_suffix(".kernels.txt"))
    write_rows(arguments.out, collected(MEASUREMENTS[arguments.part](bench)))


def write_rows(out: Path, rows: Iterable[Row]) -> None:
    """Print each row and write it to `out` at once; other parts write there, too."""
    for row in rows:
        print(line(row), flush=True)
        with FileLock(out.with_suffix(".lock")):
            write_json(out, [*(one for one in read_rows(out) if one["name"] != row["name"]), row])


def read_rows(out: Path) -> list[Row]:
    """The rows in `out`, none where there is no such file yet."""
    return json.loads(out.read_text(encoding="utf-8")) if out.is_file() else []


if __name__ == "__main__":
    main()
