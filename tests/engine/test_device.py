"""What hardware.yaml asks for must be there when a stage starts."""

import shutil

import pytest
import torch

from nightshift.config.hardware import hardware
from nightshift.console import errors
from nightshift.console.errors import UserError
from nightshift.engine.device import _can_compile, _say_why_not_cuda, compiles, device, seed_everything


def test_a_gpu_that_is_not_there_is_one_line(checkout, monkeypatch):
    (checkout / "hardware.yaml").write_text("device: cuda\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"hardware.yaml: device: cuda.*no GPU"):
        device()
    (checkout / "hardware.yaml").write_text("device: auto\n")
    hardware.cache_clear()
    assert device() == torch.device("cpu")


def test_a_seed_decides_every_generator_and_threads_are_fixed(checkout):
    (checkout / "hardware.yaml").write_text("threads: 1\n")
    drawn = []
    for _ in range(2):
        seed_everything(7)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn) and torch.get_num_threads() == 1


def test_where_torch_cannot_compile_a_line_says_so_and_nothing_is_compiled(checkout, monkeypatch, capsys):
    def fails(function):
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", fails)
    assert not compiles() and capsys.readouterr().out == ""
    (checkout / "hardware.yaml").write_text("compile: true\n")
    hardware.cache_clear()
    _can_compile.cache_clear()
    assert not compiles() and not compiles()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("torch cannot compile here, so nothing is compiled: no C++ compiler")
    monkeypatch.setattr(torch, "compile", lambda function: function)
    _can_compile.cache_clear()
    assert compiles()
    _can_compile.cache_clear()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_too_little_memory_is_one_line(error, capsys):
    def short():
        raise error

    with pytest.raises(SystemExit):
        errors.run(short)
    assert capsys.readouterr().err.startswith("error: out of memory: lower encoder.resolution")


@pytest.mark.parametrize(
    ("built_for", "said"),
    [
        (None, "is built without CUDA: install it from https://"),
        ("13.2", "is built for CUDA 13.2, and the driver is too"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_one_line(checkout, monkeypatch, capsys, built_for, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    for present in (True, False):
        monkeypatch.setattr(shutil, "which", lambda name, present=present: "nvidia-smi" if present else None)
        _say_why_not_cuda.cache_clear()
        assert device() == device() == torch.device("cpu")
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == present and all("but everything runs on the CPU" in one and said in one for one in lines)
    _say_why_not_cuda.cache_clear()
