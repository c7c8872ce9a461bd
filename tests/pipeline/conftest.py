"""A clone in which the pipeline has run, shared by the tests of this folder; each leaves it as it was."""

from pathlib import Path

import pytest
from helpers.chain import clone, ran


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with miniature settings in which `dvc repro` has run."""
    folder = clone(tmp_path_factory.mktemp("chain") / "first")
    assert ran(folder) >= {"compare", "train@frozen", "train@lora"}
    return folder


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the same clone run in one process, one after the other."""
    for item in items:
        if "first" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("pipeline"))
