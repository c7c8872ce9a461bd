"""Where pretrained weights lie: nowhere (random), in a file or a folder of the user's, or on the Hugging Face hub."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.console.errors import UserError
from nightshift.console.progress import bar
from nightshift.core.hashing import hash_files
from nightshift.core.project import root

if TYPE_CHECKING:  # pydantic is not needed for anything here
    from nightshift.config.presets import Weights

WEIGHTS = Path("data/weights")
CHECKPOINT = ("*.json", "*.txt", "*.safetensors")  # of a folder in transformers' layout what is used: no pickle


def record_of(arm: str) -> Path:
    """The file that says which weights the arm depends on: path as in params.yaml, `none` without, and `identity`."""
    return WEIGHTS / f"{arm}.json"


def identity(place: Path) -> dict[str, str | int]:
    """Size and sha256 of a file, or of all files of CHECKPOINT in a folder."""
    if place.is_file():
        row = hash_files([place], bar("weights", "file"))[0]
        return {"size": row["size"], "sha256": row["sha256"]}
    files = sorted(path for pattern in CHECKPOINT for path in place.glob(pattern))
    rows = hash_files(files, bar("weights", "file"))
    lines = "".join(f"{file.name} {row['sha256']}\n" for file, row in zip(files, rows, strict=True))
    return {"size": sum(int(row["size"]) for row in rows), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def place_of(weights: Weights, *, download: bool = False) -> Path | None:
    """The file or folder that the setting means, None for `random`; a relative path starts at the main checkout.

    Args:
        weights: the setting.
        download: ask the hub where its files are not in the cache yet (3.5 GB, once).

    Raises:
        UserError: no such file; a hub that cannot be reached, or that does not let this user in.
    """
    is_folder = weights.hub.count("/") == 1
    if weights.given == "random" and not is_folder:
        return None
    if weights.given == "hub":
        return _from_hub(weights, download)
    path = root() / weights.given
    if not (path.is_dir() if is_folder else path.is_file()):
        what = "folder; expected hub or a path" if is_folder else "file; expected random, hub or a path"
        raise UserError(f"params.yaml: {weights.key}: {weights.given}: no such {what}")
    return path


def _from_hub(weights: Weights, download: bool) -> Path:
    from huggingface_hub import errors, hf_hub_download, snapshot_download  # half a second, only where it is wanted

    if weights.hub == "none":
        raise UserError(
            f"params.yaml: {weights.key}: hub: the encoder that use.encoder names has no weights there; expected "
            "random or a path, or use.encoder=sam3.1"
        )
    owner, name, *file = weights.hub.split("/", 2)
    repository = f"{owner}/{name}"
    try:
        if file:
            return Path(hf_hub_download(repository, file[0], local_files_only=not download))
        patterns = list(CHECKPOINT)
        return Path(snapshot_download(repository, allow_patterns=patterns, local_files_only=not download))
    except errors.GatedRepoError:
        reason = f"accept its licence at https://huggingface.co/{repository}, run `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = "run `hf auth login` with a token that may read it"
    except errors.LocalEntryNotFoundError:
        download_it = "run `dvc repro stages/dvc.yaml:inputs`, which downloads it"
        reason = "connect this machine to the network" if download else download_it
    except OSError as error:
        reason = f"the hub answered '{str(error).splitlines()[0]:.80}'; try again later"
    what = f"{file[0]} of it" if file else ", ".join(CHECKPOINT) + " of it"
    raise UserError(
        f"params.yaml: {weights.key}: hub: {repository} cannot be read: {reason}, or download {what} elsewhere "
        f"and set {weights.key} to its path"
    )
