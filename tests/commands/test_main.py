"""The console script and the package: help, errors, imports, and what an installed package takes precedence over."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nightshift.commands.main import COMMANDS, Parser, command, dispatch, main
from nightshift.commands.options import add_changes
from nightshift.console.errors import UserError

HEAVY = {"torch", "numpy", "pandas", "dvc", "pydantic", "yaml", "matplotlib", "scipy", "sam3", "tqdm"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Runs a command line in a new process, and prints the names of HEAVY and the commands that it has imported.
TRACED = f"""
import sys
from nightshift.commands import main
try:
    main.main(sys.argv[1:])
except SystemExit as error:
    assert not error.code
print("heavy:", *({HEAVY!r} & set(sys.modules)))
print("commands:", *(name for name in main.COMMANDS if "nightshift.commands." + name in sys.modules))
"""


def python(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_help_lists_every_command_with_its_line():
    done = python("-c", TRACED, "--help")
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert re.search(rf"^  {name} +{re.escape(command(name).HELP)}$", done.stdout, re.MULTILINE)
    assert "\nheavy:\n" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_an_example_and_imports_nothing_else(name):
    done = python("-c", TRACED, name, "--help")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^examples?:\n  (?:\S+=\S+ )*nightshift {name}\b", done.stdout, re.MULTILINE)
    assert done.stdout.endswith(f"\nheavy:\ncommands: {name}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_of_a_command_fits_the_overview(name):
    line = command(name).HELP
    assert "\n" not in line and not line.endswith(".") and len(line) <= 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pln"], "error: no command 'pln'; valid: probe, check, plan, queue, predict, export, compare"),
        (["plan", "--card-s"], "error: unrecognized arguments: --card-s; see nightshift plan --help"),
        (["plan", "-S"], "error: argument -S/--set-param: expected one argument; see nightshift plan --help"),
        (["predict", "models/lora/fold-0/seed-0"], "error: the following arguments are required: INPUT, -o; see"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_1(capsys, arguments, said):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 1 and err.startswith(said) and err.count("\n") == 1 and not out


def test_both_ways_to_call_it_run_the_command(checkout):
    """Also from a folder that is no checkout; the error is that of reading its params.yaml."""
    (checkout / "params.yaml").unlink()
    script = Path(sys.executable).with_name("nightshift")
    for line in ([sys.executable, "-m", "nightshift"], [str(script)]):
        done = subprocess.run([*line, "plan"], cwd=checkout, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr.startswith("error: params.yaml: ") and done.stderr.count("\n") == 1
    assert not list(checkout.glob("reports"))


def test_changes_are_a_list(capsys):
    parser = Parser(prog="nightshift x")
    add_changes(parser)
    assert parser.parse_args([]).changes == []
    assert parser.parse_args(["-S", "a=1", "--set-param", "b=2"]).changes == ["a=1", "b=2"]
    with pytest.raises(UserError, match="unrecognized arguments: -x; see nightshift x --help"):
        parser.parse_args(["-x"])


def test_without_a_command_it_prints_the_overview(capsys):
    dispatch([])
    assert capsys.readouterr().out.startswith("usage: nightshift COMMAND")


def test_another_python_is_told_to_activate_the_environment(tmp_path):
    """`.venv/bin/dvc repro` runs the `python` of PATH, which may have none of the packages."""
    done = python("-S", "-m", "stages.inputs")
    assert done.returncode == 1 and not done.stdout
    assert re.fullmatch(
        r"error: this python \(.+\) has no pydantic, yaml, numpy, torch, sam3: activate the environment "
        r"\(source \.venv/bin/activate; .*\), then run the same command again\n",
        done.stderr,
    )


def test_a_queued_run_imports_its_own_copy(tmp_path):
    """With the package installed from the main checkout, as `make` does it: the current folder comes first.

    And a module that the copy does not have is not taken from the main checkout either.
    """
    for package in ("nightshift", "stages"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "nightshift/own.py").write_text("")
    code = "import nightshift.own\nprint(nightshift.own.__file__)\nimport nightshift.carm"
    (tmp_path / "stages/copy.py").write_text(code)
    elsewhere = python("-c", "import nightshift.carm", cwd=tmp_path.parent)
    assert elsewhere.returncode == 0, f"not installed: {elsewhere.stderr}"
    done = python("-m", "stages.copy", cwd=tmp_path)
    assert Path(done.stdout.strip()) == tmp_path / "nightshift/own.py"
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'nightshift.carm'\n")


def requirements() -> list[Requirement]:
    return [Requirement(text) for text in PYPROJECT["project"]["dependencies"]]


def test_what_is_imported_is_declared():
    imported = set()
    for path in (ROOT / "nightshift").rglob("*.py"):
        imported |= set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    owners = packages_distributions()
    known = imported - set(sys.stdlib_module_names) - {"nightshift", "mlflow"}  # asked for where it is not there
    declared = {canonicalize_name(one.name) for one in requirements()}
    through = {"pydantic_core": "pydantic", "markupsafe": "jinja2"}  # come with these
    for module in known & owners.keys():
        names = {canonicalize_name(name) for name in owners[module]}
        assert names & declared or through.get(module) in declared, f"{module} is imported and not in pyproject.toml"


def test_the_pins_are_within_the_declared_ranges():
    pins = {}
    for file in ("requirements.txt", "constraints.txt"):
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            if found := re.match(r"([\w.-]+)==([\w.]+)", line):
                pins[canonicalize_name(found[1])] = found[2]
    for one in requirements():
        pin = pins[canonicalize_name(one.name)]
        assert one.specifier.contains(pin), f"{one}: {pin}"
    builds = Requirement(PYPROJECT["build-system"]["requires"][0])
    assert builds.name == "setuptools" and builds.specifier.contains(pins["setuptools"])


def test_all_that_is_installed_is_pinned():
    """What a new version of a package brings along would otherwise be another one next month."""
    pinned = set()
    for file in ("requirements.txt", "constraints.txt"):
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            if found := re.match(r"([\w.-]+)==", line):
                pinned.add(canonicalize_name(found[1]))
    todo, missing, seen = [canonicalize_name(one.name) for one in requirements()], set(), set()
    todo += [
        "pytest",
        "hypothesis",
        "playwright",
        "ruff",
        "mypy",
        "types-pyyaml",
        "tensorboard",
        "mlflow-skinny",
        "sqlalchemy",
        "alembic",
    ]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue  # of another system
        if name not in pinned:
            missing.add(name)
        for text in installed.requires or ():
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                todo.append(canonicalize_name(one.name))
    assert not missing


@pytest.mark.slow
def test_a_built_package_has_the_templates_and_no_stage(tmp_path):
    """Without the network: setuptools is here already."""
    source = tmp_path / "source"
    source.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "nightshift", "stages", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command_line = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", "made"]
    done = python(*command_line, str(source), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "made"
    assert {path.name for path in made.iterdir()} >= {"nightshift", "bin"} and not (made / "stages").exists()
    templates = {path.name for path in (ROOT / "nightshift/reporting/templates").iterdir()}
    assert {path.name for path in (made / "nightshift/reporting/templates").iterdir()} == templates
    code = "import sys; sys.path.insert(0, 'made'); from nightshift.commands.main import main; main(['--help'])"
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0 and "leaderboard" in done.stdout
