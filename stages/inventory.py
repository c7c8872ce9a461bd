"""Every file of the data set and of the weights, with size and content hash -> data/inventory.json, data/weights.json.

Always runs, so readers are imported only where they are needed, and hashes are remembered. Both may lie anywhere, also
behind a link, where DVC would not see a change: these lists are what `prepare` and the arms depend on. Weights from the
hub are downloaded here.
"""

from pathlib import Path
from typing import Any

from nightshift.backbone.pretrained import RECORD, file_of
from nightshift.console.errors import run
from nightshift.console.progress import bar
from nightshift.core.hashing import hash_files
from nightshift.core.io import read_json, write_json
from nightshift.data.locations import SYNTHETIC

SETTINGS = Path("reports/settings/inventory.json")  # checked by `env`, which writes it


def main() -> None:
    settings = read_json(SETTINGS)["settings"]
    weights = settings["weights"]
    file = file_of(weights, settings["hub"], download=True)
    rows = _data_files(settings["source"])
    write_json("data/inventory.json", rows)
    record = hash_files([file], bar("weights", "file"))[0] if file else {}
    write_json(RECORD, record | {"path": weights})
    print(f"{len(rows)} files of {settings['name']}, weights {weights}: data/inventory.json")


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
