"""Views of a C-arm. Angles in degrees as DICOM has them (PS3.3 C.8.7.5): + LAO / - RAO and + cranial / - caudal."""

import math

Angles = tuple[float, float]
FAR = 40.0  # degrees between a case's view and the wrong one that an ablation gives it
QUADRANTS = ("RAO cranial", "RAO caudal", "LAO cranial", "LAO caudal")


def apart(one: Angles, other: Angles) -> float:
    """Degrees between the directions that two views (primary, secondary) look in, 0 to 180."""
    cosine = sum(a * b for a, b in zip(_direction(one), _direction(other), strict=True))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _direction(angles: Angles) -> tuple[float, float, float]:
    """Towards the detector: the patient's left, front and head."""
    primary, secondary = map(math.radians, angles)
    return (
        math.cos(secondary) * math.sin(primary),
        math.cos(secondary) * math.cos(primary),
        math.sin(secondary),
    )


def quadrant(primary: float, secondary: float) -> str:
    """Zero counts as LAO and as cranial."""
    return f"{'LAO' if primary >= 0 else 'RAO'} {'cranial' if secondary >= 0 else 'caudal'}"


def name(primary: str | float, secondary: str | float) -> str:
    """As cardiologists say it: `LAO 45 CAU 20`, `AP`; `angles unknown` for empty ones."""
    if primary == "" or secondary == "":
        return "angles unknown"
    sides = ((round(float(primary)), "LAO", "RAO"), (round(float(secondary)), "CRA", "CAU"))
    return " ".join(f"{plus if angle > 0 else minus} {abs(angle)}" for angle, plus, minus in sides if angle) or "AP"
