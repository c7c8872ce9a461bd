"""All cases of a data set, and the files that it consists of, whichever kind of source it is."""

from __future__ import annotations

from pathlib import Path

from nightshift.config.presets import Coco, Dicom, ImageFolder, Manifest, Simulated
from nightshift.console.errors import UserError
from nightshift.core.project import root
from nightshift.data.locations import SYNTHETIC
from nightshift.ingest.coco import coco_cases
from nightshift.ingest.deidentify import pseudonym
from nightshift.ingest.dicom_folder import dicom_cases, dicom_files
from nightshift.ingest.image_folder import folder_cases
from nightshift.ingest.manifest import manifest_cases
from nightshift.ingest.record import Problems, SourceCase

Source = Simulated | Manifest | ImageFolder | Dicom | Coco


def list_cases(data: Source, problems: Problems) -> list[SourceCase]:
    """All cases of a source, in its own order; no pixel is read.

    Args:
        data: the preset. Its paths are relative to the main checkout (DVC_ROOT), but simulated data are those of the
            current folder, which a queued run has made itself.
        problems: gets a line for each case with a mistake, which is left out.

    Raises:
        UserError: there is no such source at all.
    """
    unique: dict[str, SourceCase] = {}
    for case in _read_source(data, problems):
        if case.case_id in unique:
            problems.append(f"{case.where}: case '{case.case_id}' is there twice; give every case an id of its own")
        unique.setdefault(case.case_id, case)
    return list(unique.values())


def _read_source(data: Source, problems: Problems) -> list[SourceCase]:
    if isinstance(data, ImageFolder):
        return folder_cases(data, root(), problems)
    if isinstance(data, Manifest):
        return manifest_cases(data, root(), problems)
    if isinstance(data, Dicom):
        return dicom_cases(data, root(), problems)
    if isinstance(data, Coco):
        return coco_cases(data, root(), problems)
    manifest = SYNTHETIC / "manifest.csv"
    if not manifest.is_file():
        raise UserError(
            f"{manifest}: no such manifest yet; `dvc repro synthesize` makes it (or for other data: -S use.data=NAME)"
        )
    return manifest_cases(Manifest(kind="manifest", path=manifest.as_posix(), split="given"), Path(), problems)


def source_files(data: Source) -> list[Path]:
    """Every existing file that the source consists of, once, sorted. `prepare` reports those that are missing."""
    if isinstance(data, Dicom):  # without their headers, which are slow to read: this runs at every `dvc repro`
        return sorted(set(dicom_files(data, root())))
    table = data.path if isinstance(data, Manifest) else data.cases if isinstance(data, ImageFolder) else None
    tables = [root() / table] if table else []
    named = {file for case in list_cases(data, Problems()) for file in case.files}
    return sorted({*tables, *(file for file in named if file.is_file())})


def public_name(data: Source, name: str) -> str:
    """The name of a file in data/inventory.json: hashed for DICOM files, which are often named after people."""
    return pseudonym(name) if isinstance(data, Dicom) else name
