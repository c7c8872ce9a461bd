"""The report of folders of masks that any other script made: `nightshift compare`."""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nightshift.commands import compare
from nightshift.console.errors import UserError
from nightshift.evaluation.measures import all_measures

ROOT = Path(__file__).parents[2]
THREE = ["--masks", "frozen=f", "--masks", "lora=l", "--truth", "t"]


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    compare.main(parser.parse_args(arguments))


def bar(column: int) -> np.ndarray:
    mask = np.zeros((30, 40), np.uint8)
    mask[:, column : column + 8] = 255
    return mask


@pytest.fixture
def folders(checkout):
    """Eight cases in t/, f/ and l/: LoRA's masks are the truth, the frozen ones lie two pixels beside it."""
    for name in "tfl":
        Path(name).mkdir()
    for i in range(8):
        for name, shift in (("t", 0), ("f", 2), ("l", 0)):
            Image.fromarray(bar(5 + i + shift)).save(f"{name}/case {i}.png")
    return checkout


def written(*arguments: str) -> tuple[dict, str]:
    run(*THREE, *arguments)
    folder = Path("reports/folders")
    return json.loads((folder / "metrics.json").read_text()), (folder / "report.html").read_text(encoding="utf-8")


def put_cases(rows: list[tuple]) -> None:
    with Path("cases.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("case_id", "patient_id", "primary_angle", "secondary_angle"), *rows])


def test_two_folders_of_masks_make_the_same_report(folders):
    metrics, html = written()
    dice = {name: one["dice"] for name, one in metrics["arms"].items()}
    assert dice["lora"] == 1 and dice["frozen"] == pytest.approx(0.75, abs=1e-6)
    assert (metrics["verdict"], metrics["cases"], metrics["patients"]) == ("lora", 8, 8)
    assert "8 of 8 test cases have no patient id" in html and "8 of 8 test cases have no C-arm angles" in html
    assert "random weights" not in html and "RoPE" not in html
    assert "nightshift compare --masks frozen=f --masks lora=l --truth t -o reports/folders" in html
    assert all_measures(bar(7) > 0, bar(5) > 0)["dice"] == pytest.approx(dice["frozen"])


def test_frames_patients_and_angles_are_taken_where_they_are_given(folders):
    Path("frames").mkdir()
    for i in range(8):
        Image.fromarray(np.full((30, 40), 10 * i, np.uint8)).save(f"frames/case {i}.png")
    put_cases([(f"case {i}", f"P{i // 2}", -30 + i, 20) for i in range(8)])
    metrics, html = written("--frames", "frames", "--cases", "cases.csv")
    assert metrics["patients"] == 4 and metrics["verdict"] == "undecided"
    assert "cannot be decided with 4 patients" in html and "RAO 30 CRA 20" in html and "By view" in html
    assert np.asarray(Image.open("reports/folders/pictures/lora/frame-00003.png")).max() == 30


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("case 0", "", "", "")], r"no row for case 'case 1' \(7 in all\)"),
        ([(f"case {i}", "", "north", 1) for i in range(8)], "line 2: angle 'north' is not a number"),
        ([(f"case {i}", "", 1, 999) for i in range(8)], "line 2: angle '999' is not a number"),
        ([(f"case {i}", "", 1, "") for i in range(8)], "one of two angles"),
        ([], r"no row for case 'case 0' \(8 in all\)"),
    ],
)
def test_bad_cases_are_named(folders, rows, message):
    put_cases(rows)
    with pytest.raises(UserError, match=message):
        run(*THREE, "--cases", "cases.csv")
    assert not Path("reports").exists() or not list(Path("reports").rglob("*.*"))


def test_bad_masks_are_named_and_nothing_is_written(folders):
    Image.fromarray(bar(5)[:20]).save("l/case 3.png")
    with pytest.raises(UserError, match=r"l.case 3.png: \(20, 40\) pixels, but the truth t.case 3.png has \(30, 40\)"):
        run(*THREE)
    Path("l/case 3.png").unlink()
    with pytest.raises(UserError, match=r"no partner for case 3 \(1 in all\) between t and l"):
        run(*THREE)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        run("--masks", "frozen=nowhere", "--masks", "lora=l", "--truth", "t")
    assert not list(Path("reports").rglob("*.*"))


def test_any_number_of_folders_by_any_names(folders):
    run(*THREE, "--masks", "soft_net=l", "--reference", "lora", "-o", "out")
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert (metrics["reference"], metrics["verdict"], metrics["recommended"]) == ("lora", "undecided", None)
    assert list(metrics["against"]) == ["frozen", "soft_net"] and metrics["against"]["frozen"]["verdict"] == "worse"
    html = Path("out/report.html").read_text(encoding="utf-8")
    assert "Frozen and soft_net against LoRA" not in html and "frozen and soft_net against LoRA on" in html
    assert "--masks soft_net=l --truth t --reference lora -o out" in html


def test_four_folders_of_which_one_is_a_second_reader(folders):
    """The reader is a pixel off, nnU-Net too, to the other side."""
    for name, shift in (("reader", 1), ("nnunet", -1)):
        Path(name).mkdir()
        for i in range(8):
            Image.fromarray(bar(5 + i + shift)).save(f"{name}/case {i}.png")
    run(*THREE, "--masks", "reader_2=reader", "--masks", "nnunet=nnunet", "--reference", "reader_2")
    metrics = json.loads(Path("reports/folders/metrics.json").read_text())
    verdicts = {name: one["verdict"] for name, one in metrics["against"].items()}
    assert verdicts == {"frozen": "worse", "lora": "better", "nnunet": "undecided"}
    assert (metrics["verdict"], metrics["recommended"], metrics["arms"]["reader_2"]["dice"]) == ("lora", None, 0.875)
    html = Path("reports/folders/report.html").read_text(encoding="utf-8")
    assert "frozen, LoRA and nnunet against reader_2 on coronary angiograms" in html and "All arms" in html
    for missing in ("Encode and train", "Training", "RoPE", "random weights", "the encoder", "Recommended", "Cost"):
        assert missing not in html


def test_it_needs_no_project(folders):
    Path("params.yaml").unlink()
    metrics, _ = written()
    assert metrics["level"] == 0.05 and metrics["verdict"] == "lora"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--masks", "frozen"], "--masks frozen: expected NAME=DIR"),
        (["--masks", "=f"], "--masks =f: name '': expected letters, digits, _ and -, which is not the first"),
        (["--masks", "a/b=f"], "name 'a/b': expected letters, digits, _ and -, which is not the first"),
        (["--masks", "a=f", "--masks", "A=l"], "a second folder of 'A'"),
        (["--masks", "a=f", "--masks", "lora=l", "--reference", "lore"], "--reference lore: .* did you mean 'lora'"),
    ],
)
def test_bad_names_are_one_line(folders, arguments, message):
    with pytest.raises(UserError, match=message):
        run(*arguments, "--truth", "t")
    assert not Path("reports").exists()


def test_the_console_script_runs_it(folders):
    done = subprocess.run(
        [sys.executable, "-m", "nightshift.commands.main", "compare", *THREE],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("LoRA is better: "), done.stderr
