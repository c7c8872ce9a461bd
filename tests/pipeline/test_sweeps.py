"""The param sets and the sweep of docs/arms.md, as they stand there."""

import csv
import json
import re
import shlex
import time
from pathlib import Path

import pytest
from helpers import chain, docs
from helpers.docs import typed

from nightshift.config import params
from nightshift.console.errors import UserError

PAGE, HEADING = "docs/arms.md", "Param sets and sweeps"
SECTION = docs.section(PAGE, HEADING)
SETS = dict(re.findall(r"^\| ([^|]+?) \| `([^`]+)` \|", SECTION, re.MULTILINE))
FULL = ["use.encoder=sam3"]  # 32 blocks
OUTPUTS = tuple(f"reports/cost/frozen/{step}.json" for step in ("encode", "train", "evaluate"))


def changes(line: str) -> list[str]:
    """`-S A -S B` as a shell takes it apart."""
    words = shlex.split(line)
    assert words[::2] == ["-S"] * (len(words) // 2)
    return words[1::2]


def test_the_sets_are_what_they_are_called(checkout):
    sets = {name: params.read(FULL + changes(line)) for name, line in SETS.items()}
    assert sets.keys() == {"attention + MLP", "attention only", "qkv only", "last 8 blocks", "another method", "672 px"}
    assert sets["attention + MLP"] == params.read(FULL)  # as shipped
    assert sets["attention only"].arms["lora"].targets == ["attn.qkv", "attn.proj"]
    assert sets["qkv only"].arms["lora"].targets == ["attn.qkv"]
    assert sets["last 8 blocks"].arm("lora").arm.blocks == list(range(24, 32))
    assert sets["another method"].arms["lora"].method == "dora"
    assert sets["672 px"].resolution == 672 and 672 % (14 * sets["672 px"].preset.window_size) == 0


@pytest.mark.parametrize("line", SETS.values(), ids=SETS.keys())
def test_dvc_reads_a_set_as_we_do(checkout, line):
    from dvc.utils.hydra import apply_overrides

    ours = params.read(FULL + changes(line))
    apply_overrides(Path("params.yaml"), FULL + changes(line))
    assert params.read() == ours


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("arms.lora.targets=[attn.kqv]", "attn.kqv"),
        ("arms.lora.target=[attn.qkv]", "did you mean 'targets'"),
        ("arms.lora.blocks={first:8}", "expected all, {last: 8} or a list of block numbers"),
        ("encoder.resolution=672px", "expected a number of pixels, or native"),
        ("arms.lora.rank=0", "arms.lora.rank"),
    ],
)
def test_a_set_misspelt_is_one_line(checkout, change, said):
    with pytest.raises(UserError) as caught:
        params.read([change])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def emptied(folder: Path) -> str:
    """The status of the queue when nothing waits and nothing runs any more."""
    end = time.monotonic() + 30 * 60
    while re.search("Queued|Running", status := typed(folder, "dvc queue status")):
        assert time.monotonic() < end, status
        time.sleep(10)  # asking takes a second of a core that the runs want
    return status


@pytest.mark.slow
def test_a_sweep_of_six_on_two_workers_trains_the_frozen_arm_once(tmp_path, monkeypatch):
    """With the settings and the tiny encoder as shipped: a quarter of an hour on two cores."""
    monkeypatch.setattr(chain, "MINIATURE", {})
    folder = chain.clone(tmp_path / "nightshift")
    (folder / "hardware.yaml").write_text("threads: 1\n")
    queue, after = (block.lines for block in docs.blocks(PAGE, "console", HEADING))
    start = time.monotonic()
    try:
        for line in queue:
            typed(folder, line)
        status = emptied(folder)
    finally:
        chain.run(folder, "dvc", "queue", "stop", "--kill")
    print(f"six runs on two workers: {time.monotonic() - start:.0f} s")
    names = [f"sweep-{number}" for number in range(1, 7)]
    logs = {name: chain.run(folder, "dvc", "queue", "logs", name) for name in names}
    told = "\n".join(done.stdout[-2000:] for done in logs.values())
    assert len(re.findall("sweep-. .*Success", status)) == 6, status + told

    for done in logs.values():
        assert "Running stage 'train@lora'" in done.stdout
        assert not re.search("Running stage '(encode|train|evaluate)@frozen'", done.stdout)
    states = json.loads(typed(folder, "dvc exp show --json"))
    workspace = states[0]["data"]["outs"]
    runs = {run["revs"][0]["name"]: run["revs"][0]["data"] for state in states for run in state["experiments"] or []}
    assert sorted(runs) == names
    for output in OUTPUTS:
        assert {data["outs"][output]["hash"] for data in runs.values()} == {workspace[output]["hash"]}
    assert len({data["outs"]["models/lora"]["hash"] for data in runs.values()}) == 6

    assert typed(folder, after[0]).startswith("6 of 6 ranked")
    with (folder / "reports/leaderboard/leaderboard.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["rank"] for row in rows] == list("123456") and sorted(row["experiment"] for row in rows) == names
    assert len({(row["arms.lora.rank"], row["arms.lora.targets"]) for row in rows}) == 6
    assert len({(row["frozen.dice"], row["frozen.seconds"]) for row in rows}) == 1
    typed(folder, after[1])
    metrics = json.loads((folder / "reports/comparison/metrics.json").read_text(encoding="utf-8"))
    first = next(row for row in rows if row["experiment"] == names[0])
    assert float(first["delta"]) == pytest.approx(metrics["against"]["lora"]["delta"], abs=1e-6)

    wrong = chain.run(folder, "dvc", "exp", "run", "-S", "arms.lora.targets=[attn.kqv]")
    errors = [line for line in wrong.stderr.splitlines() if line.startswith("error:")]
    assert wrong.returncode != 0 and len(errors) == 1 and "attn.kqv" in errors[0]
    assert "Running stage 'probe'" not in wrong.stdout
