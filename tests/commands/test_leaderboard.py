"""The table over all experiments: on made-up answers of `dvc exp show --json` as 3.67.1 gives them, and for real."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import test_chain as chain
import yaml

from nightshift.commands import experiments
from nightshift.console.errors import UserError
from stages import leaderboard

HASHES = {path: "1" * 32 for path in (experiments.INVENTORY, *experiments.SPLITS, *experiments.CODE)}
CONF = "conf/data/synthetic.yaml"


class Repository:
    """States as `dvc exp show` lists them, and the files of their revisions."""

    def __init__(self) -> None:
        self.states, self.files, self.costs = [], {}, {}

    def add(self, rev, name=None, rank=8, delta=0.1, state=None, under=None, locked_rank=None, error=None, **changed):
        """A workspace or commit, or under its revision an experiment in a `state`; `changed`: hashes by path's stem."""
        hashes = {path: changed.get(Path(path).stem, md5) for path, md5 in HASHES.items()}
        costs = {f"reports/cost/{s}_{a}.json": f"{s}{a}{rev}" for s in experiments.STEPS for a in experiments.ARMS}
        params = {"params.yaml": {"use": {"data": "synthetic"}, "lora": {"rank": rank, "alpha": 16.0}, "frozen": {}}}
        params[CONF] = {"patients": 8, "views": 2}
        locked = json.loads(json.dumps(params))
        locked["params.yaml"]["lora"]["rank"] = locked_rank or rank
        locked["params.yaml"]["use.data"] = locked["params.yaml"].pop("use")["data"]
        self.files[rev, "dvc.lock"] = yaml.safe_dump({"stages": {"compare": {"params": locked, "of": [hashes, delta]}}})
        arms = {"frozen": {"dice": 0.5, "ci95": [0.45, 0.55]}, "lora": {"dice": 0.5 + delta, "ci95": None}}
        dice = {"frozen": 0.5, "lora": 0.5 + delta, "delta": delta, "ci95": [delta - 0.02, delta + 0.02], "p": 0.01}
        self.files[rev, experiments.METRICS] = json.dumps(
            {"verdict": "lora", "dice": dice, "arms": arms, "patients": 9}
        )
        self.costs |= {md5: {"seconds": 20.0} for md5 in costs.values()}
        data = {
            "rev": rev,
            "timestamp": None if rev == "workspace" else f"2026-11-24T05:{10 + len(self.files)}:51",
            "params": {file: {"data": values} for file, values in params.items()},
            "metrics": {},  # it has no lists, so nothing is read from it
            "deps": {path: {"hash": md5, "size": 1, "nfiles": None} for path, md5 in hashes.items()},
            "outs": {
                path: {"hash": md5, "size": 1, "nfiles": None, "use_cache": True, "is_data_source": False}
                for path, md5 in costs.items()
            },
            "meta": {},
        }
        error = {"msg": error, "type": ""} if error else None
        new = {"rev": rev, "name": name, "data": data, "error": error, "experiments": None}
        if under is None:
            self.states.append(new)
        else:
            executor = {"state": state, "name": "dvc-task", "local": None} if state else None
            base = next(one for one in self.states if one["rev"] == under)
            base["experiments"] = [*(base["experiments"] or []), {"revs": [new], "executor": executor, "name": name}]
        return data

    def table(self, head="a" * 40) -> dict[str, experiments.Experiment]:
        """By name or revision, in order."""
        found = experiments.collect(self.states, lambda *key: self.files.get(key), self.costs.get)
        return {", ".join(one.names) or one.revision: one for one in experiments.ranked(found, head)}


@pytest.fixture
def repository() -> Repository:
    made = Repository()
    made.add("workspace")
    made.add("a" * 40, "main")
    return made


def test_one_result_in_several_places_is_one_row(repository):
    repository.add("b" * 40)  # an older commit with the same dvc.lock
    found = repository.table()
    assert list(found) == ["main, workspace"]
    one = found["main, workspace"]
    assert (one.rank, one.revision, one.state) == (1, "aaaaaaa", "done")
    assert one.seconds == {"frozen": 60.0, "lora": 60.0}
    assert one.created.startswith("2026-11-24 05:")


