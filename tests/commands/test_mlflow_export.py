"""The export to MLflow, on a real SQLite file: once per result, with all its numbers, curves and report."""

import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.leaderboard import Repository, written
from mlflow import MlflowClient

from nightshift.commands import dvc_adapter, mlflow_export
from nightshift.console.errors import UserError

CURVE = "fold,seed,epoch,train_loss,val_loss,val_dice\n0,3,1,0.5,0.4,0.25\n0,3,2,,0.3,0.75\n"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """DVC's cache with the files of helpers.leaderboard, whose hashes are words."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(dvc_adapter, "cache_folder", lambda: folder)
    for md5, text in (("report", "<html>"), ("curve-lora", CURVE), ("curve-frozen", CURVE), ("curve-wide", CURVE)):
        file = dvc_adapter.cached(folder, md5)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def runs(store: str):
    client = MlflowClient(store)
    found = client.search_runs([client.get_experiment_by_name("nightshift").experiment_id])
    return client, {run.info.run_name: run for run in found}, len(found)


def test_each_result_is_exported_once_with_all_that_it_has(cache, tmp_path, monkeypatch, capsys):
    store = f"sqlite:///{(tmp_path / 'mlflow.db').as_posix()}"
    repository = Repository()
    repository.add("workspace")
    repository.add("a" * 40, "main")
    repository.add("b" * 40, "three", rank=16, delta=0.2, arms={"wide": 0.15}, under="a" * 40)
    repository.add("c" * 40, "other-data", under="a" * 40, cases="2")  # not ranked, and finished
    repository.add("d" * 40, "late", under="a" * 40, state="queued")

    def said() -> list[str]:
        capsys.readouterr()
        written(repository, tmp_path, monkeypatch, "--mlflow", store)
        return capsys.readouterr().out.splitlines()[1:]  # after that of the page

    assert said() == [f"3 of 3 experiments exported to {store}, the others were there"]
    client, found, count = runs(store)
    assert found.keys() == {"main, workspace", "three", "other-data"} and count == 3
    three = found["three"]
    assert three.info.status == "FINISHED"
    assert three.data.params["arms.lora.rank"] == "16" and three.data.params["use.data"] == "synthetic"
    numbers = {"lora/delta": 0.2, "lora/delta_low": 0.18, "lora/delta_high": 0.22, "wide/p_holm": 0.02, "patients": 9}
    numbers |= {"frozen/dice": 0.5, "frozen/dice_low": 0.45, "frozen/dice_high": 0.55, "frozen/seconds": 60}
    assert {key: three.data.metrics[key] for key in numbers} == pytest.approx(numbers)
    assert "lora/dice_low" not in three.data.metrics  # it has no interval
    history = client.get_metric_history(three.info.run_id, "wide/fold-0/seed-3/val_dice")
    assert [(one.step, one.value) for one in history] == [(1, 0.25), (2, 0.75)]
    assert len(client.get_metric_history(three.info.run_id, "wide/fold-0/seed-3/train_loss")) == 1
    report = client.download_artifacts(three.info.run_id, "report.html", str(tmp_path))
    assert Path(report).read_text() == "<html>"

    assert said() == [f"0 of 3 experiments exported to {store}, the others were there"]
    assert {name: run.info.run_id for name, run in runs(store)[1].items()} == {
        name: run.info.run_id for name, run in found.items()
    }

    client.update_run(found["other-data"].info.run_id, status="RUNNING")  # as an export leaves it that was stopped
    assert said() == [f"1 of 3 experiments exported to {store}, the others were there"]
    assert runs(store)[2] == 3

    dvc_adapter.cached(cache, "curve-wide").unlink()
    left_out = "three: left out, as DVC's cache has them no more: reports/curves/wide.csv"
    assert said() == [left_out, f"1 of 3 experiments exported to {store}, the others were there"]
    client, found, count = runs(store)
    assert count == 3 and not [key for key in found["three"].data.metrics if key.startswith("wide/fold-0")]


def test_without_mlflow_it_is_one_line(cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    repository = Repository()
    repository.add("workspace")
    with pytest.raises(UserError) as caught:
        written(repository, tmp_path, monkeypatch, "--mlflow", "sqlite:///mlflow.db")
    assert str(caught.value) == f"--mlflow: MLflow is not installed; python -m pip install {mlflow_export.PACKAGE}"
    pinned = re.search(r"^mlflow-skinny==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert f"mlflow=={pinned[1]}" == mlflow_export.PACKAGE


@pytest.mark.parametrize("uri", ["sqlite:///no-database.txt", "ftp://elsewhere"])
def test_a_place_that_mlflow_refuses_is_one_line(cache, tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    Path("no-database.txt").write_text("text\n" * 9)
    repository = Repository()
    repository.add("workspace")
    with pytest.raises(UserError, match=f"^--mlflow {uri}: "):
        written(repository, tmp_path, monkeypatch, "--mlflow", uri)
