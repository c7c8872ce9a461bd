"""Every file of the data set and of the weights, with size and content hash -> data/inventory.json, data/weights.

Always runs, so readers are imported only where they are needed, and hashes are remembered. Both may lie anywhere, also
behind a link, where DVC would not see a change: these lists are what `prepare` and the arms depend on. Weights from the
hub are downloaded here.
"""

from pathlib import Path
from typing import Any

from nightshift.backbone.pretrained import identity, place_of, record_of
from nightshift.config.presets import Weights
from nightshift.console.errors import run
from nightshift.console.progress import bar
from nightshift.core.hashing import hash_files
from nightshift.core.io import read_json, write_json
from nightshift.data.locations import SYNTHETIC

SETTINGS = Path("reports/settings/inventory.json")  # checked by `env`, which writes it


def main() -> None:
    settings = read_json(SETTINGS)["settings"]
    rows = [row for one in (settings, settings["external"]) if one for row in _data_files(one["source"])]
    write_json("data/inventory.json", rows)
    for arm, weights in settings["weights"].items():
        write_json(record_of(arm), _record(weights))
    print(f"{len(rows)} files of {settings['name']}, weights of {len(settings['weights'])} arms: data/inventory.json")


def _record(values: dict[str, str] | None) -> dict[str, str | int]:
    """Of the weights that an arm depends on; they are downloaded where the hub has them."""
    if values is None:
        return {"path": "none"}
    weights = Weights(**values)
    place = place_of(weights, download=True)
    return {"path": weights.given} | (identity(place) if place else {})


def _data_files(source: dict[str, Any]) -> list[dict[str, str | int]]:
    """A row of path, size and sha256 for each file of the data set."""
    if source["kind"] == "simulated":  # one hash of them all, and no reader is imported
        return hash_files([SYNTHETIC.with_suffix(".json")], bar("inventory", "file"))
    from nightshift.config.presets import DataFile
    from nightshift.ingest.sources import public_name, source_files

    data = DataFile.model_validate({"source": source}).source
    rows = hash_files(source_files(data), bar("inventory", "file"))
    return [row | {"path": public_name(data, str(row["path"]))} for row in rows]


if __name__ == "__main__":
    run(main)
