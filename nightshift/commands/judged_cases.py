"""The cases that models are judged on: of a data set, those that they were not trained or chosen on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nightshift.commands.models import Models
from nightshift.config import params
from nightshift.config.params import DataSet
from nightshift.config.presets import DataFile
from nightshift.config.sections import View
from nightshift.console.errors import UserError, nearest
from nightshift.console.progress import bar
from nightshift.data.dataset import Cases, data_hash, open_part, read_folds
from nightshift.data.locations import FOLDS, PREPARED
from nightshift.ingest.external import KnownFrame, all_tested, known_frames
from nightshift.ingest.integrity import stop_or_list
from nightshift.ingest.near_duplicates import digest, sketch
from nightshift.ingest.prepared import write_cases
from nightshift.ingest.record import Problem, SourceCase
from nightshift.ingest.source_check import check_source, without


@dataclass(frozen=True)
class JudgedCases:
    """`what` they are, for the report, and `notes`: a sentence on each model that may have been trained on them."""

    cases: Cases
    what: str
    notes: list[str]


@contextmanager
def judged_cases(models: Mapping[str, Models], preset: str | None) -> Iterator[JudgedCases]:
    """Yield the cases of a data set that these models are judged on.

    Of use.data in params.yaml, if a model was trained on data/prepared as it is: the test cases of its fold. Else all
    cases of the data set, none of which may have a frame of the training or validation cases of such a model.

    Args:
        models: by name.
        preset: of conf/data; None is use.data.

    Raises:
        UserError: no such data set, something is wrong with it, or models of several folds.
    """
    settings = params.read()
    data = DataSet(name=settings.use.data, source=settings.source) if preset is None else _data_set(preset)
    prepared = data_hash() if (PREPARED / FOLDS).is_file() else None
    folds = {name: model.fold for name, model in models.items() if model.data_hash == prepared}
    notes = [
        f"{name} was not trained on data/prepared as it is here: nothing tells whether it knows some of these cases."
        for name in models.keys() - folds.keys()
    ]
    if folds and data.name == settings.use.data:
        fold = next(iter(folds.values()))
        if other := next((name for name, one in folds.items() if one != fold), None):
            raise UserError(
                f"--bundle {other}: of fold {folds[other]}, but {next(iter(folds))} of fold {fold}; each fold has test "
                "cases of its own: give models of one fold"
            )
        if fold >= len(read_folds().folds):
            raise UserError(f"--bundle {next(iter(folds))}: of fold {fold}, which data/prepared does not have")
        yield JudgedCases(open_part(fold, "test"), f"Test cases of fold {fold} of data/prepared.", sorted(notes))
        return
    needing = next((name for name, model in models.items() if model.takes_angles), None)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows removes no file that is still mapped
        write_cases(Path(folder), _all_cases(data, settings, needing, folds), bar("prepare", "case"))
        yield JudgedCases(Cases(Path(folder), details=True), f"All cases of {data.name}.", sorted(notes))


def _data_set(name: str) -> DataSet:
    """The preset conf/data/NAME.yaml. Raises UserError."""
    presets = Path("conf/data")
    known = sorted(path.stem for path in presets.glob("*.yaml"))
    if name not in known:
        raise UserError(f"--data {name}: no such preset in conf/data; {nearest(name, known)}")
    return DataSet(name=name, source=params.read_as(DataFile, presets / f"{name}.yaml").source)


def _all_cases(
    data: DataSet, settings: params.Settings, needing: str | None, folds: Mapping[str, int]
) -> list[SourceCase]:
    """Every case of `data` that nothing is wrong with.

    Args:
        data: the data set.
        settings: of the project.
        needing: name of a model that needs view angles, or None.
        folds: of the models that were trained on data/prepared.

    Raises:
        UserError: there are problems, and prepare.on_problem is stop; no case is left.
    """
    checking = settings.data.model_copy(update={"view": View(mode="none"), "external": None})
    source = check_source(all_tested(data), checking, bar("check", "case"))
    problems = [*source.problems, *known_frames(source, _trained_on(folds))]
    if needing and all(case.angles is None for case in source.cases):
        raise UserError(f"{data.file}: no case has view angles, which {needing} needs; name data that have them")
    for case in source.cases:
        if needing and case.angles is None:
            problems.append(Problem(case.where, case.case_id, f"no view angles, which {needing} needs; give it angles"))
    stop_or_list(problems, [data.file], settings.prepare.on_problem)
    cases = without(source.cases, problems)
    if not cases:
        raise UserError(f"{data.file}: no case is left without the problems listed above; put them right")
    return cases


def _trained_on(folds: Mapping[str, int]) -> list[KnownFrame]:
    """The frames that the models of these folds were trained or chosen on."""
    frames = []
    for name, fold in folds.items():
        for part in ("train", "val"):
            cases = open_part(fold, part)
            for case in (cases[i] for i in range(len(cases))):
                known = f"'{case.case_id}' that {name} was trained or chosen on"
                frames.append(KnownFrame(sketch(case.frame), digest(case.frame), known))
    return frames
