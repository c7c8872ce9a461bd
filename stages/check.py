"""What is wrong with the data set, all of it at once -> a table, reports/check/problems.csv and contact-sheet.png.

No stage of the pipeline, but `prepare` checks the same. Exit status 1 where prepare would stop.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nightshift.ingest import integrity as checking
from nightshift.ingest import contact_sheet as contact
from nightshift.config import params as settings
from nightshift.console.errors import run
from nightshift.core.io import write_csv
from nightshift.console.progress import bar, say

FOLDER = Path("reports/check")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.check", description=__doc__)
    parser.add_argument("-S", action="append", default=[], metavar="KEY=VALUE", help="with this setting changed")
    chosen = settings.read(parser.parse_args(arguments).S)
    found = checking.check(chosen, bar("check", "case"))
    write_csv(FOLDER / "problems.csv", ("where", "case_id", "what"), [asdict(one) for one in found.problems])
    sheet = FOLDER / "contact-sheet.png"
    sheet.unlink(missing_ok=True)  # of another data set
    if found.read:
        say(f"{contact.write_sheet(sheet, found.read)} random cases, look at them: {sheet.as_posix()}")
    split = checking.usable(found, chosen.prepare.on_problem)
    counts = ", ".join(f"{len(members)} {name}" for name, members in split.items())
    left_out = found.total - sum(map(len, split.values()))
    print(f"{chosen.use.data}: {counts} cases; {f'{left_out} would be left out' if left_out else 'nothing is wrong'}")


if __name__ == "__main__":
    run(main)
