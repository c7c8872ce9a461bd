"""All arms against the reference -> reports/comparison: numbers as JSON and CSV, plots/, report.html, report.md."""

from pathlib import Path

from nightshift.config import resolved
from nightshift.config.params import Settings
from nightshift.console.errors import run
from nightshift.reporting import compare
from nightshift.reporting.about import about_run
from nightshift.reporting.load import read_arms


def main() -> None:
    settings = resolved.read("compare", Settings)
    arms = read_arms(settings.arms, settings.compare.reference)
    compare.write(arms, settings.compare, about_run(settings, arms), Path("reports/comparison"))


if __name__ == "__main__":
    run(main)
