"""Views of a C-arm: parses the angles that people write, and gives the distance and the names of views.

Angles in degrees as DICOM has them (PS3.3 C.8.7.5): primary + LAO / - RAO, secondary + cranial / - caudal.
"""

from __future__ import annotations

import math
import re

from nightshift.console.errors import UserError

Angles = tuple[float, float]
FAR = 40.0  # degrees between a case's view and the wrong one that an ablation gives it
QUADRANTS = ("RAO cranial", "RAO caudal", "LAO cranial", "LAO caudal")
# Sign by word, of the primary and of the secondary angle; AP is no side, so only 0 may stand with it.
SIDES = (
    {"LAO": 1, "RAO": -1, "AP": 0},
    {"CRA": 1, "CRAN": 1, "CRANIAL": 1, "CAU": -1, "CAUD": -1, "CAUDAL": -1},
)
_NUMBER = re.compile(r"([A-Z]+\s*:?)?\s*([+-]?\d+(?:[.,]\d+)?)\s*(?:°|º|DEG(?:REES?)?\b\.?)?\s*([A-Z]+)?")


def view(primary: object, secondary: object) -> Angles:
    """Both angles in degrees. The only rule for angles: every reader of tables, JSON and commands uses it.

    Args:
        primary: a number, or text such as `-30`, `RAO 30`, `30° LAO`, `AP`.
        secondary: a number, or text such as `-25`, `CRA 20`, `caudal 25`.

    Raises:
        UserError: neither of these, the word of the other angle, a word and a sign, more than 180 degrees.
    """
    return _degrees(primary, 0), _degrees(secondary, 1)


def view_or_none(primary: object, secondary: object) -> Angles | None:
    """As `view`; None where both are empty or None. Raises UserError also where one of them is."""
    missing = [angle is None or angle == "" for angle in (primary, secondary)]
    if all(missing):
        return None
    if any(missing):
        raise UserError("one of two angles; give both or none")
    return view(primary, secondary)


def _degrees(value: object, which: int) -> float:
    number = _of_text(value, which) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= 180:
        words = ("LAO 30 or RAO 30", "CRANIAL 30 or CAUDAL 30")[which]
        raise UserError(f"angle {value!r:.20} is not a number of degrees from -180 to 180, nor as {words}")
    return float(number)


def _of_text(text: str, which: int) -> float | None:
    """Degrees of an angle as text; None where it is not an angle of this kind (0: primary, 1: secondary)."""
    plain = text.strip().upper()
    if plain == "AP" and which == 0:
        return 0.0
    match = _NUMBER.fullmatch(plain)
    if match is None or (match[1] and match[3]):
        return None
    word = (match[1] or match[3] or "").rstrip(" \t:")
    number = float(match[2].replace(",", "."))
    if not word:
        return number
    if match[2][0] in "+-":
        raise UserError(f"angle {text!r} has a side and a sign; give one of them")
    side = SIDES[which].get(word)
    if side is None or (side == 0 and number):
        return None
    return side * number + 0.0  # + 0.0: no -0.0


def apart(one: Angles, other: Angles) -> float:
    """Degrees between the directions that two views (primary, secondary) look in, 0 to 180."""
    cosine = sum(a * b for a, b in zip(_direction(one), _direction(other), strict=True))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _direction(angles: Angles) -> tuple[float, float, float]:
    """Unit vector from the heart to the detector, along the patient's left, front and head."""
    primary, secondary = map(math.radians, angles)
    return (
        math.cos(secondary) * math.sin(primary),
        math.cos(secondary) * math.cos(primary),
        math.sin(secondary),
    )


def quadrant(primary: float, secondary: float) -> str:
    """One of QUADRANTS; zero counts as LAO and as cranial."""
    return f"{'LAO' if primary >= 0 else 'RAO'} {'cranial' if secondary >= 0 else 'caudal'}"


def view_name(primary: str | float, secondary: str | float) -> str:
    """As cardiologists say it: `LAO 45 CAU 20`, `AP`; `angles unknown` for empty ones."""
    if primary == "" or secondary == "":
        return "angles unknown"
    sides = ((round(float(primary)), "LAO", "RAO"), (round(float(secondary)), "CRA", "CAU"))
    return " ".join(f"{plus if angle > 0 else minus} {abs(angle)}" for angle, plus, minus in sides if angle) or "AP"
