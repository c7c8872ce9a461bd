"""Reads an X-ray angiogram from a DICOM file: facts of its header, and a frame with the grey values that viewers show.

The functions raise UserError without the file's name, which may be that of a person; the caller adds the place.
"""

from __future__ import annotations

import math
import re
from collections.abc import MutableSequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.carm import Angles
from nightshift.console.errors import UserError, is_out_of_memory

if TYPE_CHECKING:  # imported where a file is read: `inputs` lists files at every `dvc repro`
    import numpy as np
    from pydicom import Dataset

    from nightshift.ingest.record import Pixels

    Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

ANGLES = ("PositionerPrimaryAngle", "PositionerSecondaryAngle")
NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName")
NUMBERS = (
    "PatientID", "OtherPatientIDs", "PatientBirthDate", "AccessionNumber", "StudyDate",
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
)  # fmt: skip


def header(path: Path) -> Dataset:
    """The data set of a file without its pixels. Raises UserError: no such file, not DICOM."""
    import pydicom

    # Values are checked where they are used; a warning about the others would print values of the header.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except FileNotFoundError:
        raise UserError("no such file") from None
    except Exception as error:  # pydicom raises whatever a broken file makes it stumble over
        if is_out_of_memory(error):
            raise
        raise UserError(f"not readable as a DICOM file: {error}") from None


def check(dataset: Dataset) -> None:
    """Raises UserError for a file whose pixels `frame_pixels` cannot read, or must not, with what to do."""
    from pydicom.pixels import get_decoder

    if "Rows" not in dataset or "BitsStored" not in dataset:
        raise UserError("a DICOM file without pixels; take it out of the folder")
    if "PerFrameFunctionalGroupsSequence" in dataset:
        raise UserError("an enhanced multi-frame DICOM file; export it as X-Ray Angiographic Image Storage")
    kind = dataset.get("PhotometricInterpretation")
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise UserError(f"PhotometricInterpretation {kind}; expected grey: MONOCHROME1 or MONOCHROME2")
    if dataset.get("BitsAllocated") not in (8, 16):
        raise UserError(f"BitsAllocated {dataset.get('BitsAllocated')}; expected 8 or 16")
    if dataset.get("BurnedInAnnotation") == "YES":
        raise UserError(
            "BurnedInAnnotation YES: the pixels may show the patient's name; blank it there and set the tag to NO"
        )
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise UserError("a DICOM file without TransferSyntaxUID; export it again")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise UserError(f"compressed as {syntax.name}, which pydicom does not read; decompress the file") from None
    if not decoder.is_available:
        packages = next(p for p in decoder.missing_dependencies if p.startswith("pylibjpeg"))
        names = " ".join(re.findall(r"pylibjpeg[a-z-]*(?=>)", packages))
        raise UserError(f"compressed as {syntax.name}; to read it: python -m pip install {names}")


def frames(dataset: Dataset) -> int:
    """The number of frames."""
    return int((_numbers(dataset, "NumberOfFrames") or [1])[0])


def angles(dataset: Dataset, frame: int) -> Angles | None:
    """Primary and secondary angle of a frame (from 0) in degrees, None where the header does not have both.

    An increment is relative to the first frame (PS3.3 C.8.7.5). Raises UserError: not a number, too many or too few of
    them, beyond 180 degrees.
    """
    first, second = (_angle(dataset, name, frame) for name in ANGLES)
    return None if first is None or second is None else (first, second)


def _angle(dataset: Dataset, name: str, frame: int) -> float | None:
    start, more = _numbers(dataset, name), _numbers(dataset, f"{name}Increment")
    if not start:
        return None
    for tag, values in ((name, start), (f"{name}Increment", more)):
        if len(values) not in (0, 1, frames(dataset)):
            raise UserError(f"{tag} has {len(values)} values for {frames(dataset)} frames")
    if len(more) == 1 and frames(dataset) > 1 and more[0]:
        raise UserError(f"{name}Increment has one value for {frames(dataset)} frames; expected one for each")
    angle = start[frame if len(start) > 1 else 0] + (more[frame] if len(more) > 1 else sum(more))
    if not math.fabs(angle) <= 180:
        raise UserError(f"{name} of frame {frame}: {angle:g} is not from -180 to 180 degrees")
    return angle


def spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Millimetres per pixel (row, column) in the plane of the heart, None where the header does not have them.

    PixelSpacing where it was calibrated; else ImagerPixelSpacing, which is of the detector, divided by
    EstimatedRadiographicMagnificationFactor or by the two distances that define it. Raises UserError for numbers that
    are not above 0.
    """
    own, imager = (_numbers(dataset, name) for name in ("PixelSpacing", "ImagerPixelSpacing"))
    for name, values in (("PixelSpacing", own), ("ImagerPixelSpacing", imager)):
        if values and (len(values) != 2 or min(values) <= 0):
            raise UserError(f"{name} is not two numbers above 0")
    if own and own != imager:  # a copy of the detector's spacing is no calibration
        return own[0], own[1]
    names = ("EstimatedRadiographicMagnificationFactor", "DistanceSourceToDetector", "DistanceSourceToPatient")
    factor, detector, patient = (sum(_numbers(dataset, name)[:1]) for name in names)
    if factor <= 0 and detector > 0 and patient > 0:
        factor = detector / patient
    return (imager[0] / factor, imager[1] / factor) if imager and factor > 0 else None


def identities(dataset: Dataset) -> list[str]:
    """Names, numbers and dates of the patient and the study, which must not be in a case's id; the longest first.

    Empty where the header says that they are not the patient's own any more (PatientIdentityRemoved YES).
    """
    if dataset.get("PatientIdentityRemoved") == "YES":
        return []
    words = [word for tag in NAMES for name in _values(dataset, tag) for word in re.split(r"[\^=\s,]+", name)]
    others = dataset.get("OtherPatientIDsSequence") or []
    words += [word for tag in NUMBERS for word in _values(dataset, tag)] + [patient_id(item) for item in others]
    return sorted(set(filter(None, words)), key=lambda word: (-len(word), word))


def patient_id(dataset: Dataset) -> str:
    """The header's own PatientID; empty where it has none."""
    return " ".join(_values(dataset, "PatientID"))


def _values(dataset: Dataset, name: str) -> list[str]:
    value = dataset.get(name)
    return [str(one).strip() for one in (value if isinstance(value, MutableSequence) else [value]) if one is not None]


def _numbers(dataset: Dataset, name: str) -> list[float]:
    try:
        numbers = [float(value) for value in _values(dataset, name) if value]
        if not all(map(math.isfinite, numbers)):
            raise ValueError
    except ValueError:
        raise UserError(f"{name} is not a number") from None
    return numbers


def frame_pixels(path: Path, frame: int) -> Pixels:
    """A frame (H, W), uint8, white the brightest: rescaled, then mapped by the first VOI LUT or window.

    Without either, the range of the bits stored is mapped to 0..255. Shutters, overlays and mask subtraction are not
    applied.

    Raises:
        UserError: as `header` and `check` do, and where the pixels are incomplete.
    """
    import numpy as np
    from pydicom.pixels import pixel_array

    dataset = header(path)
    check(dataset)
    try:
        stored = pixel_array(path, index=frame)
        shown = _shown(dataset, stored)
    except Exception as error:
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        raise UserError(f"frame {frame} is not readable: {error}") from None
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    pixels: Pixels = np.rint(255 * shown.clip(0, 1)).astype(np.uint8)
    return pixels


def _shown(dataset: Dataset, stored: Array) -> Array:
    """Stored values (H, W) -> 0 to 1 for black to white (PS3.3 C.11.1 and C.11.2), before MONOCHROME1 inverts it."""
    import numpy as np

    signed, top = dataset.PixelRepresentation == 1, 2.0**dataset.BitsStored
    values, low, high = stored.astype(float), -top / 2 if signed else 0.0, (top / 2 if signed else top) - 1
    table, slope = dataset.get("ModalityLUTSequence"), _numbers(dataset, "RescaleSlope")
    # With LOG and DISP that table gives the dose, and is not for display (PS3.3 C.8.7.1.1.2).
    if table and dataset.get("PixelIntensityRelationship") not in ("LOG", "DISP"):
        values, low, high = _looked_up(table[0], values)
    elif slope:
        shift = sum(_numbers(dataset, "RescaleIntercept"))
        values, (low, high) = values * slope[0] + shift, sorted((low * slope[0] + shift, high * slope[0] + shift))
    center, width = _numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth")
    if dataset.get("VOILUTSequence"):
        values, low, high = _looked_up(dataset.VOILUTSequence[0], values)
    elif center and width:
        kind = dataset.get("VOILUTFunction") or "LINEAR"
        if kind not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or width[0] < (kind == "LINEAR") or width[0] <= 0:
            raise UserError(f"a window of kind {kind} and width {width[0]:g} is none of DICOM's")
        if kind == "SIGMOID":
            sigmoid: Array = 1 / (1 + np.exp(-4 * (values - center[0]) / width[0]))
            return sigmoid
        less = kind == "LINEAR"
        middle, span = center[0] - 0.5 * less, max(width[0] - less, 1e-9)
        return (values - middle) / span + 0.5
    if low == high:
        raise UserError("RescaleSlope is 0")
    scaled: Array = (values - low) / (high - low)
    return scaled


def _looked_up(item: Dataset, values: Array) -> tuple[Array, float, float]:
    """`values` mapped by a LUT, and the ends of its range. pydicom's own wraps at 256 for LUTs of 8 bits."""
    import numpy as np

    entries, first, bits = item.LUTDescriptor
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, "<u2" if len(data) >= 2 * (entries or 2**16) else np.uint8)
    table = np.asarray(data, float)[: entries or 2**16]
    index = np.rint(values - first).clip(0, len(table) - 1).astype(int)
    return table[index], 0.0, 2.0**bits - 1
