"""Installed versions, and the settings that each stage reads -> reports/env.json, reports/settings.

Always runs, in half a second: neither packages nor settings that were resolved are a dependency by themselves. Settings
are checked as a whole here, before any other stage starts.
"""

import platform
from pathlib import Path

from nightshift.config import params, resolved
from nightshift.console.errors import run
from nightshift.jobs.stale_metrics import remove_stale_metrics


def main() -> None:
    settings = params.read()
    versions = {"python": platform.python_version()} | resolved.versions(*resolved.ALL)
    resolved.write_if_changed(Path("reports/env.json"), versions)
    resolved.write_all(settings)
    remove_stale_metrics()


if __name__ == "__main__":
    run(main)
