"""Three-dimensional coronary trees on an ellipsoidal heart.

Patient coordinates are those of DICOM, in mm about the centre of the heart: x to the patient's left, y to the back
(posterior), z to the head. A course on the heart is given by three surface coordinates:

* theta, degrees from the apex (0) towards the base; the atrioventricular (AV) groove lies near 95;
* phi, degrees about the long axis: 0 at the top of the base, + towards the free wall of the left ventricle,
  - towards the right ventricle, +-180 at the crux on the diaphragm's side;
* depth, 1 on the epicardium and less inside (the septum, the aortic root).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]
# The long axis points left, forward and down: RAO 30 sees it side-on, and it dips about 35 degrees below horizontal.
LONG_AXIS = np.array([0.71, -0.41, -0.57]) / np.linalg.norm([0.71, -0.41, -0.57])
STEP = 0.3  # mm between two points of a centre line, well below the least vessel radius
ORIENTATION_SPREAD = 8.0  # degrees, the greatest turn of one heart about each of the three axes


@dataclass(frozen=True)
class Vessel:
    """One vessel: centre line `points` (N, 3) mm, `radii` (N,) mm and blood-path `distance` (N,) mm from the ostium."""

    name: str
    points: Array
    radii: Array
    distance: Array


@dataclass(frozen=True)
class Heart:
    """The surface that carries the vessels: semi-axes in mm, and the columns of `axes` (3, 3): top, free wall, apex."""

    length: float
    radius: float
    bulge: float
    axes: Array
    tortuosity: float

    def surface(self, course: Array) -> Array:
        """Points (N, 3) mm at the surface coordinates (N, 3): theta and phi in degrees, depth as a fraction."""
        theta, phi = np.radians(course[:, 0]), np.radians(course[:, 1])
        # The right ventricle makes the heart wider on the side of negative phi.
        radius = self.radius * (1 + self.bulge * np.maximum(0, -np.sin(phi)) ** 2) * np.sin(theta) * course[:, 2]
        along = self.length * np.cos(theta) * course[:, 2]
        points: Array = np.stack([radius * np.cos(phi), radius * np.sin(phi), along], axis=1) @ self.axes.T
        return points


def coronary_tree(rng: np.random.Generator, side: str) -> list[Vessel]:
    """The left or the right (`side`) coronary tree of one random patient; its first vessel begins at the ostium."""
    heart = _heart(rng)
    return _left_tree(rng, heart) if side == "left" else _right_tree(rng, heart)


def _heart(rng: np.random.Generator) -> Heart:
    """A heart of random size, shape and orientation."""
    top = np.array([0, 0, 1]) - LONG_AXIS[2] * LONG_AXIS
    top /= np.linalg.norm(top)
    axes = np.stack([top, np.cross(top, LONG_AXIS), LONG_AXIS], axis=1)
    turn = Rotation.from_euler("xyz", rng.uniform(-ORIENTATION_SPREAD, ORIENTATION_SPREAD, 3), degrees=True)
    size = rng.uniform(0.9, 1.1)
    return Heart(
        length=size * rng.uniform(66, 76),
        radius=size * rng.uniform(43, 49),
        bulge=rng.uniform(0.05, 0.2),
        axes=turn.as_matrix() @ axes,
        tortuosity=rng.uniform(0.6, 2.2),
    )


def _vessel(
    rng: np.random.Generator,
    heart: Heart,
    name: str,
    course: CubicSpline,
    calibre: tuple[float, float],
    parent: Vessel | None = None,
) -> Vessel:
    """A tapering, tortuous vessel along `course` ([0, 1] -> surface coordinates), leaving `parent` where it is nearest.

    `calibre` holds the diameters in mm at the beginning and at the end.
    """
    t = np.linspace(0, 1, 200)
    points = heart.surface(course(t))
    length = np.linalg.norm(np.diff(points, axis=0), axis=1).sum()
    # Tortuosity: a smooth sideways displacement with a new random knot about every 11 mm, none at the beginning.
    knots = max(4, round(length / 11))
    bends = rng.normal(0, heart.tortuosity, (knots, 3))
    bends[0] = 0
    points = points + CubicSpline(np.linspace(0, 1, knots), bends)(t)
    begin = 0.0
    if parent is not None:
        nearest = np.argmin(np.linalg.norm(parent.points - points[0], axis=1))
        points = points + (1 - t[:, None]) ** 2 * (parent.points[nearest] - points[0])
        begin = parent.distance[nearest]
        calibre = (min(calibre[0], 2 * parent.radii[nearest]), calibre[1])
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    even = np.arange(0, arc[-1], STEP)
    radii = np.interp(even, [0, arc[-1]], np.divide(calibre, 2))
    centre_line = np.stack([np.interp(even, arc, coordinate) for coordinate in points.T], axis=1)
    return Vessel(name, centre_line, radii, begin + even)


def _course(*knots: tuple[float, float, float]) -> CubicSpline:
    """The smooth course through surface coordinates (theta, phi, depth) at even parameters in [0, 1]."""
    return CubicSpline(np.linspace(0, 1, len(knots)), np.array(knots, dtype=float), bc_type="natural")


def _jitter(rng: np.random.Generator, knots: Sequence[tuple[float, float, float]], spread: float) -> CubicSpline:
    """The course through `knots`, each but the first moved by up to `spread` degrees along theta and phi."""
    moved = np.array(knots, dtype=float)
    moved[1:, :2] += rng.uniform(-spread, spread, (len(knots) - 1, 2))
    return _course(*moved)


def _side_branches(
    rng: np.random.Generator,
    heart: Heart,
    parent: Vessel,
    course: CubicSpline,
    name: str,
    ends: tuple[float, float, float],
    calibre: float,
) -> list[Vessel]:
    """One to three branches of `parent`; `ends` is what theta, phi and depth change by over the longest of them."""
    branches = []
    for place in np.sort(rng.uniform(0.12, 0.75, rng.integers(1, 4))):
        start = course(place)
        change = np.array(ends) * rng.uniform(0.45, 1.0) * (1.1 - 0.6 * place)
        # Branches leave steeply and then turn along the parent, so the middle knot has more of the change of phi.
        middle = start + change * [0.4, rng.uniform(0.55, 0.75), 0.5]
        width = calibre * rng.uniform(0.75, 1.05) * (1.1 - 0.35 * place)
        path = _course(start, middle, start + change)
        branches.append(_vessel(rng, heart, name, path, (width, 0.55 * width), parent))
    return branches


def _left_tree(rng: np.random.Generator, heart: Heart) -> list[Vessel]:
    """LM, then LAD and LCX.

    Both have the same distributions of calibre, length and number of side branches, so that they differ by their place
    in space alone, which follows from the frame only together with the angles of the view.
    """
    fork = (rng.uniform(91, 97), rng.uniform(4, 18), 1.0)
    ostium = (rng.uniform(98, 106), fork[1] + rng.uniform(-25, 25), rng.uniform(0.62, 0.75))
    middle = (0.5 * (ostium[0] + fork[0]), 0.5 * (ostium[1] + fork[1]), 0.9)
    trunk = rng.uniform(3.6, 4.4)
    main = _vessel(rng, heart, "LM", _course(ostium, middle, fork), (trunk, 0.95 * trunk))
    tree = [main]
    anterior = [fork, (80, -22, 1), (60, -38, 1), (38, -42, 1), (16, -42, 1)]
    posterior = [fork, (89, 42, 1), (74, 66, 1), (53, 76, 1), (30, 78, 1)]
    # The diagonals and the obtuse marginals share the free wall; the septals dive, the atrial branches turn back.
    plans = [
        ("LAD", anterior, "diagonal", (-34.0, 38.0, 0.0), "septal", (-30.0, -10.0, -0.45)),
        ("LCX", posterior, "marginal", (-34.0, -38.0, 0.0), "atrial", (-8.0, 48.0, 0.0)),
    ]
    for name, knots, inner, inner_ends, outer, outer_ends in plans:
        course = _jitter(rng, knots, 5)
        width = rng.uniform(2.9, 3.8)
        vessel = _vessel(rng, heart, name, course, (width, rng.uniform(1.5, 1.9)), main)
        tree.append(vessel)
        tree += _side_branches(rng, heart, vessel, course, inner, inner_ends, 2.5)
        tree += _side_branches(rng, heart, vessel, course, outer, outer_ends, 1.9)
    return tree


def _right_tree(rng: np.random.Generator, heart: Heart) -> list[Vessel]:
    """RCA in the right AV groove to the crux, acute marginals, then PDA and PLV."""
    width = rng.uniform(3.0, 3.8)
    groove = [(101, -42, 0.65), (96, -68, 1), (94, -105, 1), (95, -145, 1), (93, -178, 1)]
    course = _jitter(rng, groove, 5)
    main = _vessel(rng, heart, "RCA", course, (width, rng.uniform(2.3, 2.9)))
    tree = [main, *_side_branches(rng, heart, main, course, "acute marginal", (-48.0, 20.0, 0.0), 2.1)]
    crux = course(1.0)
    for name, knots in {
        "PDA": [(70, -173, 1), (46, -168, 1), (24, -165, 1)],
        "PLV": [(88, -196, 1), (72, -214, 1), (55, -222, 1)],
    }.items():
        path = _jitter(rng, [tuple(crux), *knots], 6)
        tree.append(_vessel(rng, heart, name, path, (rng.uniform(1.9, 2.5), 1.3), main))
    return tree
