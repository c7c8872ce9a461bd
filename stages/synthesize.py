"""Simulated angiograms -> data/raw/synthetic, where the data preset is a simulated one; else a note that says so.

data/raw/synthetic.json holds a hash of it all: `inventory`, which runs every time, depends on that one small file.
"""

from nightshift.config import params as settings
from nightshift.console.errors import run
from nightshift.core.io import replacing, write_json, write_text
from nightshift.core.hashing import hash_folder
from nightshift.console.progress import bar
from nightshift.config.params import SYNTHETIC, Simulated
from nightshift.simulation.simulator import Simulation, write_dataset


def main() -> None:
    chosen = settings.read()
    with replacing(SYNTHETIC) as folder:
        folder.mkdir()
        if isinstance(chosen.data, Simulated):
            simulation = Simulation(**chosen.data.model_dump(exclude={"kind", "split"}))
            write_dataset(simulation, folder, bar("synthesize", "case"))
        else:
            write_text(folder / "README.txt", f"Nothing is simulated for use.data={chosen.use.data}.\n")
    write_json(SYNTHETIC.with_suffix(".json"), {"sha256": hash_folder(SYNTHETIC)})
    print(f"synthetic angiograms: {SYNTHETIC.as_posix()}")


if __name__ == "__main__":
    run(main)
