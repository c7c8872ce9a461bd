"""Every file of the data set with size and content hash -> data/inventory.json. Always runs; hashes are remembered.

The data may lie anywhere, also behind a link, where DVC would not see a change: this list is what `prepare` depends on.
"""

from nightshift import settings
from nightshift.errors import run
from nightshift.files import write_json
from nightshift.inventory import hash_files
from nightshift.progress import bar
from nightshift.sources import source_files


def main() -> None:
    chosen = settings.read()
    rows = hash_files(source_files(chosen.data), bar("inventory", "file"))
    write_json("data/inventory.json", rows)
    print(f"{len(rows)} files of {chosen.use.data}: data/inventory.json")


if __name__ == "__main__":
    run(main)
