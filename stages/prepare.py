"""The data set in one canonical form, frames and masks at native size -> data/prepared/{train,val,test}.

It is read twice: first to check all of it before anything is written, then to write it. reports/skipped.json lists the
cases left out, reports/similar.json the frames in different parts of the split that are most alike.
"""

from dataclasses import asdict
from pathlib import Path

from nightshift.config import resolved
from nightshift.config.params import DataSettings
from nightshift.console.errors import run
from nightshift.console.progress import bar
from nightshift.core.records import Skipped, SkippedCase
from nightshift.data.locations import PREPARED
from nightshift.ingest import integrity
from nightshift.ingest.prepared import write_cases


def main() -> None:
    settings: DataSettings = resolved.read("prepare", DataSettings)
    checked = integrity.check(settings, bar("check", "case"))
    split = integrity.usable(checked, settings.prepare.on_problem)
    for name, members in split.items():
        write_cases(PREPARED / name, members, bar(f"prepare {name}", "case"), report=name == "test")
    skipped = [SkippedCase(**asdict(problem)) for problem in checked.problems]
    Skipped(total=checked.total, skipped=skipped).write(Path("reports/skipped.json"))
    checked.similar.write(Path("reports/similar.json"))
    for warning in checked.warnings:
        print(f"warning: {warning}")
    counts = ", ".join(f"{len(members)} {name}" for name, members in split.items())
    left_out = checked.total - sum(map(len, split.values()))
    print(f"{counts} cases{f', {left_out} left out' if left_out else ''}: {PREPARED.as_posix()}")


if __name__ == "__main__":
    run(main)
