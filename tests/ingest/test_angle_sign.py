"""Primary angles of the wrong sign, planted into right coronary views."""

import numpy as np
import pytest
from helpers.data import source_case

from nightshift.ingest.angle_sign import sign_warning
from nightshift.ingest.record import SourceCase
from nightshift.simulation.simulator import VIEWS


def case(number: int, primary: float, patient: str = "", **groups: str) -> SourceCase:
    patient = patient or f"p{number}"
    return SourceCase(f"c{number}", patient, (primary, 0.0), "", (), lambda: source_case(0).read(), groups=groups)


def cases(rao: int, lao: int, column: str = "vessel_name", value: str = "RCA") -> list[SourceCase]:
    return [case(n, -30.0 if n < rao else 45.0, **{column: value}) for n in range(rao + lao)]


def test_the_counts_and_the_column_are_said():
    left = [case(100 + n, 40.0, vessel_name="LAD") for n in range(50)]
    assert sign_warning([*left, *cases(31, 9)]) == (
        "31 of 40 views of the right coronary artery (by the column vessel_name) have a negative primary angle, RAO, "
        "but it is mostly taken in LAO: check the sign; LAO is positive"
    )
    assert sign_warning([*left, *cases(9, 31)]) == ""


@pytest.mark.parametrize(("rao", "lao", "said"), [(5, 0, True), (4, 0, False), (26, 14, True), (25, 15, False)])
def test_too_few_views_and_a_balance_that_chance_makes_say_nothing(rao, lao, said):
    assert bool(sign_warning(cases(rao, lao))) == said


@pytest.mark.parametrize("seed", range(20))
def test_usual_views_of_forty_patients_with_either_sign(seed):
    """Two of the simulator's views of the right coronary artery each, with its jitter: right as they are."""
    random = np.random.default_rng(seed)
    for sign, said in ((1, False), (-1, True)):
        views = [
            case(
                2 * patient + n, sign * (VIEWS["right"][which][0] + random.uniform(-6, 6)), f"p{patient}", artery="RCA"
            )
            for patient in range(40)
            for n, which in enumerate(random.permutation(len(VIEWS["right"]))[:2])
        ]
        assert bool(sign_warning(views)) == said


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("vessel_name", "RCA", True),
        ("vessel_pattern", "MID_RCA", True),
        ("segment", "pRCA", True),
        ("artery", "Right coronary artery, RCA 2", True),
        ("cass_segment", "2", True),
        ("SYNTAX segment", "3.0", True),
        ("cass_segment", "12", False),
        ("syntax_score", "2", False),
        ("vessel_name", "LAD", False),
        ("vessel_name", "RCA or LCX", False),
        ("access", "right radial", False),
        ("note", "arcade", False),
    ],
)
def test_columns_that_name_the_artery(column, value, said):
    assert bool(sign_warning(cases(20, 0, column, value))) == said


def test_remarks_that_mention_an_artery_are_no_column_of_arteries():
    remarks = [case(100 + n, -30.0, note=f"good run {n}") for n in range(21)]
    assert sign_warning([*remarks, *cases(20, 0, "note")]) == ""
    assert sign_warning([*remarks[:20], *cases(20, 0, "note")]) != ""


def test_of_several_columns_the_one_that_names_most_counts():
    both = [
        case(n, -30.0, vessel_name="PDA" if n < 3 else "RCA", cass_segment="4" if n < 3 else "1", phase="PRE")
        for n in range(10)
    ]
    assert sign_warning(both).startswith("10 of 10 views of the right coronary artery (by the column cass_segment)")


def test_frames_of_one_view_count_once_and_views_near_ap_not_at_all():
    one = [case(n, -30.0, "p0", vessel="RCA") for n in range(40)]
    assert sign_warning(one) == ""
    ap = [case(n, -9.0, vessel="RCA") for n in range(40)]
    assert sign_warning(ap) == ""
    assert sign_warning([*one, *ap, *(case(50 + n, -10.0, vessel="RCA") for n in range(4))]).startswith("5 of 5 views")


def test_nothing_to_go_by():
    assert sign_warning([]) == ""
    assert sign_warning([source_case(n, angles=(-30.0, 0.0)) for n in range(9)]) == ""
    assert (
        sign_warning(
            [SourceCase(f"c{n}", "", None, "", (), source_case(0).read, groups={"vessel": "RCA"}) for n in range(9)]
        )
        == ""
    )
