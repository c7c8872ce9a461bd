"""Frames of one cine or one patient are told from frames of others, though the heart has moved."""

import numpy as np
import pytest
import yaml
from helpers.chain import ROOT
from PIL import Image

from nightshift.ingest.similar_frames import SIMILAR, pattern, similar_pairs, together
from nightshift.simulation.simulator import Simulation, simulate_case

REAL = ROOT.parent / "shared/angiograms"
ALONE = [str(number) for number in range(40)]


@pytest.mark.skipif(not REAL.is_dir(), reason="the 40 real angiograms are not here")
def test_the_four_pairs_among_the_real_frames_are_found_and_no_others():
    paths = sorted((REAL / "images").iterdir())
    patterns = [pattern(np.asarray(Image.open(path).convert("L"))) for path in paths]
    pairs = similar_pairs(patterns, ALONE, [True] * 40)
    found = {(paths[i].stem, paths[j].stem): value for i, j, value in pairs}
    same = {("002", "003"), ("005", "006"), ("009", "012"), ("014", "015")}
    assert {pair for pair, value in found.items() if value >= SIMILAR} == same
    assert min(found[pair] for pair in same) > SIMILAR + 0.05
    assert max(value for pair, value in found.items() if pair not in same) < SIMILAR - 0.05


def test_simulated_patients_are_apart_and_frames_of_one_cine_are_not():
    source = yaml.safe_load((ROOT / "conf/data/synthetic.yaml").read_text(encoding="utf-8"))
    simulation = Simulation(**{key: source[key] for key in source if key not in ("kind", "split")})
    cases = [simulate_case(simulation, patient, 0) for patient in range(20)]
    frames = [case.cine[index] for case in cases for index in (case.frame_index, case.frame_index - 1)]
    values = similar_pairs([pattern(frame) for frame in frames], ALONE, [True] * 40)
    same = {(i, i + 1) for i in range(0, 40, 2)}
    assert {(i, j) for i, j, value in values if value >= SIMILAR} == same


def test_only_cases_without_a_patient_are_compared_and_never_within_one_unit():
    patterns = [pattern(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))] * 4
    units, lone = ["patient a", "patient b", "case 2", "case 3"], [False, False, True, True]
    assert {(i, j) for i, j, value in similar_pairs(patterns, units, lone)} == {(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert similar_pairs(patterns, units, [False] * 4) == [] == similar_pairs(patterns[:1], units[:1], [True])
    assert similar_pairs(patterns[:2], ["case 1"] * 2, [True] * 2) == []


def test_groups_go_through_others_and_do_not_depend_on_the_order():
    pairs = [("c", "d"), ("a", "c"), ("x", "y")]
    wanted = {"a": "a", "c": "a", "d": "a", "x": "x", "y": "x"}
    assert together(pairs) == together([pair[::-1] for pair in pairs[::-1]]) == wanted
    assert together([]) == {}
