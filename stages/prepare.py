"""The data set in one canonical form, frames and masks at native size -> data/prepared/{train,val,test}.

It is read twice: first all of it, to say everything that is wrong before anything is written, then to write it.
"""

from dataclasses import asdict

from nightshift.data import dataset as cases
from nightshift.ingest import integrity as checking
from nightshift.config import params as settings
from nightshift.console.errors import run
from nightshift.core.io import write_json
from nightshift.console.progress import bar


def main() -> None:
    chosen = settings.read()
    found = checking.check(chosen, bar("check", "case"))
    split = checking.usable(found, chosen.prepare.on_problem)
    for name, members in split.items():
        cases.write_cases(cases.PREPARED / name, members, bar(f"prepare {name}", "case"), report=name == "test")
    write_json("reports/skipped.json", {"total": found.total, "skipped": [asdict(one) for one in found.problems]})
    counts = ", ".join(f"{len(members)} {name}" for name, members in split.items())
    left_out = found.total - sum(map(len, split.values()))
    print(f"{counts} cases{f', {left_out} left out' if left_out else ''}: {cases.PREPARED.as_posix()}")


if __name__ == "__main__":
    run(main)
