"""Reads each case once and finds what is wrong with its frame or its mask; remembers what comparing cases needs."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from nightshift.config.hardware import hardware
from nightshift.console.errors import UserError
from nightshift.ingest.near_duplicates import digest, sketch
from nightshift.ingest.record import Pixels, SourceCase
from nightshift.ingest.similar_frames import pattern

MIN_SIDE, MAX_SIDE = 32, 8192  # pixels of a frame's side; anything beyond is a thumbnail or a mistake
MIN_RANGE = 8  # between the brightest and the darkest of 256 grey values
MAX_MASK = 0.5  # share of the frame that a mask of vessels never marks

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Progress = Callable[[Iterable[SourceCase]], Iterable[SourceCase]]


@dataclass(frozen=True)
class Rules:
    """How the cases of a source are checked.

    Attributes:
        name_files: messages name the files; not for DICOM files, which are often named after people.
        allow_empty: an empty mask is right.
        patterns: frames are also compared with tolerance, because patient ids are missing.
    """

    name_files: bool = True
    allow_empty: bool = False
    patterns: bool = False


@dataclass(frozen=True)
class CaseCheck:
    """What reading one case found.

    Attributes:
        mistakes: a text each; empty for a case that is right.
        frame: digest of the frame, empty where the case cannot be read.
        mask: digest of the mask, empty where that is empty or cannot be read.
        share: of the frame that the mask marks.
        sketch: of a frame that is right, to find it saved twice.
        pattern: of a frame that is right, to find frames of one cine; where `Rules.patterns` asks for it.
    """

    mistakes: list[str] = field(default_factory=list)
    frame: bytes = b""
    mask: bytes = b""
    share: float = 0.0
    sketch: Floats | None = None
    pattern: Floats | None = None


def check_cases(cases: list[SourceCase], rules: Rules, progress: Progress) -> dict[str, CaseCheck]:
    """`check_case` of every case, by case id, in `threads` of hardware.yaml."""
    with ThreadPoolExecutor(hardware().threads) as pool:
        results = pool.map(partial(check_case, rules=rules), cases)
        try:
            return {case.case_id: check for case, check in zip(progress(cases), results, strict=True)}
        except BaseException:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C nobody waits for ten thousand files
            raise


def check_case(case: SourceCase, rules: Rules) -> CaseCheck:
    """Read a case and check it."""
    try:
        frame, mask = case.read()
    except UserError as error:
        return CaseCheck([" ".join(str(error).split()).removeprefix(f"{case.where}: ")])
    of_frame = list(_frame_mistakes(frame))
    of_mask = [] if rules.allow_empty and not mask.any() else list(_mask_mistakes(mask))
    names = (case.files[0], case.files[:2][-1]) if rules.name_files and case.files else ("frame", "mask")
    return CaseCheck(
        mistakes=[f"{names[0]}: {text}" for text in of_frame] + [f"{names[1]}: {text}" for text in of_mask],
        frame=digest(frame),
        mask=digest(mask) if mask.any() else b"",
        share=float(mask.mean()),
        sketch=None if of_frame else sketch(frame),
        pattern=pattern(frame) if rules.patterns and not of_frame else None,
    )


def _frame_mistakes(frame: Pixels) -> Iterator[str]:
    height, width = frame.shape
    if min(height, width) < MIN_SIDE or max(height, width) > MAX_SIDE:
        yield f"a frame of {height} x {width} pixels; sides from {MIN_SIDE} to {MAX_SIDE} are frames"
        return
    low, high = int(frame.min()), int(frame.max())
    if low == high:
        yield f"every pixel of the frame is {low}; take another frame, or save it anew"
    elif high - low < MIN_RANGE:
        yield f"grey values from {low} to {high} only; scale them to 0 to 255 before they become whole numbers"
    elif low == 0 and ((frame == 0) | (frame == high)).all():
        yield f"a frame of nothing but 0 and {high}, so a mask; give the picture here"


def _mask_mistakes(mask: Pixels) -> Iterator[str]:
    share = float(mask.mean())
    if share == 0:
        yield "an empty mask; draw the vessel, or take the case out"
    elif share > MAX_MASK:
        yield f"a mask that marks {share:.0%} of the frame; invert it: vessels are the foreground"
