"""Masks of a DICOM file as one DICOM Segmentation of as many frames (PS3.3 A.51), with references to the file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.config.resolved import versions
from nightshift.console.errors import UserError
from nightshift.ingest import dicom

if TYPE_CHECKING:
    import numpy as np
    from highdicom.seg import Segmentation
    from pydicom import Dataset

    Masks = np.ndarray[tuple[int, int, int], np.dtype[np.bool_]]

REFERENCES = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# What a Segmentation must have, but may have blank, and beside it the descriptions.
BLANK = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
IDENTIFIERS = ("SpecificCharacterSet", *BLANK, "StudyDescription", "SeriesDescription")
SINGLE_FRAME = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture Image Storage
SYNTAX = "1.2.840.10008.1.2.1"  # Explicit VR Little Endian
NAME_LENGTH = 64  # characters of a value of type LO


def checked_header(path: Path) -> Dataset:
    """The header of a DICOM file with all that a Segmentation refers to. Raises UserError for any other file."""
    try:
        header = dicom.header(path)
    except UserError:
        raise UserError(f"{path}: not a DICOM file, and a DICOM-SEG refers to one; give --to png or nifti") from None
    if missing := [name for name in REFERENCES if not header.get(name)]:
        raise UserError(f"{path}: no {missing[0]} in its header, and a DICOM-SEG refers to it; give --to png or nifti")
    return header


def segmentation(header: Dataset, masks: Masks, model: str, identifiers: bool) -> Segmentation:
    """The masks of all frames of a file as a binary Segmentation, empty ones too.

    highdicom takes a source of several frames only with a frame of reference, which X-ray images do not have: they are
    projections. DICOM does not ask for one where each frame refers to its source. So highdicom makes the object of one
    frame, of a stand-in that has nothing of the patient, and the others are added to it.

    Args:
        header: as `checked_header` gives it.
        masks: (T, H, W), in the order of the file's frames.
        model: its name, that of the algorithm.
        identifiers: copy IDENTIFIERS from the header.
    """
    import numpy as np
    from highdicom import UID, AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.pixels import pack_bits
    from pydicom.sr.codedict import codes

    version, name = versions("nightshift")["nightshift"], model[-NAME_LENGTH:]
    segment = SegmentDescription(
        segment_number=1,
        segment_label="Coronary artery",
        segmented_property_category=codes.cid7150.AnatomicalStructure,
        segmented_property_type=codes.SCT.CoronaryArtery,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(name, codes.cid7162.ArtificialIntelligence, version),
    )
    made = Segmentation(
        source_images=[_stand_in(header, masks.shape[1:])],
        pixel_array=masks[0].astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        series_instance_uid=UID(),
        series_number=1,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer="Nightshift",
        manufacturer_model_name="nightshift predict",
        software_versions=version,
        device_serial_number="none",
        omit_empty_frames=False,
        content_label="VESSELS",
        transfer_syntax_uid=SYNTAX,
    )
    _refer(made, header, len(masks))
    made.NumberOfFrames, made.PixelData = len(masks), pack_bits(masks.astype(np.uint8))
    for keyword in IDENTIFIERS if identifiers else ():
        if keyword in header:
            made[keyword] = header[keyword]
    return made


def _stand_in(header: Dataset, size: tuple[int, ...]) -> Dataset:
    """What highdicom reads of a source with one frame, without whatever names the patient."""
    from pydicom import Dataset

    source = Dataset()
    for keyword in BLANK:
        setattr(source, keyword, "")
    for keyword in (*REFERENCES, "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in header:
            setattr(source, keyword, header[keyword].value)
    source.SOPClassUID, (source.Rows, source.Columns) = SINGLE_FRAME, size
    return source


def _refer(made: Segmentation, header: Dataset, count: int) -> None:
    """Give `made` as many frames, by time, and have each refer to its frame of the source, with the source's class."""
    from pydicom import Dataset
    from pydicom.tag import Tag

    source = made.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    for one in (made.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0], made.SourceImageSequence[0], source):
        one.ReferencedSOPClassUID = header.SOPClassUID
    time = Dataset()
    time.DimensionOrganizationUID = made.DimensionIndexSequence[0].DimensionOrganizationUID
    time.DimensionIndexPointer, time.FunctionalGroupPointer = Tag("TemporalPositionIndex"), Tag("FrameContentSequence")
    time.DimensionDescriptionLabel = "Temporal Position Index"
    made.DimensionIndexSequence.append(time)
    groups = [copy.deepcopy(made.PerFrameFunctionalGroupsSequence[0]) for _ in range(count)]
    for number, group in enumerate(groups, 1):
        content = group.FrameContentSequence[0]
        content.TemporalPositionIndex, content.DimensionIndexValues = number, [1, number]
        if "NumberOfFrames" in header:
            group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber = number
    made.PerFrameFunctionalGroupsSequence = groups
