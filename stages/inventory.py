"""Every file of the data set and of the weights, with size and content hash -> data/inventory.json, data/weights.json.

Always runs; hashes are remembered. Both may lie anywhere, also behind a link, where DVC would not see a change: these
lists are what `prepare` and the arms depend on. Weights from the hub are downloaded here.
"""

from nightshift.config import params as settings
from nightshift.console.errors import run
from nightshift.core.io import write_json
from nightshift.core.hashing import hash_files
from nightshift.console.progress import bar
from nightshift.ingest.sources import public_name, source_files
from nightshift.backbone.pretrained import RECORD, file_of


def main() -> None:
    chosen = settings.read()
    weights = file_of(chosen.encoder.weights, download=True)
    rows = hash_files(source_files(chosen.data), bar("inventory", "file"))
    rows = [row | {"path": public_name(chosen.data, str(row["path"]))} for row in rows]
    write_json("data/inventory.json", rows)
    record = hash_files([weights], bar("weights", "file"))[0] if weights else {}
    write_json(RECORD, record | {"path": chosen.encoder.weights})
    print(f"{len(rows)} files of {chosen.use.data}, weights {chosen.encoder.weights}: data/inventory.json")


if __name__ == "__main__":
    run(main)
