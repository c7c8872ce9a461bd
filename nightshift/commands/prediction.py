"""Masks of files by trained models, several frames at once; what was stopped goes on.

In DIR/.unfinished is NAME.json of every input that is done, which appears after its masks, and where several models are
asked NAME.K.npy: the maps of model K, until the last model is done with the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from nightshift.carm import Angles
from nightshift.commands import dicom_seg
from nightshift.commands.inputs import Frame, frames_of, identities_of
from nightshift.commands.mask_files import Mask, MaskFiles, frame_name
from nightshift.commands.models import Models
from nightshift.commands.prediction_record import AskedFile, Format, LeftOutFiles, Prediction, Predictions
from nightshift.console.errors import UserError
from nightshift.console.progress import bar
from nightshift.core.hashing import sha256
from nightshift.core.io import remove, replacing, write_text
from nightshift.ingest.deidentify import hidden
from nightshift.model.predictor import MAP_MAX, MapMaker, threshold_mask

UNFINISHED = ".unfinished"
GROUP = 1000  # frames; of so many, maps are kept on disk until each of several models has been opened
DONE = TypeAdapter(list[Prediction])
ProbabilityMap = np.ndarray[tuple[int, ...], np.dtype[np.uint16]]


@dataclass(frozen=True)
class Input:
    """A file to segment, and what predictions.json says of it."""

    path: Path
    asked: AskedFile


def frames_with_angles(path: Path, given: Angles | None, takes_angles: bool) -> list[tuple[Frame, Angles]]:
    """Every frame of a file with its angles: those that are given, else the file's own.

    They are (0, 0) for models that do not take them. Raises UserError where they do and a frame has none.
    """
    frames = frames_of(path)
    if not takes_angles:
        return [(frame, (0.0, 0.0)) for frame in frames]
    found = [(frame, given or frame.angles) for frame in frames]
    if any(angles is None for _, angles in found):
        raise UserError(
            f"{path}: no view angles, and this model was trained with them (view.mode: film); "
            "give them with --angles PRIMARY SECONDARY or --angles-csv FILE"
        )
    return [(frame, angles) for frame, angles in found if angles is not None]


def read_inputs(
    files: Mapping[Path, str],
    given: Mapping[Path, Angles],
    takes_angles: bool,
    to: Sequence[Format],
    identifiers: bool,
    left_out: LeftOutFiles,
) -> list[Input]:
    """The files with frames that can be read, so that a mistake in the last is found before anything is written.

    Without `identifiers`, no name or number of a patient in any header is in what predictions.json gets: an output that
    would be named after one is named by its place among the files.

    Raises UserError as `LeftOutFiles.about` does, and where no file is left.
    """
    counts: dict[Path, int] = {}
    words: set[str] = set()
    for path in bar("read", "file")(files):
        with left_out.about(path):
            words.update(() if identifiers else identities_of(path))
            if "dicom-seg" in to:
                dicom_seg.checked_header(path)
            counts[path] = len(frames_with_angles(path, given.get(path), takes_angles))
    if not counts:
        raise UserError("no file to predict is left: all were left out")
    for one in left_out:
        one.file, one.reason = hidden(one.file, words), hidden(one.reason, words)
    inputs, taken = [], set[str]()
    for number, (path, name) in enumerate(files.items(), 1):
        if path in counts:
            asked = AskedFile(
                file=hidden(path.as_posix(), words),
                name=_free_name(name if hidden(name, words) == name else f"file-{number:05d}", taken),
                sha256=sha256(path),
                frames=counts[path],
                angles=given.get(path),
            )
            inputs.append(Input(path, asked))
    return inputs


def _free_name(name: str, taken: set[str]) -> str:
    """`name`, or the first of name-2, name-3 ... that is not taken, also where a disk does not tell A from a."""
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free.casefold())
    return free


class Run:
    """Predicts `inputs` into the folder `out`, from where an earlier run with the same `record` was stopped.

    Models are opened one after the other: together they may not fit in memory.

    Args:
        models: those that the record names.
        inputs: those that the record names.
        record: is written when the first model is open, so that one that cannot be opened leaves nothing behind.
        batch: frames in a call of a MapMaker.
    """

    def __init__(self, models: Models, inputs: Sequence[Input], record: Predictions, out: Path, batch: int) -> None:
        self.models, self.inputs, self.record, self.out, self.batch = models, inputs, record, out, batch
        self.work = out / UNFINISHED

    def steps(self) -> tuple[int, int]:
        """How many maps of frames there are in all, one per model, and how many of them are not to be made again."""
        count = len(self.models.makers)
        has = [(one, sum(self._has(one, k) for k in range(count))) for one in self.inputs]
        return sum(one.asked.frames * count for one in self.inputs), sum(one.asked.frames * k for one, k in has)

    def predict(self, advance: Callable[[int], object]) -> None:
        """Write what is missing, and then all predictions into the record. `advance` is told of each map."""
        for group in self._groups():
            for k, open_model in enumerate(self.models.makers):
                if left := [one for one in group if not self._has(one, k)]:
                    maps = self._maps(open_model(), left, advance)
                    self._begin()
                    for one in left:
                        self._take(one, k, islice(maps, one.asked.frames))
        done = [DONE.validate_json(self._done(one).read_bytes()) for one in self.inputs]
        self.record.predictions, self.record.finished = [row for rows in done for row in rows], True
        self.record.write(self.out)
        remove(self.work)

    def _begin(self) -> None:
        if not self.out.exists() or not any(self.out.iterdir()):
            with replacing(self.out) as folder:
                (folder / UNFINISHED).mkdir(parents=True)
                self.record.write(folder)

    def _groups(self) -> Iterator[list[Input]]:
        """All inputs for a single model; for several, as many at a time as have GROUP frames, or a single one."""
        group: list[Input] = []
        for one in self.inputs:
            frames = sum(other.asked.frames for other in group) + one.asked.frames
            if group and frames > GROUP and len(self.models.makers) > 1:
                yield group
                group = []
            group.append(one)
        yield group

    def _done(self, one: Input) -> Path:
        return self.work / f"{one.asked.name}.json"

    def _kept(self, one: Input, k: int) -> Path:
        return self.work / f"{one.asked.name}.{k}.npy"

    def _has(self, one: Input, k: int) -> bool:
        """Whether the maps of model `k` are made, and are on disk or in the masks."""
        return self._done(one).exists() or self._kept(one, k).exists()

    def _maps(
        self, make: MapMaker, inputs: Iterable[Input], advance: Callable[[int], object]
    ) -> Iterator[tuple[Frame, ProbabilityMap]]:
        """Every frame of the inputs with its map; a batch may have frames of several files."""
        asked = (pair for one in inputs for pair in self._frames(one))
        while batch := list(islice(asked, self.batch)):
            pixels = [np.array(frame.pixels) for frame, _ in batch]  # a copy: torch warns of mapped files
            maps = make(pixels, [angles for _, angles in batch])
            yield from zip((frame for frame, _ in batch), maps, strict=True)
            advance(len(batch))

    def _frames(self, one: Input) -> list[tuple[Frame, Angles]]:
        if sha256(one.path) != one.asked.sha256:
            raise UserError(f"{one.path}: has changed since it was read; name a new folder with -o")
        return frames_with_angles(one.path, one.asked.angles, self.models.takes_angles)

    def _take(self, one: Input, k: int, maps: Iterable[tuple[Frame, ProbabilityMap]]) -> None:
        """Keep the maps of an input by model `k`, or where it is the last one write the masks."""
        if k + 1 < len(self.models.makers):
            with replacing(self._kept(one, k)) as temporary, temporary.open("wb") as file:
                np.save(file, np.stack([probability for _, probability in maps]))
            return
        kept = [np.load(self._kept(one, other), mmap_mode="r") for other in range(k)]
        folder, rule, asked = self.work / one.asked.name, self.models.rule, self.record.asked
        remove(folder)
        files = MaskFiles(
            folder, one.path, one.asked.name, one.asked.frames, asked.to, self.models.name, asked.identifiers
        )
        rows = []
        for i, (frame, last) in enumerate(maps):
            total = sum((of_model[i].astype(np.uint32) for of_model in kept), last.astype(np.uint32))
            probability = (total / (k + 1)).round().astype(np.uint16)
            mask = threshold_mask(probability, rule.threshold, rule.low)
            files.add(frame, mask)
            rows.append(_prediction(one.asked, i, probability, mask, frame))
        files.close()
        for path in [path for kind in folder.iterdir() for path in kind.iterdir()]:
            target = self.out / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            remove(target)  # of a run that was killed before it wrote NAME.json
            path.replace(target)
        write_text(self._done(one), DONE.dump_json(rows).decode())
        remove(folder)
        del kept  # Windows does not remove a file that is mapped
        for other in range(k):
            remove(self._kept(one, other))


def _prediction(asked: AskedFile, i: int, probability: ProbabilityMap, mask: Mask, frame: Frame) -> Prediction:
    """What predictions.json says of the map (H, W) of frame `i` and its mask (H, W)."""
    height, width = mask.shape
    area = int(mask.sum())
    return Prediction(
        file=asked.file,
        name=frame_name(asked.name, i, asked.frames),
        height=height,
        width=width,
        area=area,
        area_mm2=None if frame.spacing is None else round(area * frame.spacing[0] * frame.spacing[1], 3),
        confidence=round(float(probability[mask].mean()) / MAP_MAX, 6) if area else None,
    )
