"""What DVC does not see by itself -> reports/settings, reports/env.json, data/inventory.json, data/weights.

The settings that each stage reads, resolved and checked as a whole before any other stage starts; the installed
versions; size and content hash of every file of the user's data sets and weights, which may lie anywhere, also behind a
link. Always runs, in a quarter of a second: readers are imported only where they are needed, and hashes are remembered.
Weights from the hub are downloaded here.
"""

import platform
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.backbone.pretrained import WEIGHTS, identity, place_of
from nightshift.config import params, resolved
from nightshift.config.presets import Simulated, Weights
from nightshift.console.errors import run
from nightshift.console.progress import bar
from nightshift.core.hashing import hash_files
from nightshift.jobs.stale_metrics import remove_stale_metrics

if TYPE_CHECKING:
    from nightshift.ingest.sources import Source


def main() -> None:
    settings = params.read()
    versions = {"python": platform.python_version()} | resolved.versions(*resolved.ALL)
    resolved.write_if_changed(Path("reports/env.json"), versions)
    resolved.write_all(settings)
    remove_stale_metrics()
    rows = [row for one in settings.data.sets for row in _data_files(one.source)]
    resolved.write_if_changed(Path("data/inventory.json"), rows)
    resolved.write_folder(WEIGHTS, {arm: _record(settings.arm(arm).weights) for arm in settings.arms})
    names = " and ".join(one.name for one in settings.data.sets)
    print(f"{names}: {len(rows)} files of the user; weights of {len(settings.arms)} arms: data/inventory.json")


def _record(weights: Weights | None) -> dict[str, str | int]:
    """Of the weights that an arm depends on; they are downloaded where the hub has them."""
    if weights is None:
        return {"path": "none"}
    place = place_of(weights, download=True)
    return {"path": weights.given} | (identity(place) if place else {})


def _data_files(source: "Source") -> list[dict[str, str | int]]:
    """A row of path, size and sha256 for each file of a data set; none of a simulated one, which DVC makes itself."""
    if isinstance(source, Simulated):
        return []
    from nightshift.ingest.sources import public_name, source_files

    rows = hash_files(source_files(source), bar("inventory", "file"))
    return [row | {"path": public_name(source, str(row["path"]))} for row in rows]


if __name__ == "__main__":
    run(main)
