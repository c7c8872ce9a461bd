"""Writes a prepared data set, which `nightshift.data.dataset` reads."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nightshift.core.io import replacing, write_csv
from nightshift.core.records import Fold, Folds
from nightshift.data.dataset import FIELDS, SPACING, free_name
from nightshift.data.locations import DETAILS, FOLDS, FRAMES, MASKS
from nightshift.data.shards import shard_writer
from nightshift.ingest.record import SourceCase
from nightshift.ingest.splits import Split

Progress = Callable[[Iterable[SourceCase]], Iterable[SourceCase]]


def write_cases(folder: Path, cases: Sequence[SourceCase], progress: Progress) -> None:
    """Write into `folder`: cases/ with a table and frame.N of case N, masks/ with mask.N, and details.csv.

    details.csv has spacing and groups. Nothing is learned from them: they lie apart, so that a column more in the
    user's table trains nothing again.

    Args:
        folder: of the data set; what is replaced in it is replaced as a whole.
        cases: read one after the other.
        progress: wraps the loop over the cases, as `nightshift.console.progress.bar` does.

    Raises:
        UserError: a case that cannot be read.
    """
    rows: list[dict[str, object]] = []
    with replacing(folder / FRAMES) as frames, replacing(folder / MASKS) as masks:
        with shard_writer(frames) as add_frame, shard_writer(masks) as add_mask:
            for i, case in enumerate(progress(cases)):
                frame, mask = case.read()
                add_frame(f"frame.{i}", frame)
                add_mask(f"mask.{i}", mask)
                values = (case.case_id, case.patient_id, *(case.angles or ("", "")), *frame.shape)
                rows.append(dict(zip(FIELDS, values, strict=True)))
        write_csv(frames / "cases.csv", FIELDS, rows)
    columns = _extra_columns(cases)
    write_csv(folder / DETAILS, ("case_id", *columns), [_details(case, columns) for case in cases])


def write_folds(folder: Path, folds: Sequence[Split]) -> None:
    """Write folds.json into `folder`."""
    Folds(folds=[Fold(**{part: [case.case_id for case in of_part] for part, of_part in fold.items()}) for fold in folds]
    ).write(folder / FOLDS)  # fmt: skip


def _extra_columns(cases: Sequence[SourceCase]) -> list[str]:
    spacing = SPACING if any(case.spacing for case in cases) else ()
    return list(
        dict.fromkeys([*spacing, *(free_name(name, FIELDS + SPACING) for case in cases for name in case.groups)])
    )


def _details(case: SourceCase, columns: list[str]) -> dict[str, object]:
    values: dict[str, object] = dict(zip(SPACING, case.spacing or ("", ""), strict=True))
    values |= {free_name(name, FIELDS + SPACING): value for name, value in case.groups.items()}
    return {"case_id": case.case_id} | {name: values.get(name, "") for name in columns}
