"""Splits by patient: given by the source, or made at random."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.data import source_case

from nightshift.config.sections import Prepare
from nightshift.console.errors import UserError
from nightshift.ingest import splits

PREPARE = Prepare(val=0.15, test=0.25, seed=0, on_problem="stop", group_similar=False)


def test_given_split():
    raw = [source_case(i, f"p{i // 2}", s) for i, s in enumerate(("train", "train", "val", "val", "test"))]
    split = splits.given_split(raw)
    assert {k: [int(c.case_id[-1]) for c in v] for k, v in split.items()} == {
        "train": [0, 1],
        "val": [2, 3],
        "test": [4],
    }
    for changed, said in (
        ({1: "val"}, "patient 'p0' is in train (case 'case-0') and in val (case 'case-1')"),
        ({2: ""}, "case 'case-2': split ''; expected train, val, test"),
        ({4: "Test"}, "case 'case-4': split 'Test'"),
        ({4: "train"}, "no case in test"),
    ):
        with pytest.raises(UserError) as caught:
            splits.given_split([replace(c, split=changed.get(i, c.split)) for i, c in enumerate(raw)])
        assert said in str(caught.value)


def split_of(raw, prepare=PREPARE) -> dict[str, set[str]]:
    return {name: {c.case_id for c in members} for name, members in splits.made_split(raw, prepare).items()}


def test_made_split_is_by_patient_and_from_the_seed_alone():
    raw = [source_case(i, f"p{i % 20}", angles=None) for i in range(60)]
    split = splits.made_split(raw, PREPARE)
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
    split = splits.made_split(raw, PREPARE.model_copy(update={"seed": seed}))
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
        (raw, Prepare(val=0.5, test=0.5, seed=0, on_problem="stop", group_similar=False)),
    ):
        with pytest.raises(UserError, match="no case in"):
            splits.filled(splits.made_split(few, prepare))
