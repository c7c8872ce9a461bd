"""C-arm angles as people write them, brought to degrees: + LAO / - RAO, and + cranial / - caudal."""

from __future__ import annotations

import re

from nightshift.errors import UserError

SIDES = (
    {"LAO": 1, "RAO": -1, "AP": 0},
    {"CRA": 1, "CRAN": 1, "CRANIAL": 1, "CAU": -1, "CAUD": -1, "CAUDAL": -1},
)  # of the primary and of the secondary angle; AP is no side, so only 0 may stand with it
_NUMBER = re.compile(r"([A-Z]+\s*:?)?\s*([+-]?\d+(?:[.,]\d+)?)\s*(?:°|º|DEG(?:REES?)?\b\.?)?\s*([A-Z]+)?")


def view(primary: object, secondary: object) -> tuple[float, float]:
    """Both angles in degrees. Each is a number, or text: `-30`, `RAO 30`, `30° LAO`, `caudal 25`, `AP`.

    Raises UserError: neither of these, the word of the other angle, a word and a sign, more than 180 degrees.
    """
    return _degrees(primary, 0), _degrees(secondary, 1)


def view_or_none(primary: str, secondary: str) -> tuple[float, float] | None:
    """As `view`, of two cells of a table; None where both are empty. Raises UserError for one of two, too."""
    if not primary and not secondary:
        return None
    if not primary or not secondary:
        raise UserError("one of two angles; give both or none")
    return view(primary, secondary)


def _degrees(value: object, which: int) -> float:
    number = _of_text(value, which) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= 180:
        words = ("LAO 30 or RAO 30", "CRANIAL 30 or CAUDAL 30")[which]
        raise UserError(f"angle {value!r:.20} is not a number of degrees from -180 to 180, nor as {words}")
    return float(number)


def _of_text(text: str, which: int) -> float | None:
    """None where it is no angle of this kind."""
    plain = text.strip().upper()
    if plain == "AP" and which == 0:
        return 0.0
    found = _NUMBER.fullmatch(plain)
    if found is None or (found[1] and found[3]):
        return None
    word = (found[1] or found[3] or "").rstrip(" \t:")
    number = float(found[2].replace(",", "."))
    if not word:
        return number
    if found[2][0] in "+-":
        raise UserError(f"angle {text!r} has a side and a sign; give one of them")
    side = SIDES[which].get(word)
    if side is None or (side == 0 and number):
        return None
    return side * number + 0.0  # + 0.0: no -0.0
