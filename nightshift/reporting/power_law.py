"""Learning curves as inverse power laws, a - b (n / n_1)^-c: Dice against the number n of training patients.

The law that learning curves are usually fitted with: Figueroa et al., BMC Medical Informatics and Decision Making 12:8,
2012; Viering & Loog, IEEE TPAMI 45, 2023, who also show that no law fits all of them.
"""

from dataclasses import dataclass

import numpy as np

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

EXPONENTS = np.geomspace(0.05, 3, 40)  # c; almost a logarithm, and all but flat after the first doubling


@dataclass(frozen=True)
class PowerLaw:
    """Any number of curves: a, b >= 0 and c, each (...). `first`: n_1, the smallest number that they were fitted to."""

    a: Floats
    b: Floats
    c: Floats
    first: float

    def __call__(self, numbers: Floats) -> Floats:
        """Dice (..., N) at `numbers` (N,) of patients."""
        return self.a[..., None] - self.b[..., None] * (numbers / self.first) ** -self.c[..., None]


def fit(numbers: Floats, dice: Floats) -> PowerLaw:
    """The least-squares curves through `dice` (..., K), measured at K ascending `numbers` of patients.

    Given c, a and b are a straight line's, so all curves are fitted at once to each of EXPONENTS, and the best is taken
    (variable projection, Golub & Pereyra, SIAM Journal on Numerical Analysis 10, 1973). scipy.optimize.curve_fit finds
    the same curves one by one, and of bootstrap samples not all.
    """
    x = (numbers / numbers[0]) ** -EXPONENTS[:, None]  # (C, K)
    centred, y = x - x.mean(axis=1, keepdims=True), dice - dice.mean(axis=-1, keepdims=True)
    squares = (centred**2).sum(axis=1)
    b = np.maximum(-y @ centred.T / squares, 0)  # (..., C); a falling curve is best fitted by its mean
    best = (b**2 * squares).argmax(axis=-1)  # what is left of the sum of squares of y is least
    b = np.take_along_axis(b, best[..., None], axis=-1)[..., 0]
    return PowerLaw(dice.mean(axis=-1) + b * x.mean(axis=1)[best], b, EXPONENTS[best], float(numbers[0]))
