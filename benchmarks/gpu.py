"""All that needs a GPU, in ten minutes on one card: how well it is used, and whether its results can be trusted.

Every part runs in a process of its own, so that one that fails, takes too long or is out of memory costs only itself.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from helpers.chain import ROOT

from benchmarks.gpu_part import read_rows, write_rows
from benchmarks.timing import Row, line, noted, row

OUT = Path("reports/benchmark-gpu.json")
MINUTES = 8.5
LAST_SECONDS = 110.0  # kept for the last parts
COLUMNS = {  # of the table, by a row's measure
    "seconds_per_case": "s/case", "share_of_peak": "of peak", "gpu_share": "GPU busy", "memory": "GB",
    "plan": "plan GB", "difference": "differs", "same_bits": "same bits",
}  # fmt: skip
PYTEST = ("-q", "-rfE", "--tb=line", "-n", "8", "-p", "no:cacheprovider")
TESTED = [f"tests/{name}" for name in ("engine", "training", "arms", "backbone", "evaluation")]


@dataclass(frozen=True)
class Part:
    """`seconds`: at most. `beside`: runs from the start on beside the others, on the CPU; `last`: with others, last."""

    name: str
    seconds: float
    beside: bool = False
    last: bool = False
    environment: dict[str, str] = field(default_factory=dict)


PARTS = (
    Part("plan", 480, beside=True, environment={"CUDA_VISIBLE_DEVICES": ""}),
    Part("encode", 90),
    Part("lora", 140),
    Part("epochs", 75),
    Part("modes", 60),
    Part("others", 75),
    Part("latency", 40),
    Part("resume", 150, last=True),
    Part("tests", 120, last=True),
)


def rows() -> Iterator[Row]:
    """The rows of all parts; none without CUDA."""
    if torch.cuda.is_available():
        measure(PARTS, OUT, MINUTES, small=False)
        yield from read_rows(OUT)


def main(given: Sequence[str]) -> None:
    """Measure the parts, then print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help=f"a JSON file, by default {OUT}")
    parser.add_argument("--parts", default="", help=f"of {','.join(part.name for part in PARTS)}; by default all")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="in all; what does not fit is left out")
    parser.add_argument("--small", action="store_true", help="a try on the CPU with the tiny encoder")
    arguments = parser.parse_args(given)
    names = arguments.parts.split(",") if arguments.parts else [part.name for part in PARTS]
    if unknown := set(names) - {part.name for part in PARTS}:
        parser.error(f"no part {', '.join(sorted(unknown))}")
    if not arguments.small and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --small tries everything on the CPU")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    measure([part for part in PARTS if part.name in names], arguments.out, arguments.minutes, arguments.small)
    print(*table(read_rows(arguments.out)), f"benchmarks: {arguments.out}", sep="\n")


def measure(parts: Sequence[Part], out: Path, minutes: float, small: bool) -> None:
    """Run the parts: those beside the others, then one after the other, then the last ones at once."""
    end = time.monotonic() + 60 * minutes
    reserved = LAST_SECONDS if any(part.last for part in parts) else 0.0
    beside = [Run(part, out, small, end) for part in parts if part.beside]
    for part in parts:
        if not part.beside and not part.last:
            Run(part, out, small, end - reserved).finish()
    last = [Run(part, out, small, end) for part in parts if part.last]
    for run in [*last, *beside]:
        run.finish()
    out.with_suffix(".lock").unlink(missing_ok=True)


class Run:
    """A part's process. What it prints is shown, its errors go to OUT.log; a line says how long it took."""

    def __init__(self, part: Part, out: Path, small: bool, end: float) -> None:
        self.part, self.out, self.start = part, out, time.monotonic()
        self.end = end if small else min(end, self.start + part.seconds)
        command = [sys.executable, "-m", "benchmarks.gpu_part", part.name, "--out", str(out.absolute())]
        self.log = out.with_suffix(".log").open("a", encoding="utf-8")
        print(f"\n==== {part.name}", file=self.log, flush=True)
        output = None
        if part.name == "tests":
            command = [sys.executable, "-m", "pytest", *PYTEST, *TESTED]
            output = out.with_suffix(".tests.txt").open("w", encoding="utf-8")
        elif small:
            command.append("--small")
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | part.environment | {"PYTHONUNBUFFERED": "1"},
            stdout=output, stderr=self.log, start_new_session=True,
        )  # fmt: skip

    def finish(self) -> None:
        """Wait for it, no longer than it may take, and write how it ended."""
        try:
            status = self.process.wait(max(0.0, self.end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            status = None
        self.log.close()
        name = f"part_{self.part.name}"
        found = [row(f"{name}.seconds", time.monotonic() - self.start, "s")]
        if status != 0:
            found.append(noted(f"{name}.ended", "out of time" if status is None else f"with status {status}"))
        if self.part.name == "tests":
            text = self.out.with_suffix(".tests.txt").read_text(encoding="utf-8").strip().splitlines()
            found += [noted(f"{name}.result", text[-1] if text else "nothing")]
        write_rows(self.out, found)


def table(found: Sequence[Row]) -> list[str]:
    """Lines of a table with COLUMNS, one for each WHAT/VARIANT, and below it what has no column."""
    cells: dict[str, dict[str, Row]] = {}
    rest = []
    for one in found:
        name, _, measure = str(one["name"]).rpartition(".")
        if measure in COLUMNS and one["value"] is not None:
            cells.setdefault(name, {})[measure] = one
        else:
            rest.append(one)
    plans = {name: values.pop("plan") for name, values in cells.items() if "plan" in values}
    lines = [f"{'':48}" + "".join(f"{title:>10}" for title in COLUMNS.values())]
    for name, values in cells.items():
        if values:
            all_values = values | {key: plans[what] for key in ("plan",) if (what := name.split("/")[0]) in plans}
            lines.append(f"{name:48}" + "".join(_cell(all_values.get(measure)) for measure in COLUMNS))
    return [*(line(one).rpartition(", torch")[0] for one in rest), "", *lines]


def _cell(one: Row | None) -> str:
    return f"{'':10}" if one is None else f"{one['value']:10.4f}"


if __name__ == "__main__":
    main(sys.argv[1:])
