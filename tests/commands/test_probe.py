"""nightshift probe: questions of one's own, which nothing of the project takes part in."""

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.clone import CloneViT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import save_file

from nightshift.backbone import encoder
from nightshift.backbone.rope import SAM3
from nightshift.commands.main import main
from nightshift.console.errors import UserError

ROOT = Path(__file__).parents[2]
# What a user's machine may lack: all that neither torch nor sam3 needs.
ABSENT = ("pydantic", "peft", "pandas", "matplotlib", "dvc", "hydra", "monai", "skimage", "pydicom", "scipy")


def test_it_answers_a_question_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["probe", "--sides", "1024", "504x2016", "1016", "--adapters", "none", "lora_by_hand"])
    said = capsys.readouterr().out
    assert "sam3-1024x1024-lora_by_hand  assertion  grid" in said and f"tested: {SAM3}" in said
    assert "sam3-504x2016 " in said
    assert "\npixels_dropped: " in said and "cure: frames resized or padded to a multiple of 14 px" in said
    assert not list(tmp_path.iterdir())


def test_a_clone_of_sam3_is_asked_with_both_of_its_tables(monkeypatch, capsys):
    monkeypatch.setattr(encoder, "ViT", CloneViT)
    main(["probe", "--sides", "1008", "--wrappers", "replica_legacy"])
    said = capsys.readouterr().out
    assert "sam3-1008x1008-replica_legacy            assertion  replica_real_view  0" in said
    assert "sam3-1008x1008-replica_legacy-rope_real  ok" in said


def test_it_says_what_the_tables_of_a_weights_file_are_made_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tables = {f"detector.backbone.vision_backbone.trunk.blocks.{i}.attn.freqs_cis": n for i, n in enumerate((4, 9, 9))}
    state = {name: torch.zeros(n * n, 32, dtype=torch.complex64) for name, n in tables.items()}
    torch.save({"model": state}, "sam3.pt")
    save_file({name: torch.view_as_real(value) for name, value in state.items()}, "sam3.safetensors")
    real = {f"{name}_{part}": torch.zeros(value.shape) for name, value in state.items() for part in ("real", "imag")}
    torch.save(state | real, "clone.pt")
    for name in ("sam3.pt", "sam3.safetensors", "clone.pt"):
        main(["probe", "--weights", name])
        assert "2 blocks are for 9 x 9 tokens, 126 px" in capsys.readouterr().out
    Path("bad.pt").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    save_file({"a": torch.zeros(1)}, "none.safetensors")
    for name in ("bad.pt", "none.safetensors", "absent.pt"):
        assert name in fails(["--weights", name], capsys)
    assert not Path("owned").exists()


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command ends in."""
    with pytest.raises((SystemExit, UserError)) as caught:
        main(["probe", *arguments])
    line = str(caught.value) if caught.type is UserError else capsys.readouterr().err.strip()
    assert line and "\n" not in line
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --sides PIXELS or --weights FILE; the whole study is `dvc repro probe`"),
        (["--sides", "10"], "'10': expected pixels, 14 or more, as 1024 or 768x1024"),
        (["--sides", "1x2x3"], "'1x2x3': expected pixels"),
        (["--sides", "1008", "--adapters", "lora"], "invalid choice: 'lora'"),
    ],
)
def test_what_it_does_not_understand_is_one_line(arguments, said, capsys):
    assert said in fails(arguments, capsys)


def test_what_the_door_imports():
    """Importing nightshift.rope loads torch and sam3, and no package of ours beside `backbone`."""
    code = (
        "import sys, torch; import nightshift.rope as door; assert callable(door.explain)\n"
        "print(*sorted(n for n in sys.modules if n.startswith('nightshift')))\n"
        f"print(*sorted(set({ABSENT}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    ours, absent = done.stdout.splitlines()
    assert ours.split() == [
        "nightshift", "nightshift.backbone", "nightshift.backbone.rope", "nightshift.backbone.rope_error",
        "nightshift.rope",
    ]  # fmt: skip
    assert absent == ""


def required(*names: str) -> set[str]:
    """The distributions that these need, themselves included, by their metadata."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found:
            continue
        found.add(name)
        needs = map(Requirement, importlib.metadata.distribution(name).requires or ())
        todo += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def started(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command run without this environment's variables, which may lead to the checkout."""
    variables = {"PATH": "/usr/bin:/bin"}
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, env=variables)


def run(*command: object, cwd: Path) -> str:
    done = started(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_beside_torch_and_sam3_alone(tmp_path):
    """An environment with what their metadata asks for, psutil, and this package without its dependencies."""
    env, source, elsewhere = (tmp_path / name for name in ("env", "source", "elsewhere"))
    run(sys.executable, "-m", "venv", "--without-pip", env, cwd=tmp_path)
    python = env / "bin/python"
    site = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip())
    for name in required("torch", "sam3", "psutil"):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    shutil.copytree(ROOT / "nightshift", source / "nightshift", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    install = ("-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    run(sys.executable, *install, source, cwd=tmp_path)

    elsewhere.mkdir()
    missing = f"import importlib.util as u; print(*(n for n in {ABSENT} if u.find_spec(n)))"
    assert run(python, "-c", missing, cwd=elsewhere).strip() == ""
    run(python, "-c", "from nightshift.rope import explain, make_real, set_grid", cwd=elsewhere)
    probe = env / "bin/nightshift", "probe", "--sides", "1024"
    said = run(*probe, "--wrappers", "none", "replica_legacy", cwd=elsewhere)
    assert "sam3-1024x1024                 assertion  grid               7" in said
    assert "sam3-1024x1024-replica_legacy  assertion  replica_real_view  0" in said
    refused = started(*probe, "--adapters", "peft_attention", cwd=elsewhere)
    assert refused.returncode == 1 and "peft is not installed" in refused.stderr and "Traceback" not in refused.stderr
