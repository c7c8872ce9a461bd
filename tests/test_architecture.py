"""The house: rooms import only from rooms below them, and dvc.yaml names exactly the modules that a stage imports."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# Lower rooms first; modules of one line are on the same floor and do not import each other.
FLOORS = [
    ["errors", "progress", "views"],
    ["angles", "grey", "paths", "rows"],
    ["files", "parsing", "loading", "presets", "pictures", "contours", "dicom", "likeness"],
    ["settings", "footprint"],
    ["weights", "gate", "compute", "cost", "inventory", "shards", "anatomy", "rope"],
    ["projection", "raw", "leases", "pseudonyms"],
    ["simulator", "cases", "splits", "from_manifest", "from_folder", "from_dicom", "from_coco"],
    ["cards", "inputs"],
    ["sources"],
    ["checking"],
    ["framing", "encoder", "metrics"],
    ["rotation", "wrapping", "lora", "segmenter"],
    ["probing", "arms", "checkpoints", "ranks"],
    ["steps"],
    ["loop"],
    ["verdicts", "matrix", "encoding", "training", "evaluation"],
    ["prediction", "planning", "statistics", "results", "experiments"],
    ["wording", "folders"],
    ["figures"],
    ["overlays", "contact"],
    ["report"],
    ["comparison"],
    ["night"],
    ["morning"],
]
COMMANDS = {"check", "plan", "leaderboard", "night", "predict"}  # for people: `python -m stages.plan`, no parts of it
LORA_STAGES = {"probe", "encode_lora", "train_lora", "evaluate_lora"}


def imports(path: Path) -> set[str]:
    """Modules of this project that the file imports, as paths; also those imported inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {p for name in names if (ROOT / (p := name.replace(".", "/") + ".py")).is_file()}
    return {p for p in found if p.startswith(("nightshift/", "stages/"))}


def closure(path: str) -> set[str]:
    """The file and all it imports, directly or not, but `settings`: its values are tracked as params."""
    todo, seen = [path], set()
    while todo:
        one = todo.pop()
        if one not in seen and one != "nightshift/config/params.py":
            seen.add(one)
            todo += imports(ROOT / one)
    return seen


def stages() -> dict[str, dict]:
    files = (ROOT / "dvc.yaml", ROOT / "stages" / "dvc.yaml")
    return {k: v for file in files for k, v in yaml.safe_load(file.read_text(encoding="utf-8"))["stages"].items()}


def test_rooms_import_only_from_below():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    modules = {p.stem for p in (ROOT / "nightshift").glob("*.py")} - {"__init__"}
    assert modules == set(floor)
    for name in modules:
        for other in imports(ROOT / "nightshift" / f"{name}.py"):
            assert other.startswith("nightshift/"), f"{name} imports a stage"
            assert floor[Path(other).stem] < floor[name], f"{name} imports {other}, which is not below it"


@pytest.mark.parametrize("name", stages())
def test_deps_are_the_modules_that_a_stage_imports(name):
    deps = {d for d in stages()[name]["deps"] if d.endswith(".py")}
    assert deps == closure(f"stages/{name}.py")


def test_only_the_lora_stages_see_lora():
    seen = {name for name in stages() if "nightshift/arms/lora.py" in stages()[name]["deps"]}
    assert seen == LORA_STAGES


def test_only_evaluation_sees_the_test_cases():
    seen = {name for name, stage in stages().items() if "data/prepared/test" in stage["deps"]}
    assert seen == {"evaluate_frozen", "evaluate_lora"}


def test_every_stage_has_a_module_and_every_module_a_stage():
    assert {p.stem for p in (ROOT / "stages").glob("*.py")} - {"__init__"} == set(stages()) | COMMANDS