def test_comparable_rows_are_ranked_by_difference_and_the_others_say_why(repository):
    for rev, name, delta, changed in (
        ("b", "better", 0.2, {}),
        ("c", "worse", -0.1, {}),
        ("d", "data", 0.9, {"inventory": "2", "test": "2", "train": "2"}),
        ("e", "split", 0.9, {"val": "2"}),
        ("f", "code", 0.9, {"metrics": "2", "statistics": "2"}),
        ("1", "both", 0.9, {"test": "2", "evaluation": "2"}),
    ):
        repository.add(rev * 40, name, delta=delta, under="a" * 40, **changed)
    found = repository.table()
    assert list(found)[:3] == ["better", "main, workspace", "worse"]
    assert [one.rank for one in found.values()] == [1, 2, 3, None, None, None, None]
    assert {name: one.why for name, one in found.items() if one.why} == {
        "data": "other data",
        "split": "other split",
        "code": "other code (metrics.py, statistics.py)",
        "both": "other split; other code (evaluation.py)",
    }


def test_without_a_workspace_the_head_is_the_reference_and_without_both_the_newest():
    repository = Repository()
    repository.add("a" * 40, "main")
    repository.add("b" * 40, "other", metrics="2")
    assert repository.table()["main"].rank == 1
    assert repository.table(head="c" * 40)["other"].rank == 1


@pytest.mark.parametrize("state", ["queued", "running", "failed"])
def test_what_did_not_end_has_no_numbers_though_dvc_lists_those_of_its_base(repository, state):
    error = "Experiment run failed" if state == "failed" else None
    repository.add("b" * 40, "late", rank=16, under="a" * 40, state=state, error=error)
    late = repository.table()["late"]
    assert (late.rank, late.metrics, late.why) == (None, None, state)
    assert late.settings["lora"]["rank"] == "16"


def test_a_part_of_the_pipeline_is_no_result(repository):
    repository.add("b" * 40, "target", rank=16, locked_rank=8, under="a" * 40)
    data = repository.add("c" * 40, "stopped", rank=4, under="a" * 40)
    data["deps"]["models/lora"], data["outs"]["models/lora"] = {"hash": "old"}, {"hash": "new"}
    repository.add("d" * 40, "empty", under="a" * 40)
    repository.files["d" * 40, experiments.METRICS] = '{"verdict": "lora"}'
    repository.add("e" * 40, "gone", under="a" * 40, error="YAML file structure is corrupted")
    why = {name: one.why for name, one in repository.table().items() if one.metrics is None}
    assert why == {
        "target": "ran only in part",
        "stopped": "ran only in part",
        "empty": "no results",
        "gone": "not readable: YAML file structure is corrupted",
    }


def test_an_edited_workspace_is_shown_with_the_settings_of_its_result():
    repository = Repository()
    repository.add("workspace", rank=32, locked_rank=8)
    assert repository.table()["workspace"].settings["lora"]["rank"] == "8"


def test_commits_without_a_result_are_no_rows():
    repository = Repository()
    for rev in ("workspace", "a" * 40):
        repository.add(rev)
        del repository.files[rev, "dvc.lock"]
    repository.states[1]["data"] = None  # a commit that DVC cannot read at all
    assert repository.table() == {}


def test_time_is_empty_where_a_cost_is_not_in_the_cache(repository):
    del repository.costs["train" + "lora" + "a" * 40]
    assert repository.table()["main, workspace"].seconds == {"frozen": 60.0, "lora": None}


def test_only_settings_that_differ_are_columns_and_a_preset_counts_where_it_is_used():
    def one(**settings):
        return experiments.Experiment(["x"], ["a"], "", settings)

    found = [
        one(lora={"rank": "8", "alpha": "16.0"}, frozen={}, **{CONF: {"patients": "8", "views": "2"}}),
        one(lora={"rank": "4", "alpha": "16.0"}, frozen={"epochs": "3"}, **{CONF: {"patients": "9", "views": "2"}}),
        one(lora={"rank": "8", "alpha": "16.0"}, frozen={}, **{"conf/data/mine.yaml": {"kind": "folder"}}),
    ]
    assert experiments.differing(found) == {
        "lora.rank": ["8", "4", "8"],
        "frozen.epochs": ["", "3", ""],
        f"{CONF}:patients": ["8", "9", ""],
    }


