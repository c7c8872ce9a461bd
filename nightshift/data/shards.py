"""Stores many named arrays in few files: safetensors shards of at most 64 MB (unless one array is larger).

DVC hashes a few large files far faster than thousands of small ones; files are memory-mapped, so that reading one array
reads no other.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from nightshift.core.io import read_json, write_json

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]
LIMIT = 64 * 2**20  # bytes


@contextmanager
def shard_writer(folder: Path) -> Iterator[Callable[[str, Array], None]]:
    """Yield a function that adds a named array (any shape) to `folder`/shard-00000.safetensors ...

    The end of the block writes index.json, name -> shard.
    """
    index: dict[str, str] = {}
    shard: dict[str, Array] = {}

    def flush() -> None:
        if shard:
            name = f"shard-{len(set(index.values())):05d}.safetensors"
            save_file(shard, folder / name)
            index.update(dict.fromkeys(shard, name))
            shard.clear()

    def add(name: str, array: Array) -> None:
        if sum(a.nbytes for a in shard.values()) + array.nbytes > LIMIT:
            flush()
        shard[name] = np.ascontiguousarray(array)

    folder.mkdir(parents=True, exist_ok=True)
    yield add
    flush()
    write_json(folder / "index.json", index)


class Shards:
    """The arrays in a folder of shards: `shards[name]` reads one, as a NumPy array or (framework `pt`) a tensor.

    Attributes:
        index: file of each array, by its name.
    """

    def __init__(self, folder: Path, framework: Literal["numpy", "pt"] = "numpy") -> None:
        self.index: dict[str, str] = read_json(folder / "index.json")
        self._files = {name: safe_open(folder / name, framework=framework) for name in sorted(set(self.index.values()))}

    def __getitem__(self, name: str) -> Any:
        return self._files[self.index[name]].get_tensor(name)
