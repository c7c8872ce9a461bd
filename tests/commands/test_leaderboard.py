"""The table over all experiments: on made-up answers of `dvc exp show --json` as 3.67.1 gives them, and for real."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers import chain
from helpers.leaderboard import Repository, metrics, written
from mlflow import MlflowClient

from nightshift.commands import experiments, experiments_table
from nightshift.commands.experiments import Experiment
from nightshift.console.errors import UserError


@pytest.fixture
def repository() -> Repository:
    made = Repository()
    made.add("workspace")
    made.add("a" * 40, "main")
    return made


def test_one_result_in_several_places_is_one_row(repository):
    repository.add("b" * 40)  # an older commit with the same dvc.lock
    found = repository.rows()
    assert list(found) == ["main, workspace"]
    one = found["main, workspace"]
    assert (one.rank, one.revision, one.state) == (1, "aaaaaaa", "done")
    assert one.seconds == {"frozen": 60.0, "lora": 60.0}
    assert one.created.startswith("2026-11-24 05:")


def test_comparable_rows_are_ranked_by_difference_and_the_others_say_why(repository):
    for rev, name, delta, changed in (
        ("b", "better", 0.2, {"inventory": "2"}),  # with a second data set, the first is the same
        ("c", "worse", -0.1, {}),
        ("d", "data", 0.9, {"inventory": "2", "cases": "2", "folds": "2"}),
        ("e", "split", 0.9, {"folds": "2"}),
        ("3", "simulated", 0.9, {"synthetic": "2", "cases": "2", "folds": "2"}),
        ("f", "code", 0.9, {"evaluation": "2.dir"}),
        ("1", "both", 0.9, {"folds": "2", "reporting": "2.dir"}),
    ):
        repository.add(rev * 40, name, delta=delta, under="a" * 40, **changed)
    repository.add("2" * 40, "reference", delta=0.9, under="a" * 40, reference="lora", arms={"frozen": 0.3})
    found = repository.rows()
    assert list(found)[:3] == ["better", "main, workspace", "worse"]
    assert [one.rank for one in found.values()] == [1, 2, 3] + 6 * [None]
    assert {name: one.why for name, one in found.items() if one.why} == {
        "data": "other data",
        "split": "other split",
        "simulated": "other data",
        "code": "other code (nightshift/evaluation/measures.py)",
        "both": "other split; other code (nightshift/evaluation/measures.py)",
        "reference": "another reference (lora)",
    }


def test_a_report_that_reads_otherwise_leaves_the_numbers_comparable(repository):
    """The folder has another hash, and what makes the numbers is the same."""
    repository.changed = []
    repository.add("b" * 40, "wording", under="a" * 40, reporting="2.dir", rank=4)
    assert repository.rows()["wording"].rank


def test_an_experiment_is_as_good_as_its_best_arm(repository):
    repository.add("b" * 40, "three", delta=-0.3, arms={"wide": 0.15}, under="a" * 40)
    found = repository.rows()
    assert list(found) == ["three", "main, workspace"]
    assert found["three"].best[0] == "wide"
    assert found["three"].seconds == {"frozen": 60.0, "lora": 60.0, "wide": 60.0}


def test_without_a_workspace_the_head_is_the_measure_and_without_both_the_newest():
    repository = Repository()
    repository.add("a" * 40, "main")
    repository.add("b" * 40, "other", evaluation="2")
    assert repository.rows()["main"].rank == 1
    assert repository.rows(head="c" * 40)["other"].rank == 1


@pytest.mark.parametrize("state", ["queued", "running", "failed"])
def test_what_did_not_end_has_no_numbers_though_dvc_lists_those_of_its_base(repository, state):
    error = "Experiment run failed" if state == "failed" else None
    repository.add("b" * 40, "late", rank=16, under="a" * 40, state=state, error=error)
    late = repository.rows()["late"]
    assert (late.rank, late.metrics, late.why) == (None, None, state)
    assert late.settings["arms"]["lora"]["rank"] == 16


def test_a_part_of_the_pipeline_is_no_result(repository):
    repository.add("b" * 40, "target", rank=16, locked_rank=8, under="a" * 40)
    data = repository.add("c" * 40, "stopped", rank=4, under="a" * 40)
    data["deps"]["models/lora"], data["outs"]["models/lora"] = {"hash": "old"}, {"hash": "new"}
    repository.add("d" * 40, "old", under="a" * 40)
    repository.files["d" * 40, experiments.METRICS] = '{"verdict": "lora"}'
    repository.add("e" * 40, "removed", under="a" * 40)
    del repository.files["e" * 40, experiments.METRICS]
    repository.add("f" * 40, "gone", under="a" * 40, error="YAML file structure is corrupted")
    why = {name: one.why for name, one in repository.rows().items() if one.metrics is None}
    assert why == {
        "target": "ran only in part",
        "stopped": "ran only in part",
        "old": "a result of another version",
        "removed": "ran only in part",
        "gone": "not readable: YAML file structure is corrupted",
    }


def test_an_edited_workspace_is_shown_with_the_settings_of_its_result():
    repository = Repository()
    repository.add("workspace", rank=32, locked_rank=8)
    assert repository.rows()["workspace"].settings["arms"]["lora"]["rank"] == 8


def test_commits_without_a_result_are_no_rows():
    repository = Repository()
    for rev in ("workspace", "a" * 40):
        repository.add(rev)
        del repository.files[rev, "dvc.lock"]
    repository.states[1]["data"] = None  # a commit that DVC cannot read at all
    assert repository.rows() == {}


def test_time_is_empty_where_a_cost_is_not_in_the_cache(repository):
    del repository.costs["train" + "lora" + "a" * 40]
    assert repository.rows()["main, workspace"].seconds == {"frozen": 60.0, "lora": None}


def test_only_settings_that_differ_are_columns_and_an_arm_that_some_lack_is_one():
    def one(arms, **settings):
        return Experiment(["x"], ["a"], "", {"arms": arms} | settings)

    frozen, lora = {"kind": "frozen"}, {"kind": "lora", "rank": 8}
    found = [
        one({"frozen": frozen, "lora": lora}, train={"epochs": 12, "seeds": [0]}),
        one({"frozen": frozen | {"epochs": 3}, "lora": lora | {"rank": 4}}, train={"epochs": 12, "seeds": [0]}),
        one({"frozen": frozen, "lora": lora, "wide": lora}, train={"epochs": 12, "seeds": [0, 1]}),
    ]
    assert experiments_table.differing(found).to_dict("list") == {
        "arms.lora.rank": ["8", "4", "8"],
        "train.seeds": ["[0]", "[0]", "[0, 1]"],
        "arms.frozen.epochs": ["", "3", ""],
        "arms.wide": ["", "", "{kind: lora, rank: 8}"],
    }


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_the_page_is_one_sortable_file_and_the_csv_has_the_same_rows(repository, tmp_path, monkeypatch, capsys):
    evil = "<script>alert('x')</script>"
    repository.add("b" * 40, evil, rank=16, delta=0.2, under="a" * 40)
    repository.add("c" * 40, "late", under="a" * 40, state="queued")
    text, rows = written(repository, tmp_path, monkeypatch)
    assert capsys.readouterr().out == f"2 of 3 ranked: {(tmp_path / 'leaderboard.html').as_posix()}\n"
    assert text.startswith("<!doctype html>") and evil not in text and "&lt;script&gt;alert" in text
    tags = Page(text).tags
    assert not [1 for _, attributes in tags if "src" in attributes or "href" in attributes]
    columns = [attributes for tag, attributes in tags if tag == "th" and attributes.get("scope") == "col"]
    assert len(columns) == len([1 for tag, _ in tags if tag == "button"]) == 11  # ten, and the rank of LoRA
    assert {column["aria-sort"] for column in columns} == {"ascending", "none"}
    cells = [attributes for tag, attributes in tags if tag == "td"]
    assert len(cells) == 3 * 10  # and a th for the name
    assert text.index(">Experiment<") < text.index(">arms.lora.rank<") < text.index(">Difference<")
    assert '+0.200 <span class="range">[0.180, 0.220]</span>' in text
    assert [(row["rank"], row["experiment"], row["why_not_ranked"]) for row in rows] == [
        ("1", evil, ""),
        ("2", "main, workspace", ""),
        ("", "late", "queued"),
    ]
    first = rows[0]
    assert (first["arms.lora.rank"], first["delta_low"], first["frozen.high"]) == ("16", "0.180000", "0.550000")
    assert (first["best"], first["lora.delta"], first["p"]) == ("lora", "0.200000", "0.020000")
    assert first["lora.low"] == rows[2]["delta"] == ""


def test_each_of_three_arms_has_its_columns(repository, tmp_path, monkeypatch):
    repository.add("b" * 40, "three", rank=16, arms={"wide": 0.15}, under="a" * 40)
    text, rows = written(repository, tmp_path, monkeypatch)
    assert ">Best other arm<" in text and ">Recommended<" in text and "(Holm)" in text
    places = [text.index(f">{head}<") for head in ("arms.lora.rank", "Difference", "Time, wide", "arms.wide")]
    assert places == sorted(places)
    assert (rows[0]["experiment"], rows[0]["best"], rows[0]["wide.dice"]) == ("three", "wide", "0.650000")
    assert rows[1]["wide.dice"] == rows[1]["arms.wide"] == "" and rows[0]["arms.wide"] == "{kind: lora, rank: 1}"


def test_a_result_without_an_interval_says_so(repository, tmp_path, monkeypatch):
    few = metrics({"lora": 0.1}, "frozen")
    few["against"]["lora"]["ci95"] = None
    for rev in ("workspace", "a" * 40):
        repository.files[rev, experiments.METRICS] = json.dumps(few)
    text, rows = written(repository, tmp_path, monkeypatch)
    assert text.count("unbounded") == 1
    assert rows[0]["delta"] == "0.100000" and rows[0]["delta_low"] == ""


def test_nothing_at_all_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no results and no experiments yet"):
        written(Repository(), tmp_path, monkeypatch)


def test_outside_of_a_repository_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match=r"`git rev-parse --verify HEAD` failed: .*not a git repository"):
        experiments.load()


def exported(folder):
    """Twice, into a real MLflow: one run per experiment with its curves and its report."""
    store = f"sqlite:///{(folder / '../mlflow.db').resolve().as_posix()}"
    for last in (f"2 of 2 experiments exported to {store}", f"0 of 2 experiments exported to {store}"):
        done = chain.run(folder, "nightshift", "leaderboard", "--mlflow", store)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"{last}, the others were there" and "left out" not in done.stdout
    client = MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("nightshift").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert len(runs) == 2 and by_name.keys() == {"rank-2", "rank-3, workspace"}
    run = by_name["rank-3, workspace"]
    metrics = json.loads((folder / "reports/comparison/metrics.json").read_text(encoding="utf-8"))
    assert run.data.metrics["lora/delta"] == metrics["against"]["lora"]["delta"]
    assert run.data.params["arms.lora.rank"] == "3"
    with (folder / "reports/curves/lora.csv").open(encoding="utf-8", newline="") as handle:
        expected = [(int(row["epoch"]), float(row["val_dice"])) for row in csv.DictReader(handle)]
    history = client.get_metric_history(run.info.run_id, "lora/fold-0/seed-0/val_dice")
    assert len(expected) == 2 and [(one.step, one.value) for one in history] == expected
    report = Path(client.download_artifacts(run.info.run_id, "report.html", str(folder.parent)))
    assert report.read_bytes() == (folder / "reports/comparison/report.html").read_bytes()


@pytest.mark.slow
def test_experiments_of_a_real_clone(tmp_path):
    folder = chain.clone(tmp_path / "clone")
    for rank in (2, 3):
        done = chain.run(folder, "dvc", "exp", "run", "-n", f"rank-{rank}", "-S", f"arms.lora.rank={rank}")
        assert done.returncode == 0, done.stdout + done.stderr
    part = chain.run(folder, "dvc", "exp", "run", "-n", "part", "-S", "arms.lora.rank=5", "train@lora")
    assert part.returncode == 0, part.stderr
    back = chain.run(folder, "dvc", "exp", "apply", "rank-3")
    assert back.returncode == 0, back.stderr
    queued = chain.run(folder, "dvc", "exp", "run", "--queue", "-n", "late", "-S", "arms.lora.rank=4")
    assert queued.returncode == 0, queued.stderr
    done = chain.run(folder, "nightshift", "leaderboard")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 of 4 ranked: reports/leaderboard/leaderboard.html"
    with (folder / "reports/leaderboard/leaderboard.csv").open(encoding="utf-8", newline="") as handle:
        rows = {row["experiment"]: row for row in csv.DictReader(handle)}
    assert {name: row["arms.lora.rank"] for name, row in rows.items()} == {
        "rank-2": "2",
        "rank-3, workspace": "3",
        "part": "5",
        "late": "4",
    }
    assert rows["late"]["why_not_ranked"] == "queued" and rows["late"]["delta"] == ""
    assert rows["part"]["why_not_ranked"] == "ran only in part"
    for name in ("rank-2", "rank-3, workspace"):
        assert rows[name]["rank"] and float(rows[name]["frozen.seconds"]) > 0 and float(rows[name]["lora.seconds"]) > 0
    metrics = json.loads((folder / "reports/comparison/metrics.json").read_text(encoding="utf-8"))
    assert float(rows["rank-3, workspace"]["delta"]) == metrics["against"]["lora"]["delta"]
    exported(folder)
    # A run that did not reach compare has no result in DVC's own table either.
    states = json.loads(chain.run(folder, "dvc", "exp", "show", "--json").stdout)
    shown = {group["name"]: group["revs"][0]["data"]["metrics"] for group in states[1]["experiments"]}
    assert "data" not in shown["part"][experiments.METRICS] and shown["rank-2"][experiments.METRICS]["data"]
