"""A folder with a trained model as graphs that need neither torch nor Nightshift, and with what it takes to check them.

bundle.json     thresholds, view, the graphs with their limits
model.onnx      frame (H, W) uint8, angles (2,) -> probability (H, W); model-float16.onnx and model.pt2 likewise
cases/          frames with the maps and masks that the trained model gives of them, in PyTorch
check.py        whether the graphs give the same; needs onnxruntime, numpy and pillow
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import onnxruntime
from PIL import Image
from pydantic import Field

from nightshift.carm import Angles
from nightshift.config.params import ArmSettings
from nightshift.console.errors import UserError
from nightshift.console.progress import bar, say
from nightshift.core.hashing import hash_folder
from nightshift.core.records import Record
from nightshift.engine.device import device
from nightshift.evaluation.rules import Rule
from nightshift.export import check
from nightshift.export.example_frames import Example
from nightshift.export.graph import FrameModel, halve, in_float32
from nightshift.export.graph_files import Pt2Session, traced, write_onnx, write_pt2
from nightshift.export.norms import replace_norms
from nightshift.model.base import ArmModel
from nightshift.model.card import Card
from nightshift.model.kinds import kind_of
from nightshift.model.predictor import CachedPredictor, threshold_mask

NAME = "bundle.json"
CASES = "cases"
Pixels = np.ndarray[tuple[int, ...], np.dtype[Any]]
Threshold = Annotated[float, Field(gt=0, lt=1)]
GraphFile = Literal["model.onnx", "model-float16.onnx"]
FORMATS = {"onnx": "model.onnx", "pt2": "model.pt2", "float16": "model-float16.onnx"}  # the last one changes the model
# By how much probabilities, and what share of a mask's pixels, may differ from the model's in PyTorch.
LIMITS: dict[GraphFile, tuple[float, float]] = {"model.onnx": (1e-4, 1e-5), "model-float16.onnx": (1e-2, 1e-3)}


class GraphRecord(Record):
    """A graph, and its LIMITS."""

    file: GraphFile
    map_limit: float
    pixel_limit: float


class BundleRecord(Record):
    """bundle.json. `low`: the lower one of two thresholds, else None; `angles`: of the cases, in degrees.

    `takes_angles`: whether they count; `data_hash`: as in the model's card.
    """

    name: str
    fold: int
    seed: int
    threshold: Threshold
    low: Threshold | None = None
    takes_angles: bool
    data_hash: str
    graphs: list[GraphRecord]
    angles: list[list[float]]
    versions: dict[str, str]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; `digest` is of bundle.json and the graph."""

    record: BundleRecord
    session: Any
    digest: str

    def maps(self, frames: Sequence[Pixels], angles: Sequence[Angles]) -> list[Pixels]:
        """Probability maps (H, W) uint16 of frames (H, W) uint8, each for its view in degrees."""
        return [
            check.probability_map(self.session, np.ascontiguousarray(frame), list(view))
            for frame, view in zip(frames, angles, strict=True)
        ]


def open_bundle(folder: Path) -> Bundle:
    """The bundle in `folder`, by its first graph. Raises UserError for a file that is missing or damaged."""
    try:
        record = BundleRecord.read(folder / NAME)
    except UserError as error:
        raise UserError(f"{str(error).split('; `dvc')[0]}; get the bundle anew from where it came") from None
    if not record.graphs:
        raise UserError(f"{folder}: no ONNX graph in it; make one with nightshift export ... --to onnx")
    file = folder / record.graphs[0].file
    wanted = ["CUDAExecutionProvider"] if device().type == "cuda" else []
    providers = [one for one in (*wanted, "CPUExecutionProvider") if one in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(file), providers=providers)
    except Exception as error:  # onnxruntime has no class of its own for what it refuses
        raise UserError(f"{file}: onnxruntime cannot open it: {str(error).splitlines()[0]:.200}") from None
    return Bundle(record, session, hash_folder(folder / NAME, file, Path(f"{file}.data")))


def write_bundle(
    folder: Path,
    card: Card,
    settings: ArmSettings,
    rule: Rule,
    formats: Sequence[str],
    examples: Sequence[Example],
    out: Path,
) -> None:
    """Write the graphs of the model in `folder` into the folder `out`, and what it takes to check them.

    Args:
        folder: models/ARM/fold-F/seed-S.
        card: in it.
        settings: of the card, with the path of the weights.
        rule: how masks are made.
        formats: some of FORMATS.
        examples: what to check by.
        out: there already.

    Raises:
        UserError: a graph does not give what the model gives; as the kind's `open_model`.
    """
    model: ArmModel = kind_of(settings).open_model(folder, in_float32(settings))
    _write_cases(model.to(device()), rule, examples, out / CASES)
    graph = FrameModel(model.cpu(), rule.mirror)
    replace_norms(graph)
    program = None
    for name in bar("export", "file")([name for name in FORMATS if name in formats]):
        if name == "float16":
            halve(model)
        if name == "float16" or program is None:
            program = traced(graph)
        write = write_pt2 if name == "pt2" else write_onnx
        write(program, out / FORMATS[name])
    files = [file for file in LIMITS if (out / file).is_file()]
    BundleRecord(
        name=card.settings.name,
        fold=card.fold,
        seed=card.seed,
        threshold=rule.threshold,
        low=rule.low,
        takes_angles=card.settings.view.mode == "film",
        data_hash=card.data_hash,
        graphs=[GraphRecord(file=file, map_limit=LIMITS[file][0], pixel_limit=LIMITS[file][1]) for file in files],
        angles=[list(angles) for _, angles in examples],
        versions={name: version(name) for name in ("nightshift", "torch", "onnx", "onnxruntime")},
    ).write(out / NAME)
    if files:
        shutil.copyfile(check.__file__, out / "check.py")
    for name, limits in {file: LIMITS[file] for file in files}.items():
        _check(onnxruntime.InferenceSession(str(out / name), providers=["CPUExecutionProvider"]), name, limits, out)
    if "pt2" in formats:
        _check(Pt2Session(out / FORMATS["pt2"]), FORMATS["pt2"], LIMITS["model.onnx"], out)


def _check(session: Any, file: str, limits: tuple[float, float], out: Path) -> None:
    """Say how near a graph comes to the model. Raises UserError where it does not come near enough."""
    same, said = check.compared(session, out, *limits)
    if not same:
        raise UserError(f"{file} does not give what the model gives: {said}; leave that format out of --to")
    say(f"{file}: {said}")


def _write_cases(model: ArmModel, rule: Rule, examples: Sequence[Example], folder: Path) -> None:
    """Write frame-I.png, map-I.png and mask-I.png of each example, as the model in PyTorch makes them."""
    folder.mkdir()
    for i, (frame, angles) in enumerate(examples):
        found = CachedPredictor(model, frame, rule.mirror).probability_map(angles)
        mask = threshold_mask(found, rule.threshold, rule.low)
        for kind, pixels in (("frame", frame), ("map", found), ("mask", mask.astype(np.uint8) * 255)):
            Image.fromarray(pixels).save(folder / f"{kind}-{i}.png")
