"""Metrics that are of another run are removed, those that are this run's own stay."""

import hashlib
from pathlib import Path

import pytest
import yaml

from nightshift.jobs import stale_metrics


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics, and a dvc.lock that has them as made with the present settings."""
    monkeypatch.chdir(tmp_path)
    for path in (stale_metrics.METRICS, stale_metrics.SETTINGS):
        path.parent.mkdir(parents=True)
        path.write_text("{}", encoding="utf-8")
    dep = {"path": stale_metrics.SETTINGS.as_posix(), "md5": hashlib.md5(b"{}", usedforsecurity=False).hexdigest()}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"compare": {"deps": [dep]}}}), encoding="utf-8")


def test_metrics_of_these_settings_stay(recorded):
    stale_metrics.remove_stale_metrics()
    assert stale_metrics.METRICS.is_file()


@pytest.mark.parametrize("change", ["settings", "no stage", "no lock"])
def test_metrics_that_are_not_of_these_settings_go(recorded, change):
    if change == "settings":
        stale_metrics.SETTINGS.write_text('{"other": 1}', encoding="utf-8")
    elif change == "no stage":
        Path("dvc.lock").write_text("stages: {}\n", encoding="utf-8")
    else:
        Path("dvc.lock").unlink()
    stale_metrics.remove_stale_metrics()
    assert not stale_metrics.METRICS.exists()
    stale_metrics.remove_stale_metrics()  # nothing to remove is no error
