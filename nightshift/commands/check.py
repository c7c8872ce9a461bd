"""Everything that is wrong with the data set -> a table, problems.csv and pictures of random cases in reports/check.

The stage `prepare` checks the same. Exit status 1 where it would stop.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from nightshift.commands.options import add_changes

HELP = "everything that is wrong with the data set, and pictures of random cases"
EXAMPLE = """
nightshift check
nightshift check -S use.data=angiograms -S view.mode=none
"""
FOLDER = Path("reports/check")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nightshift check`."""
    add_changes(parser)


def main(arguments: argparse.Namespace) -> None:
    """Check the data set of params.yaml. Raises UserError as `nightshift.ingest.integrity.usable` does."""
    from nightshift.commands import contact_sheet
    from nightshift.config import params
    from nightshift.console.progress import bar, say
    from nightshift.core.io import write_csv
    from nightshift.ingest import integrity, splits

    settings = params.read(arguments.changes).data
    checked = integrity.check(settings, bar("check", "case"))
    rows = [asdict(problem) for problem in checked.problems]
    write_csv(FOLDER / "problems.csv", ("where", "case_id", "what"), rows)
    sheet, pairs = FOLDER / "contact-sheet.png", FOLDER / "similar-pairs.png"
    for old in (sheet, pairs):
        old.unlink(missing_ok=True)  # it may be of another data set
    if checked.readable:
        count = contact_sheet.write_contact_sheet(sheet, checked.readable)
        say(f"{count} random cases, look at them: {sheet.as_posix()}")
    if checked.similar.most_alike:
        contact_sheet.write_pairs(pairs, checked.similar.most_alike, checked.readable)
        say(f"{integrity.similar_text(checked.similar)}\nlook at them: {pairs.as_posix()}")
    for warning in checked.warnings:
        say(f"warning: {warning}")
    folds = integrity.usable(checked, settings.prepare.on_problem)
    result = "nothing is wrong" if not checked.warnings else "see the warning above"
    found = f"{checked.left_out} would be left out" if checked.left_out else result
    print(f"{settings.name}: {splits.text_of(folds)}; {found}")
    if settings.external:
        print(f"{settings.external.name}: {len(checked.external.cases)} cases to test every model on")
