"""hardware.yaml: optional, read from the main checkout, and once per process."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from nightshift.config.hardware import Hardware, hardware
from nightshift.console.errors import UserError
from nightshift.core.project import root
from nightshift.engine.device import device, seed_everything


def test_it_is_optional_and_of_the_main_checkout(checkout, monkeypatch, tmp_path_factory):
    assert hardware() == Hardware(device="auto", threads=2)
    main = tmp_path_factory.mktemp("main")
    (checkout / "hardware.yaml").write_text("device: cpu\n")
    (main / "hardware.yaml").write_text("threads: 1\n")
    hardware.cache_clear()
    assert hardware() == Hardware(device="cpu", threads=2)
    monkeypatch.setenv("DVC_ROOT", str(main))
    hardware.cache_clear()
    assert root() == main and hardware() == Hardware(threads=1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("devise: cpu", "unknown key 'devise'; did you mean 'device'?"),
        ("device: gpu", "device: Input should be 'auto', 'cpu' or 'cuda', got 'gpu'"),
        ("busy: never", "busy: Input should be 'wait' or 'refuse', got 'never'"),
        ("trackers: tensorboard", "trackers: expected a list, got 'tensorboard'"),
        ("trackers: [tensorbord]", "trackers: Input should be 'all', 'aim', 'tensorboard', 'wandb', 'trackio', "
         "'comet_ml', 'mlflow', 'clearml', 'dvclive' or 'swanlab', got 'tensorbord'"),
        ("threads: 0", "threads: Input should be greater than or equal to 1, got 0"),
        *((f"devices: {value}", "devices: expected auto, or a list of different numbers from 0, as [0, 1]")
          for value in ("[0, 0]", "[]", "[-1]", "[true]", "0", "all")),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(checkout, text, told):
    (checkout / "hardware.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        hardware()
    assert str(caught.value) == f"hardware.yaml: {told}"


def test_an_edit_does_not_reach_a_stage_that_is_running(checkout):
    (checkout / "hardware.yaml").write_text("device: cpu\nthreads: 1\ncheckpoint_minutes: 3\n")
    assert device() == torch.device("cpu")
    before = hardware()
    (checkout / "hardware.yaml").write_text("device: cuda\nthreads: 2\ncheckpoint_minutes: 5\n")
    seed_everything(0)
    assert device() == torch.device("cpu") and torch.get_num_threads() == 1 and hardware() is before
    (checkout / "hardware.yaml").write_text("devise: cpu\n")
    assert hardware() is before
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom nightshift.config.hardware import hardware; hardware()"
    started_afterwards = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "unknown key 'devise'" in started_afterwards.stderr
