"""Simulated angiograms -> data/raw/synthetic, where the data preset asks for them; else a note that it does not.

data/raw/synthetic.json holds a hash of all of them: `prepare` depends on that one small file.
"""

from pathlib import Path

from nightshift.config import resolved
from nightshift.config.presets import Section, Simulated
from nightshift.console.errors import run
from nightshift.console.progress import bar
from nightshift.core.hashing import hash_folder
from nightshift.core.io import replacing, write_json, write_text
from nightshift.simulation.simulator import Simulation, write_dataset

OUT = Path("data/raw/synthetic")


class Settings(Section):
    """`name` of the data preset, and the preset where it is a simulated one."""

    name: str
    simulated: Simulated | None


def main() -> None:
    settings: Settings = resolved.read("synthesize", Settings)
    with replacing(OUT) as folder:
        folder.mkdir()
        if settings.simulated:
            simulation = Simulation(**settings.simulated.model_dump(exclude={"kind", "split"}))
            write_dataset(simulation, folder, bar("synthesize", "patient"))
        else:
            write_text(folder / "README.txt", f"Nothing is simulated for use.data={settings.name}.\n")
    write_json(OUT.with_suffix(".json"), {"sha256": hash_folder(OUT)})
    print(f"synthetic angiograms: {OUT.as_posix()}")


if __name__ == "__main__":
    run(main)
