"""What reruns after an edit: one thing is edited at a time, and DVC is asked which stages that changes."""

import json
from pathlib import Path

import pytest
from helpers.chain import ALWAYS, edit, ran, run

ENCODER = {"probe", "probe_arm@frozen", "probe_arm@lora", "encode@frozen", "encode@lora"}
ENCODER |= {"train@frozen", "train@lora", "evaluate@frozen", "evaluate@lora", "compare"}
TRAIN = {"train@frozen", "train@lora"}
EVALUATE = {"evaluate@frozen", "evaluate@lora"}
PROBE_ARM = {"probe_arm@frozen", "probe_arm@lora"}
# A file of code, and the stages of which a dependency changes; stages after these run if they make something else.
CODE = {
    "nightshift/console/errors.py": set(),
    "nightshift/console/progress.py": set(),
    "nightshift/jobs/gpu_lock.py": set(),
    "nightshift/jobs/resources.py": set(),
    "nightshift/config/params.py": set(),
    "nightshift/commands/predict.py": set(),
    "nightshift/model/head.py": PROBE_ARM | TRAIN | EVALUATE | {"compare"},
    "nightshift/evaluation/measures.py": EVALUATE | {"compare"},
    "nightshift/training/validation.py": TRAIN,
    "nightshift/arms/lora.py": {"probe_arm@lora", "train@lora", "evaluate@lora"},
    "nightshift/arms/frozen.py": {"probe_arm@frozen", "train@frozen", "evaluate@frozen"},
    "nightshift/backbone/rope.py": ENCODER,
    "nightshift/feature_cache.py": {"encode@frozen", "encode@lora"},
    "nightshift/reporting/templates/report.html.j2": {"compare"},
    "nightshift/ingest/coco.py": {"prepare"},
    "nightshift/simulation/anatomy.py": {"synthesize"},
}
# A setting of params.yaml or of a preset, and the stages of which a dependency changes.
SETTINGS = {
    ("params.yaml", "arms.lora.rank", 3): {"probe_arm@lora", "train@lora", "compare"},
    ("params.yaml", "arms.lora.epochs", 3): {"train@lora", "compare"},
    ("params.yaml", "arms.frozen.level", "neck"): {"probe_arm@frozen", "train@frozen", "compare"},
    ("params.yaml", "train.epochs", 3): {"train@frozen", "train@lora", "compare"},
    ("params.yaml", "head.width", 16): {"train@frozen", "train@lora", "compare"},
    ("params.yaml", "predict.mirror", True): EVALUATE | {"compare"},
    ("params.yaml", "encoder.channels", "vesselness"): ENCODER - {"probe"} - EVALUATE,
    ("params.yaml", "compare.level", 0.01): {"compare"},
    ("params.yaml", "probe.ddp", True): {"probe", "compare"},
    ("params.yaml", "prepare.on_problem", "skip"): {"prepare", "compare"},
    ("conf/data/synthetic.yaml", "views", 3): {"synthesize", "prepare", "compare"},
    ("conf/data/angiograms.yaml", "images", "elsewhere"): set(),  # a preset that is not used
}


def changed(folder: Path) -> set[str]:
    """The stages of which DVC says that something they depend on has changed."""
    done = run(folder, "stages.inputs")
    assert done.returncode == 0, done.stderr
    done = run(folder, "dvc", "status", "--json")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout)) - ALWAYS


@pytest.fixture
def finished(first: Path) -> Path:
    """The clone, with all that a run has made; metrics of other settings are removed, and come from DVC's cache."""
    assert ran(first) == ALWAYS
    return first


@pytest.mark.parametrize("path", CODE)
def test_an_edit_of_code_reruns_the_stages_that_import_it(first, path):
    file = first / path
    before = file.read_text(encoding="utf-8")
    mark = "{# edited #}" if file.suffix == ".j2" else "\n# edited\n"
    file.write_text(before + mark, encoding="utf-8")
    try:
        assert changed(first) == CODE[path]
    finally:
        file.write_text(before, encoding="utf-8")


@pytest.mark.parametrize(("file", "key", "value"), SETTINGS)
def test_an_edit_of_a_setting_reruns_the_stages_that_read_it(finished, file, key, value):
    first, before = finished, (finished / file).read_text(encoding="utf-8")
    edit(first, file, {key: value})
    try:
        assert changed(first) == SETTINGS[file, key, value]
    finally:
        (first / file).write_text(before, encoding="utf-8")


def test_a_default_of_a_preset_in_the_code_reruns_what_reads_it(first):
    """Its value is in the resolved settings: the one way in which code that DVC does not track changes a result."""
    file = first / "nightshift/config/presets.py"
    before = file.read_text(encoding="utf-8")
    assert before.count('split: Literal["given", "made"]') > 1
    file.write_text(before.replace("class Simulated(Section):", "class Simulated(Section):\n    noise: int = 0", 1))
    try:
        assert {"prepare"} <= changed(first)
    finally:
        file.write_text(before, encoding="utf-8")


def test_nothing_is_left_changed(first):
    assert ran(first) == ALWAYS
