"""Splits by patient: given by the source, or made at random."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.data import source_case
from hypothesis import given, settings
from hypothesis import strategies as st

from nightshift.config.sections import Prepare
from nightshift.console.errors import UserError
from nightshift.ingest import leaks, splits
from nightshift.ingest.case_check import Rules, check_cases

PREPARE = Prepare(folds=1, val=0.15, test=0.25, seed=0, on_problem="stop", group_similar=False)


def test_given_split():
    raw = [source_case(i, f"p{i // 2}", s) for i, s in enumerate(("train", "train", "val", "val", "test"))]
    (split,) = splits.given_folds(raw, 1)
    numbers = {part: [int(case.case_id[-1]) for case in members] for part, members in split.items()}
    assert numbers == {"train": [0, 1], "val": [2, 3], "test": [4]} and splits.misplaced(raw) == []
    for changed, said in (
        ({1: "val"}, "patient 'p0' is in train (case 'case-0') and in val (case 'case-1')"),
        ({2: ""}, "case 'case-2': split ''; expected train, val, test"),
        ({4: "Test"}, "case 'case-4': split 'Test'"),
    ):
        ((_, why),) = splits.misplaced([replace(c, split=changed.get(i, c.split)) for i, c in enumerate(raw)])
        assert said in why
    with pytest.raises(UserError, match="no case in test"):
        splits.filled(splits.given_folds([replace(c, split="train") if i == 4 else c for i, c in enumerate(raw)], 1))
    with pytest.raises(UserError, match=r"prepare\.folds 5: .*split of its own"):
        splits.given_folds(raw, 5)


def split_of(raw, prepare=PREPARE) -> dict[str, set[str]]:
    return {name: {c.case_id for c in members} for name, members in splits.made_folds(raw, prepare)[0].items()}


def test_made_split_is_by_patient_and_from_the_seed_alone():
    raw = [source_case(i, f"p{i % 20}", angles=None) for i in range(60)]
    split = splits.made_folds(raw, PREPARE)[0]
    patients = {name: {c.patient_id for c in members} for name, members in split.items()}
    assert {name: len(p) for name, p in patients.items()} == {"train": 12, "val": 3, "test": 5}
    assert (len(set.union(*patients.values())), sum(map(len, split.values()))) == (20, 60)
    assert patients["test"] == {"p3", "p9", "p10", "p12", "p14"}  # on every machine
    for cases in (raw, [source_case(i, f"p{i % 20}", angles=(30.0 - 7 * (i % 9), 10.0 - i % 21)) for i in range(60)]):
        assert split_of(cases) == split_of(cases[::-1])
        assert split_of(cases) != split_of(cases, PREPARE.model_copy(update={"seed": 1}))


@pytest.mark.parametrize("seed", range(5))
def test_made_split_spreads_the_views_evenly(seed):
    """Of 80 patients with one to three views each, a rare one among them, every split has its share of every view."""
    random = np.random.default_rng(seed)
    usual, rare = [(30.0, 20.0), (30.0, -20.0), (-30.0, 20.0)], (-30.0, -20.0)
    raw = []
    for patient in range(80):
        for view in random.permutation(3)[: random.integers(1, 4)]:
            raw.append(source_case(len(raw), f"p{patient}", angles=usual[view]))
        if patient % 10 == 0:
            raw.append(source_case(len(raw), f"p{patient}", angles=rare))
    split = splits.made_folds(raw, PREPARE.model_copy(update={"seed": seed}))[0]
    assert {name: len({c.patient_id for c in members}) for name, members in split.items()} == {
        "train": 48, "val": 12, "test": 20,
    }  # fmt: skip
    for view in (*usual, rare):
        count = sum(c.angles == view for c in raw)
        for name, share in (("train", 0.6), ("val", 0.15), ("test", 0.25)):
            assert abs(sum(c.angles == view for c in split[name]) - share * count) <= 2


def test_made_split_without_patients_is_by_case_and_has_one_in_each():
    raw = [source_case(i) for i in range(20)]
    assert {k: len(v) for k, v in split_of(raw).items()} == {"train": 12, "val": 3, "test": 5}
    none = PREPARE.model_copy(update={"val": 0.0, "test": 0.0})
    assert {k: len(v) for k, v in split_of(raw[:3], none).items()} == {"train": 1, "val": 1, "test": 1}
    for few, prepare in (
        (raw[:2], none),
        (raw[:1], none),
        (raw, Prepare(folds=1, val=0.5, test=0.5, seed=0, on_problem="stop", group_similar=False)),
    ):
        with pytest.raises(UserError, match="no case in"):
            splits.filled(splits.made_folds(few, prepare))


@st.composite
def data_sets(draw):
    """Cases of up to 30 patients, some without an id, with and without views, and some groups that look alike."""
    patients = draw(st.integers(4, 30))
    raw = []
    for patient in range(patients):
        for _ in range(draw(st.integers(1, 3))):
            view = draw(st.sampled_from([None, (30.0, 20.0), (-30.0, -20.0)]))
            raw.append(source_case(len(raw), f"p{patient}" if draw(st.booleans()) or patient < 4 else "", angles=view))
    units = sorted({splits.unit(case) for case in raw})
    alike = draw(st.lists(st.sampled_from(units), unique=True, max_size=len(units) // 2))
    return raw, dict.fromkeys(alike, "a group")


@settings(max_examples=60, deadline=None)
@given(data_sets(), st.integers(1, 6), st.integers(0, 5))
def test_no_patient_and_no_group_is_in_two_parts_and_every_one_is_tested_once(made, count, seed):
    raw, groups = made
    prepare = PREPARE.model_copy(update={"folds": count, "seed": seed})
    folds = splits.made_folds(raw, prepare, groups)
    assert len(folds) == count
    tested = [case.case_id for fold in folds for case in fold["test"]]
    if count > 1:
        assert sorted(tested) == sorted(case.case_id for case in raw)
    for fold in folds:
        assert sorted(c.case_id for part in fold.values() for c in part) == sorted(case.case_id for case in raw)
        owners = [{groups.get(splits.unit(c), splits.unit(c)) for c in fold[part]} for part in fold]
        assert sum(map(len, owners)) == len(set.union(*owners))


def test_folds_are_of_equal_size_and_choose_by_others_than_they_test():
    raw = [source_case(i, f"p{i}") for i in range(40)]
    folds = splits.made_folds(raw, PREPARE.model_copy(update={"folds": 5}))
    assert [[len(fold[part]) for part in ("train", "val", "test")] for fold in folds] == [[26, 6, 8]] * 5
    with pytest.raises(UserError, match="no case in train of fold 1"):
        splits.filled(splits.made_folds(raw[:3], PREPARE.model_copy(update={"folds": 2})))


def test_one_frame_of_two_patients_is_named_once_whichever_folds_test_them():
    raw = [source_case(i, f"p{i}") for i in range(9)]
    raw.append(replace(raw[2], case_id="copy", patient_id="another", where="set, line 11"))
    raw.append(replace(raw[2], case_id="second view", patient_id="p2"))  # of one patient: no leak
    checks = check_cases(raw, Rules(), iter)
    for seed in range(4):
        folds = splits.made_folds(raw, PREPARE.model_copy(update={"folds": 3, "seed": seed}))
        problems = leaks.same_frames(folds, checks, name_files=True)
        kept = {case.case_id for case in raw} - {problem.case_id for problem in problems}
        assert "case-2" in kept and "copy" not in kept  # the first one of the data set stays, whatever the folds
        assert all(
            "the very frame of case" in one.what and "with folds each is trained on" in one.what for one in problems
        )
