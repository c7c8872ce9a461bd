"""Writes X-ray angiograms as DICOM files, for the tests."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid


def write_dicom(path: Path | str, frames: np.ndarray, syntax: str = ExplicitVRLittleEndian, **tags: Any) -> None:
    """A cine (T, H, W), uint8 or (u)int16, as an XA file of DOE^JANE, 4711-0815; `tags` that are None are left out.

    With another `syntax` than the default, `frames` are written as if they were compressed.
    """
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = XRayAngiographicImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.PatientName, made.PatientID, made.PatientBirthDate = "DOE^JANE", "4711-0815", "19500102"
    made.Modality, made.SamplesPerPixel, made.PhotometricInterpretation = "XA", 1, "MONOCHROME2"
    made.NumberOfFrames, made.Rows, made.Columns = frames.shape
    made.BitsAllocated = made.BitsStored = 8 * frames.itemsize
    made.PixelRepresentation = int(frames.dtype.kind == "i")
    made.PositionerPrimaryAngle, made.PositionerSecondaryAngle = "-30.5", "20"
    for name, value in tags.items():
        if name in made:
            delattr(made, name)
        if value is not None:
            setattr(made, name, value)
    made.HighBit = made.BitsStored - 1
    data = frames.tobytes()
    made.PixelData = data + b"\0" * (len(data) % 2)
    if syntax != ExplicitVRLittleEndian:
        made.PixelData = encapsulate([frame.tobytes() for frame in frames])
    made["PixelData"].VR = "OB" if made.BitsAllocated == 8 else "OW"
    made.save_as(path, enforce_file_format=True)
