"""The geometry of a C-arm and the path of its rays through round vessels.

Angles follow DICOM (PS3.3 C.8.7.5, Positioner Primary / Secondary Angle) in degrees: + LAO and - RAO, + cranial and
- caudal, for the side on which the detector stands. The frame is shown as the detector faces the patient: at AP the
patient's left is at the right of the picture and the head is up.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np

from nightshift.simulation.anatomy import Array, Vessel

SOURCE_TO_ISOCENTRE = 765.0  # mm, a usual C-arm
SUPERSAMPLE = 2  # sub-pixels along a side of a pixel
MOST_STRETCH = 3.0  # limit of the chord's growth where a vessel runs along the ray


@dataclass(frozen=True)
class CArm:
    """One view: angles in degrees, `shift` of the table (right, up) in mm and pixel `pitch` in mm at the isocentre."""

    primary_angle: float
    secondary_angle: float
    pitch: float
    shift: tuple[float, float]
    size: int

    @property
    def axes(self) -> Array:
        """(3, 3), rows in patient coordinates: the picture's right, the picture's up, and towards the detector."""
        a, b = np.radians([self.primary_angle, self.secondary_angle])
        return np.array(
            [
                [np.cos(a), np.sin(a), 0.0],
                [-np.sin(b) * np.sin(a), np.sin(b) * np.cos(a), np.cos(b)],
                [np.cos(b) * np.sin(a), -np.cos(b) * np.cos(a), np.sin(b)],
            ]
        )

    def project(self, points: Array) -> tuple[Array, Array]:
        """Cone-beam projection of points (N, 3) mm about the isocentre.

        Returns (row, column) positions (N, 2) in pixels, where the centre of pixel i is at i + 0.5, and the
        magnification (N,) relative to the isocentre: structures near the source are shown larger.
        """
        right, up, towards = self.axes @ points.T
        magnification = SOURCE_TO_ISOCENTRE / (SOURCE_TO_ISOCENTRE + towards)
        column = self.size / 2 + (right * magnification + self.shift[0]) / self.pitch
        row = self.size / 2 - (up * magnification + self.shift[1]) / self.pitch
        return np.stack([row, column], axis=1), magnification


@dataclass(frozen=True)
class Shadow:
    """The sub-pixels that one vessel covers.

    Attributes:
        index: (M,), flat, into the supersampled frame.
        chord: (M,), path of the ray through the vessel in mm.
        sample: (M,), index of the point of the centre line that each of them shows.
    """

    index: Array
    chord: Array
    sample: Array


def vessel_shadow(vessel: Vessel, c_arm: CArm) -> Shadow:
    """Project a vessel; where it runs obliquely to the ray, by an angle g, its chord is longer by 1 / sin(g)."""
    position, magnification = c_arm.project(vessel.points)
    step = np.linalg.norm(np.gradient(vessel.points, axis=0), axis=1)
    projected = np.linalg.norm(np.gradient(position, axis=0), axis=1) * c_arm.pitch / magnification
    stretch = np.clip(step / np.maximum(projected, 1e-6), 1, MOST_STRETCH)
    return tube_shadow(position, vessel.radii * magnification / c_arm.pitch, vessel.radii * stretch, c_arm.size)


def tube_shadow(position: Array, radius: Array, half_chord: Array, size: int) -> Shadow:
    """The shadow of a tube with a dense centre line at `position` (N, 2) and `radius` (N,), both in pixels.

    At the distance d from the centre line the chord of a circle is 2 sqrt(R^2 - d^2), here
    2 `half_chord` sqrt(1 - (d / `radius`)^2) in mm. A sub-pixel takes the longest chord over the points of the line.
    """
    side = size * SUPERSAMPLE
    position, radius = position * SUPERSAMPLE, radius * SUPERSAMPLE
    reach = int(np.ceil(radius.max()))
    around = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, 1, -1)
    rows, columns = np.floor(position).astype(int).T[..., None] + around
    away = (rows + 0.5 - position[:, :1]) ** 2 + (columns + 0.5 - position[:, 1:]) ** 2
    distance = away / radius[:, None] ** 2
    inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    sample, offset = np.nonzero((distance < 1) & inside)
    index = rows[sample, offset] * side + columns[sample, offset]
    chord = 2 * half_chord[sample] * np.sqrt(1 - distance[sample, offset])
    longest = np.zeros(side * side)
    np.maximum.at(longest, index, chord)
    winner = np.zeros(side * side, dtype=int)
    is_longest = chord == longest[index]
    winner[index[is_longest]] = sample[is_longest]
    covered = np.flatnonzero(longest)
    return Shadow(covered, longest[covered], winner[covered])


def to_pixels(values: Array, size: int) -> Array:
    """The mean over each pixel, (..., size, size), of flat sub-pixel values (..., (SUPERSAMPLE * size)^2)."""
    parts, sides = values.reshape(*values.shape[:-1], size, SUPERSAMPLE, size, SUPERSAMPLE), range(SUPERSAMPLE)
    # one by one: over axes this short, NumPy's own sum takes five times as long
    rows = [reduce(np.add, [parts[..., row, :, column] for column in sides]) for row in sides]
    pixels: Array = reduce(np.add, rows) / SUPERSAMPLE**2
    return pixels


def sub_pixel_zeros(frames: int, size: int) -> Array:
    """Zeros (frames, (SUPERSAMPLE * size)^2) to add shadows to."""
    return np.zeros((frames, (SUPERSAMPLE * size) ** 2))
