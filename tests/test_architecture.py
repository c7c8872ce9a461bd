"""Packages import only from packages below them, and a stage of DVC depends on exactly the packages that it imports."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# Lower layers first; packages of one line do not import each other. A name with .py is a module of its own.
LAYERS = [
    ["console"], ["core"], ["config"], ["carm.py", "simulation", "engine"], ["data", "jobs"], ["backbone", "ingest"],
    ["rope.py", "model", "feature_cache.py"], ["arms"], ["training", "evaluation"], ["probe", "reporting", "export"],
    ["commands"],
]  # fmt: skip
# What cannot change a byte of an output; settings can, but stages depend on their resolved values.
UNTRACKED = {"console", "config", "jobs"}


def modules(path: Path) -> set[Path]:
    """Modules of this project that the file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {file for name in names if (file := ROOT / f"{name.replace('.', '/')}.py").is_file()}
    return {file for file in found if {ROOT / "nightshift", ROOT / "stages"} & set(file.parents)}


def package(path: Path) -> str:
    return path.relative_to(ROOT / "nightshift").parts[0]


def closure(path: Path) -> set[Path]:
    """The modules that a file imports, directly or not; what the untracked ones import does not count."""
    todo, seen = [path], set()
    while todo:
        new = {one for one in modules(todo.pop()) if package(one) not in UNTRACKED} - seen
        seen |= new
        todo += new
    return seen


def stages() -> dict[str, dict]:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("dvc.yaml", "stages/dvc.yaml")]
    return {name: one.get("do", one) for text in texts for name, one in yaml.safe_load(text)["stages"].items()}


def test_packages_import_only_from_below():
    layer = {name: i for i, names in enumerate(LAYERS) for name in names}
    files = [path for path in (ROOT / "nightshift").rglob("*.py") if not path.name.startswith("__")]
    assert {package(path) for path in files} == set(layer)
    for path in files:
        for other in modules(path):
            assert ROOT / "nightshift" in other.parents, f"{path} imports a stage"
            same = package(other) == package(path)
            assert same or layer[package(other)] < layer[package(path)], f"{path} imports {other}, not below it"


@pytest.mark.parametrize("name", sorted(stages().keys() - {"inputs"}))  # which always runs
def test_the_deps_of_a_stage_are_the_packages_that_it_imports(name):
    deps = {dep for dep in stages()[name]["deps"] if dep.startswith(("nightshift/", "stages/"))}
    kinds = {"nightshift/arms/${item.kind}.py"} & deps
    files = [ROOT / f"stages/{name}.py", *((ROOT / "nightshift/arms").glob("[a-z]*.py") if kinds else ())]
    imported = {f"nightshift/{package(one)}" for file in files for one in closure(file)}
    assert deps == imported | kinds | {f"stages/{name}.py"}


def test_what_no_stage_may_see():
    def seeing(dep: str) -> set[str]:
        return {name for name, stage in stages().items() if any(dep in one for one in stage.get("deps", []))}

    assert seeing("data/prepared/masks") == {"train", "evaluate"}  # no label: not in encode
    assert seeing("data/external") == {"evaluate"}  # nothing is trained or chosen on it
    assert seeing("nightshift/model") == {"probe_arm", "train", "evaluate", "compare"}  # the head: not in encode
    assert seeing("nightshift/evaluation") == {"evaluate", "compare"}  # the measures of test cases: not in train
    assert seeing("nightshift/reporting") == {"compare"}
    assert seeing("nightshift/arms") == {"probe_arm", "train", "evaluate"}
    assert {path.stem for path in (ROOT / "stages").glob("[a-z]*.py")} == set(stages())
