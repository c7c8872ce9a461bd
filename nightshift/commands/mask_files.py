"""Writes the masks of one input: PNG with overlays, DICOM Segmentation, NIfTI; a folder for each kind of file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nightshift.commands import dicom_seg
from nightshift.commands.inputs import Frame
from nightshift.commands.prediction_record import Format
from nightshift.data.painting import paint_mask

COLOUR = (86, 180, 233)  # of vessels, as in the report
Mask = np.ndarray[tuple[int, int], np.dtype[np.bool_]]


def frame_name(name: str, frame: int, frames: int) -> str:
    """`name` of a frame's PNG files, of a cine that of a folder and the number from 0 in it."""
    return name if frames == 1 else f"{name}/{frame:05d}"


class MaskFiles:
    """The files of one input, below `folder`: PNG frame by frame, the others when all frames are there.

    `masks/NAME.png` and `overlays/NAME.png`, of a cine `masks/NAME/00000.png` ...; `dicom-seg/NAME.dcm`;
    `nifti/NAME.nii.gz`.

    Args:
        path: of the input.
        name: of the outputs.
        frames: how many the input has.
        to: the formats.
        model: its name, for DICOM.
        identifiers: whether DICOM files name the patient.
    """

    def __init__(
        self, folder: Path, path: Path, name: str, frames: int, to: Sequence[Format], model: str, identifiers: bool
    ) -> None:
        self.folder, self.path, self.name, self.frames, self.to = folder, path, name, frames, to
        self.model, self.identifiers = model, identifiers
        self.masks: list[Mask] = []
        self.spacing: tuple[float, float] | None = None

    def add(self, frame: Frame, mask: Mask) -> None:
        """Take the mask (H, W) of the next frame."""
        self.spacing = frame.spacing
        if "png" in self.to:
            name = f"{frame_name(self.name, len(self.masks), self.frames)}.png"
            _save(self.folder / "masks" / name, mask.astype(np.uint8) * 255)
            _save(self.folder / "overlays" / name, paint_mask(np.asarray(frame.pixels), mask, COLOUR))
        self.masks.append(mask)

    def close(self) -> None:
        """Write the files that hold all frames."""
        if "dicom-seg" in self.to:
            header, masks = dicom_seg.checked_header(self.path), np.stack(self.masks)
            made = dicom_seg.segmentation(header, masks, self.model, self.identifiers)
            made.save_as(_parent(self.folder / "dicom-seg" / f"{self.name}.dcm"), enforce_file_format=True)
        if "nifti" in self.to:
            _save_nifti(_parent(self.folder / "nifti" / f"{self.name}.nii.gz"), self.masks, self.spacing)


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(_parent(path))


def _save_nifti(path: Path, masks: Iterable[Mask], spacing: tuple[float, float] | None) -> None:
    """0/1 (W, H, T), uint8, in the axes in which ITK writes a stack of pictures, so that viewers show it upright."""
    import nibabel

    rows, columns = spacing or (1.0, 1.0)
    image = nibabel.Nifti1Image(np.stack(list(masks)).T.astype(np.uint8), np.diag([-columns, -rows, 1.0, 1.0]))
    image.header.set_xyzt_units("mm" if spacing else "unknown")
    nibabel.save(image, path)
