"""Where the encoder's weights lie: nowhere (random), in a file of the user's, or on the Hugging Face hub."""

from pathlib import Path

from nightshift.console.errors import UserError
from nightshift.core.project import root

RECORD = Path("data/weights.json")  # path as in params.yaml, size and sha256: what the arms depend on


def file_of(weights: str, hub: str, *, download: bool = False) -> Path | None:
    """The file that `encoder.weights` means, None for `random`; a relative path starts at the main checkout.

    Args:
        weights: the setting.
        hub: of the encoder's preset, what `weights: hub` means.
        download: ask the hub where its file is not in the cache yet (3.5 GB, once).

    Raises:
        UserError: no such file; a hub that cannot be reached, or that does not let this user in.
    """
    if weights == "random":
        return None
    if weights == "hub":
        return _from_hub(hub, download)
    path = root() / weights
    if not path.is_file():
        raise UserError(f"params.yaml: encoder.weights: {weights}: no such file; expected random, hub or a path")
    return path


def _from_hub(hub: str, download: bool) -> Path:
    from huggingface_hub import errors, hf_hub_download  # half a second, only where it is wanted

    if hub == "none":
        raise UserError(
            "params.yaml: encoder.weights: hub: the encoder that use.encoder names has no weights there; expected "
            "random or a path, or use.encoder=sam3.1"
        )
    owner, name, file = hub.split("/", 2)
    repository = f"{owner}/{name}"
    try:
        return Path(hf_hub_download(repository, file, local_files_only=not download))
    except errors.GatedRepoError:
        reason = f"accept its licence at https://huggingface.co/{repository}, run `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = "run `hf auth login` with a token that may read it"
    except errors.LocalEntryNotFoundError:
        reason = "connect this machine to the network" if download else "run `dvc repro inventory`, which downloads it"
    except OSError as error:
        reason = f"the hub answered '{str(error).splitlines()[0]:.80}'; try again later"
    raise UserError(
        f"params.yaml: encoder.weights: hub: {repository} cannot be read: {reason}, or download {file} of it elsewhere "
        "and set encoder.weights to its path"
    )