def test_small_numbers_of_a_lock_are_numbers_and_hashes_are_text():
    lock = "stages: {compare: {params: {params.yaml: {train: {learning_rate: 1e-05}}}, md5: 6e90a0d4}}"
    assert experiments._settings(experiments._locked(lock)) == {"train": {"learning_rate": "1e-05"}}
    assert experiments._run_with({"params.yaml": {"train": {"learning_rate": 1e-05}}}, experiments._locked(lock))


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def written(repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[dict[str, str]]]:
    monkeypatch.setattr(experiments, "load", lambda: list(repository.table().values()))
    leaderboard.main(["-o", str(folder)])
    with (folder / "leaderboard.csv").open(encoding="utf-8", newline="") as handle:
        return (folder / "leaderboard.html").read_text(encoding="utf-8"), list(csv.DictReader(handle))


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
    assert len(columns) == len([1 for tag, _ in tags if tag == "button"]) == 11  # ten, and lora.rank
    assert {column["aria-sort"] for column in columns} == {"ascending", "none"}
    cells = [attributes for tag, attributes in tags if tag == "td"]
    assert len(cells) == 3 * 10  # and a th for the name
    assert '+0.200 <span class="range">[0.180, 0.220]</span>' in text
    assert [(row["rank"], row["experiment"], row["why_not_ranked"]) for row in rows] == [
        ("1", evil, ""),
        ("2", "main, workspace", ""),
        ("", "late", "queued"),
    ]
    assert (rows[0]["lora.rank"], rows[0]["delta_low"], rows[0]["frozen_high"]) == ("16", "0.180000", "0.550000")
    assert rows[0]["lora_low"] == rows[2]["delta"] == ""


def test_metrics_without_arms_or_interval_leave_cells_empty(repository, tmp_path, monkeypatch):
    old = {"verdict": "undecided", "dice": {"frozen": 0.5, "lora": 0.6, "delta": 0.1, "ci95": None, "p": 0.5}}
    for rev in ("workspace", "a" * 40):
        repository.files[rev, experiments.METRICS] = json.dumps(old)
    text, rows = written(repository, tmp_path, monkeypatch)
    assert text.count("unbounded") == 1  # the difference: of one arm nothing is known
    assert rows[0]["delta"] == "0.100000" and rows[0]["delta_low"] == rows[0]["frozen_low"] == rows[0]["patients"] == ""


def test_nothing_at_all_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no results and no experiments yet"):
        written(Repository(), tmp_path, monkeypatch)


def test_outside_of_a_repository_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match=r"`git rev-parse --verify HEAD` failed: .*not a git repository"):
        experiments.load()


@pytest.mark.slow
def test_experiments_of_a_real_clone(tmp_path):
    folder = chain.clone(tmp_path / "clone")
    for rank in (2, 3):
        done = chain.run(folder, "dvc", "exp", "run", "-n", f"rank-{rank}", "-S", f"lora.rank={rank}")
        assert done.returncode == 0, done.stdout + done.stderr
    queued = chain.run(folder, "dvc", "exp", "run", "--queue", "-n", "late", "-S", "lora.rank=4")
    assert queued.returncode == 0, queued.stderr
    done = chain.run(folder, "stages.leaderboard")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 of 3 ranked: reports/leaderboard/leaderboard.html"
    with (folder / "reports/leaderboard/leaderboard.csv").open(encoding="utf-8", newline="") as handle:
        rows = {row["experiment"]: row for row in csv.DictReader(handle)}
    assert {name: row["lora.rank"] for name, row in rows.items()} == {
        "rank-2": "2",
        "rank-3, workspace": "3",
        "late": "4",
    }
    assert rows["late"]["why_not_ranked"] == "queued" and rows["late"]["delta"] == ""
    for name in ("rank-2", "rank-3, workspace"):
        assert rows[name]["rank"] and float(rows[name]["frozen_seconds"]) > 0 and float(rows[name]["lora_seconds"]) > 0
    metrics = json.loads((folder / "reports/comparison/metrics.json").read_text(encoding="utf-8"))
    assert float(rows["rank-3, workspace"]["delta"]) == metrics["dice"]["delta"]
