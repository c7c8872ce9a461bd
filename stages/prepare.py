"""The data set in one canonical form, frames and masks at native size, and its folds -> data/prepared.

The second data set, `use.external`, is in data/external, without folds; it is empty where there is none.

Both are read twice: first to check all of it before anything is written, then to write it. reports/skipped.json lists
the cases left out, reports/similar.json the frames in different parts of a fold that are most alike, and
reports/external.json what may connect the two sets.
"""

from dataclasses import asdict
from pathlib import Path

from nightshift.config import resolved
from nightshift.config.params import DataSettings
from nightshift.console.errors import run
from nightshift.console.progress import bar
from nightshift.core.records import Skipped, SkippedCase
from nightshift.data.locations import EXTERNAL, PREPARED
from nightshift.ingest import integrity
from nightshift.ingest.prepared import write_cases, write_folds
from nightshift.ingest.splits import text_of


def main() -> None:
    settings: DataSettings = resolved.read("prepare", DataSettings)
    checked = integrity.check(settings, bar("check", "case"))
    folds = integrity.usable(checked, settings.prepare.on_problem)
    write_cases(PREPARED, checked.cases, bar("prepare", "case"))
    write_folds(PREPARED, folds)
    write_cases(EXTERNAL, checked.external.cases, bar("prepare the second set", "case"))
    skipped = [SkippedCase(**asdict(problem)) for problem in checked.problems]
    Skipped(total=checked.total, skipped=skipped).write(Path("reports/skipped.json"))
    checked.similar.write(Path("reports/similar.json"))
    checked.external.between.write(Path("reports/external.json"))
    for warning in checked.warnings:
        print(f"warning: {warning}")
    left_out = f", {checked.left_out} left out" if checked.left_out else ""
    print(f"{text_of(folds)}{left_out}: {PREPARED.as_posix()}")
    if settings.external:
        print(f"{len(checked.external.cases)} cases of {settings.external.name}: {EXTERNAL.as_posix()}")


if __name__ == "__main__":
    run(main)
