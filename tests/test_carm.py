"""Views of a C-arm: how far apart two are, and what they are called."""

import pytest

from nightshift.carm import apart, view_name


@pytest.mark.parametrize(
    ("one", "other", "degrees"),
    [
        ((0, 0), (0, 0), 0),
        ((-30, 0), (45, 0), 75),
        ((0, 30), (0, -25), 55),
        ((0, 0), (90, 0), 90),
        ((90, 60), (-90, 60), 60),  # over the head: 30 degrees from it on either side
        ((170, 0), (-170, 0), 20),  # round the back
        ((0, 0), (180, 0), 180),
        ((17, 90), (-120, 90), 0),  # at the head the primary angle means nothing
        ((45, 45), (0, 0), 60),  # cos 45 cos 45 = 0.5
    ],
)
def test_degrees_between_views(one, other, degrees):
    assert apart(one, other) == pytest.approx(degrees, abs=1e-5)
    assert apart(other, one) == pytest.approx(degrees, abs=1e-5)


@pytest.mark.parametrize(
    ("angles", "called"),
    [
        ((45, -20), "LAO 45 CAU 20"),
        ((-30.4, 25.6), "RAO 30 CRA 26"),
        (("-30.0", "0.0"), "RAO 30"),
        ((0, 30), "CRA 30"),
        ((0.3, -0.4), "AP"),
        (("", ""), "angles unknown"),
    ],
)
def test_views_are_called_as_cardiologists_call_them(angles, called):
    assert view_name(*angles) == called
