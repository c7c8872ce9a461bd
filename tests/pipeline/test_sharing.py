"""The page on sharing, as it stands there: what one has trained, nobody trains again."""

import subprocess
from pathlib import Path

import pytest
from helpers import chain, docs
from helpers.docs import typed

PAGE = "docs/sharing.md"


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def ran(output: str) -> set[str]:
    assert "skipping run" not in output  # nothing is even looked up in the run cache: DVC sees that nothing changed
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


@pytest.mark.slow
def test_a_colleague_trains_nothing(tmp_path):
    mine, theirs, other = chain.clone(tmp_path / "nightshift"), tmp_path / "colleague", tmp_path / "other"
    git(tmp_path, "init", "--quiet", "--bare", "hub.git")
    git(mine, "remote", "add", "origin", "../hub.git")
    assert chain.ran(mine) >= {"train@frozen", "train@lora"}
    share, fetch, send, receive = (block.lines for block in docs.blocks(PAGE, "console"))
    for line in share:
        typed(mine, line.replace("/srv/", f"{tmp_path.as_posix()}/"))
    assert any((tmp_path / "nightshift-store/runs").iterdir())

    # With the line ends that git for Windows asks for: other bytes would be other hashes, and everything would run.
    git(tmp_path, "clone", "--quiet", "--config", "core.autocrlf=true", "hub.git", theirs.name)
    assert ran([typed(theirs, line) for line in fetch][-1]) == chain.ALWAYS
    assert chain.files(theirs) == chain.files(mine)

    git(tmp_path, "clone", "--quiet", "hub.git", other.name)
    typed(other, "dvc pull synthesize")
    assert ran(typed(other, fetch[-1])) == chain.ALWAYS
    assert not (other / "data/encoded").exists()
    typed(other, "dvc pull compare")
    report = "reports/comparison/report.html"
    assert (other / report).read_bytes() == (mine / report).read_bytes()

    before = len(list((tmp_path / "nightshift-store/files").rglob("*")))
    for line in send:
        typed(mine, line)
    assert len(list((tmp_path / "nightshift-store/files").rglob("*"))) > before
    printed = [typed(theirs, line) for line in receive]
    assert "wide" in printed[0] and "wide" in printed[2]
    assert ran(printed[-1]) == chain.ALWAYS
    assert chain.files(theirs) == chain.files(mine) and (theirs / report).read_bytes() == (mine / report).read_bytes()
    assert typed(theirs, "nightshift leaderboard").startswith("2 of 2 ranked")
