"""What the user has, whatever it looks like: all cases of a source, and the files that it is made of."""

from pathlib import Path

from nightshift.console.errors import UserError
from nightshift.ingest.coco import coco_cases
from nightshift.ingest.dicom_folder import dicom_cases, dicom_files
from nightshift.ingest.image_folder import folder_cases
from nightshift.ingest.manifest import manifest_cases
from nightshift.ingest.deidentify import pseudonym
from nightshift.ingest.record import Problems, RawCase
from nightshift.config.params import SYNTHETIC, Coco, Dicom, Folder, Manifest, Simulated, root

Source = Simulated | Manifest | Folder | Dicom | Coco


def listed(data: Source, problems: Problems) -> list[RawCase]:
    """All cases of a source, in its own order; a path in a preset is relative to the main checkout (DVC_ROOT).

    What is wrong with a case goes to `problems`, and the case is left out; no pixel is read. Synthetic data is what
    this very workspace made, so it is looked for here and not there. Raises UserError where there is no source at all.
    """
    if isinstance(data, Folder):
        cases = folder_cases(data, root(), problems)
    elif isinstance(data, Manifest):
        cases = manifest_cases(data, root(), problems)
    elif isinstance(data, Dicom):
        cases = dicom_cases(*_places(data), problems)
    elif isinstance(data, Coco):
        names = None if data.categories == "all" else data.categories
        cases = coco_cases(data.sets(root()), names, data.unannotated == "empty", problems)
    elif (made := SYNTHETIC / "manifest.csv").is_file():
        cases = manifest_cases(Manifest(kind="manifest", path=made.as_posix(), split="given"), Path(), problems)
    else:
        raise UserError(
            f"{made}: no such manifest yet; `dvc repro synthesize` makes it (or for other data: -S use.data=NAME)"
        )
    once: dict[str, RawCase] = {}
    for case in cases:
        if case.case_id in once:
            problems.append(f"{case.where}: case '{case.case_id}' is there twice; give every case an id of its own")
        once.setdefault(case.case_id, case)
    return list(once.values())


def raw_cases(data: Source) -> list[RawCase]:
    """As `listed`. Raises UserError with the first problem, and says how many there are."""
    problems = Problems()
    cases = listed(data, problems)
    if problems:
        more = f" ({len(problems)} problems in all: python -m stages.check)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)
    return cases


def source_files(data: Source) -> list[Path]:
    """Every file that the source is made of and that is there, once, sorted. What is wrong with it `prepare` says."""
    if isinstance(data, Simulated):  # one hash of it all, for a no-op `dvc repro` that stays quick
        return [SYNTHETIC.with_suffix(".json")]
    if isinstance(data, Dicom):  # headers are slow to read, and this is asked at every `dvc repro`
        return sorted(set(dicom_files(*_places(data))))
    table = data.path if isinstance(data, Manifest) else data.cases if isinstance(data, Folder) else None
    own = [root() / table] if table else []
    named = {file for case in listed(data, Problems()) for file in case.files}
    return sorted({*own, *(file for file in named if file.is_file())})


def public_name(data: Source, name: str) -> str:
    """The name of a file as data/ may have it: DICOM files are often named after people."""
    return pseudonym(name) if isinstance(data, Dicom) else name


def _places(data: Dicom) -> tuple[Path, Path, Path | None]:
    return root() / data.images, root() / data.masks, root() / data.cases if data.cases else None
