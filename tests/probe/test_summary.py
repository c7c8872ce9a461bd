"""The verdict follows the cases, not a version of torch."""

import csv
import json

import pandas as pd

from nightshift.backbone.full_size import FULL_SIZE
from nightshift.core.tables import write_table
from nightshift.probe import summary
from nightshift.probe.cases import COLUMNS
from nightshift.probe.names import CAUSES
from nightshift.probe.text import causes, table

VERSIONS = {"torch": "2.15.0", "sam3": "0.1.4"}


def test_the_verdict_of_the_pinned_torch(frame):
    answers = {name: answer.verdict for name, answer in summary.hypotheses(frame).items()}
    assert answers == {
        "lora_wrapper": "refuted", "data_parallel": "refuted", "resolution": "supported", "attention_layer": "refuted",
    }  # fmt: skip
    fixes = summary.fixes(frame)
    assert "0 of 9" in fixes["contiguous"] and "wraps the head alone" in fixes["two_gpus"]


def test_the_verdict_follows_the_cases(frame):
    """As on torch 2.9, where the installed replica ends as the legacy one: nothing hangs on a version number."""
    shipped = frame["table"] == "as_shipped"
    legacy = frame[(frame["wrapper"] == "replica_legacy") & shipped].set_index("adapter")
    old = frame.copy()
    for row in old.index[(old["wrapper"] == "replica_installed") & shipped]:
        ends = ["outcome", "cause", "block", "table_shape", "expected_shape"]
        old.loc[row, ends] = legacy.loc[old.loc[row, "adapter"], ends].tolist()
    answer = summary.hypotheses(old)["data_parallel"]
    assert answer.verdict == "supported" and "576 x 32 x 2 at block 0," in answer.because
    assert summary.hypotheses(with_outcome(frame, "sam3-1008x1008-peft_attention", "error"))["lora_wrapper"].cases == [
        "sam3-1008x1008-peft_attention"
    ]
    native = with_outcome(frame, "sam3-shallow-1008x1008", "wrong")
    assert summary.hypotheses(native)["attention_layer"].verdict == "supported"
    other_block = frame.assign(block=frame["block"].where(frame["case"] != "sam3-512x512-peft_attention", 15))
    assert summary.hypotheses(other_block)["lora_wrapper"].cases == ["sam3-512x512-peft_attention"]


def with_outcome(frame: pd.DataFrame, case: str, outcome: str) -> pd.DataFrame:
    return frame.assign(outcome=frame["outcome"].where(frame["case"] != case, outcome))


def test_sizes_and_their_cost():
    sides = {side.side: side for side in summary.resolutions(FULL_SIZE)}
    assert sides[1008].relative_flops == sides[1008].relative_activations == 1
    assert sides[504].window_padding == round(1 - 36**2 / 48**2, 3) and sides[672].window_padding == 0
    assert summary.recommended(list(sides.values()), 512) == 672
    assert summary.recommended(list(sides.values()), 2000) == 1344


def test_the_report_says_what_each_cause_means_and_what_cures_it(frame):
    verdict = summary.verdict_of(frame, FULL_SIZE, 512, VERSIONS)
    text = summary.report(verdict, frame)
    count = int((frame["cause"] == "grid").sum())
    assert f"| grid | {count} | {CAUSES['grid'][0]} | {CAUSES['grid'][1]} |" in text
    assert all(line.count("|") == 5 for line in text.splitlines() if line.startswith(("| grid", "| positions")))
    record = json.loads(verdict.model_dump_json())
    assert set(record["causes"]) == set(CAUSES)
    assert record["causes"]["pixels_dropped"]["cure"] == "frames resized or padded to a multiple of 14 px"


def test_cases_as_text(cases):
    some = [case for case in cases if case.case in ("sam3-1008x1008", "sam3-1024x1024")]
    header, *lines = table(some).splitlines()
    assert header.split() == ["case", "outcome", "cause", "block", "table_shape", "expected_shape"]
    assert lines == [
        "sam3-1008x1008  ok",
        "sam3-1024x1024  assertion  grid   7      5184 x 32    5329 x 32",
    ]
    assert causes(some) == [f"grid: {CAUSES['grid'][0]}; cure: {CAUSES['grid'][1]}"]


def test_the_contract_columns(frame, tmp_path):
    write_table(tmp_path / "cases.csv", frame)
    assert COLUMNS == (
        "case", "encoder", "height", "width", "grid_h", "grid_w", "adapter", "wrapper", "dtype", "table", "outcome",
        "cause", "block", "table_shape", "expected_shape",
    )  # fmt: skip
    with (tmp_path / "cases.csv").open(encoding="utf-8") as handle:
        rows = {row["case"]: row for row in csv.DictReader(handle)}
    assert tuple(rows["sam3-1008x1008"]) == COLUMNS
    assert rows["sam3-1008x1008"]["block"] == "" and rows["sam3-1024x1024"]["block"] == "7"
