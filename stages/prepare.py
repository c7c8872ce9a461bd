"""The data set in one canonical form, frames and masks at native size -> data/prepared/{train,val,test}."""

from nightshift import cases, settings, splits
from nightshift.errors import run
from nightshift.progress import bar
from nightshift.sources import raw_cases


def main() -> None:
    chosen = settings.read()
    found = raw_cases(chosen.data)
    split = splits.given_split(found) if chosen.data.split == "given" else splits.made_split(found, chosen.prepare)
    for name, members in split.items():
        cases.write_cases(cases.PREPARED / name, members, bar(f"prepare {name}", "case"), report=name == "test")
    counts = ", ".join(f"{len(members)} {name}" for name, members in split.items())
    print(f"{counts} cases: {cases.PREPARED.as_posix()}")


if __name__ == "__main__":
    run(main)
