"""A clone in which the pipeline has run, one per process, shared by tests of this folder; each leaves it as it was."""

from pathlib import Path

import pytest
from helpers.chain import clone, ran


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with miniature settings in which `dvc repro` has run."""
    folder = clone(tmp_path_factory.mktemp("chain") / "first")
    assert ran(folder) >= {"compare", "train@frozen", "train@lora"}
    return folder
