"""README, CONTRIBUTING and docs say what is true: links, names, settings, tables; nothing is run here but parsers."""

import itertools
import json
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
import yaml
from helpers import docs
from helpers.chain import ROOT
from helpers.docs import PAGES, Block

from nightshift.commands.main import COMMANDS, parser_of
from nightshift.config import params, resolved
from nightshift.config.hardware import Hardware
from nightshift.config.kinds import KINDS, METHOD_KEYS, Layer, Overrides, TrainedSection
from nightshift.config.params import read_as
from nightshift.config.presets import DataFile
from nightshift.probe.names import CAUSES
from nightshift.reporting.records import Metrics

ISSUES = ("facebookresearch/sam3#361", "#606", "#610", "#580", "#343", "Sompote/SAM3_LoRA#31")
ISSUES += ("facebookresearch/sam3#159", "#224", "#424", "Sompote/SAM3_LoRA#30")
# Blocks marked `text` that nobody runs here, by page and heading, and why.
NOT_RUN = {
    ("docs/data.md", "A manifest"): "a table",
    ("docs/hardware.md", "Several GPUs"): "two machines",
    ("docs/sharing.md", "S3 or SSH"): "a server",
    ("docs/windows.md", "Install"): "PowerShell",
    ("docs/windows.md", "Check it yourself"): "make test",
    ("docs/overnight.md", "Collect"): "needs an edit of code while it runs: tests/commands/test_queue.py",
    ("docs/overnight.md", "With DVC alone"): "the same as the commands above it",
    ("docs/clusters.md", "Submit"): "a SLURM: tests/pipeline/test_cluster.py",
}
CONSOLE = [block for page in PAGES for block in docs.blocks(page, "console")]
COMMAND_LINES = sorted({line for block in CONSOLE for line in block.lines})
QUESTIONS = {  # what a newcomer asks, and what the answer must name; at most one link away from README
    "Where is a mask resized?": "mask_to_square",
    "Where is RoPE repaired?": "make_real",
    "What reruns when": "`arms.lora.rank` | `probe_arm@lora`, `train@lora`",
    "Add an arm": '"+arms.wide={kind: lora, rank: 32}"',
    "Add a kind of arm": "nightshift/arms/KIND.py",
}


def test_readme_is_short_and_names_the_issues():
    text = docs.page_text("README.md")
    assert len(text.splitlines()) < 200
    assert [issue for issue in ISSUES if issue not in text] == []


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_short(page):
    """Tables, links and code may be longer."""
    long = [
        line
        for line in re.sub(r"^```.*?^```$", "", docs.page_text(page), flags=re.DOTALL | re.MULTILINE).splitlines()
        if len(line) > 120 and not line.startswith("|")
    ]
    assert long == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in docs.links(page):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in docs.anchors(path.resolve().relative_to(ROOT).as_posix()), f"{page}: {target}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_every_page_is_linked_from_the_readme_and_from_all_others(page):
    for other in PAGES:
        if other not in (page, "CONTRIBUTING.md"):
            assert any(target.partition("#")[0].endswith(Path(page).name) for target in docs.links(other)), other


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_newcomer_finds_the_answer_one_link_away(question):
    pages = {"README.md"} | {target.partition("#")[0] for target in docs.links("README.md")}
    texts = [docs.page_text(page) for page in pages & set(PAGES)]
    assert any(
        re.search(rf"{re.escape(question)}.*{re.escape(QUESTIONS[question])}", text, re.DOTALL) for text in texts
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page):
    """Names in capitals, as KIND, stand for something else; so do the outputs of stages."""
    prose = re.sub(r"^```.*?^```$", "", docs.page_text(page), flags=re.DOTALL | re.MULTILINE)
    for name in re.findall(r"`((?:nightshift|stages|tests|conf|docs|benchmarks)/[^`\s:]*)`", prose):
        if not re.search(r"[A-Z]{3}|mine|small", name):
            assert (ROOT / name).exists(), f"{page}: {name}"
    for functions, name in re.findall(r"((?:`\w+`(?:, | and )?)+) in (?:\[|`)(nightshift/[\w/]+\.py)", prose):
        code = (ROOT / name).read_text(encoding="utf-8")
        for function in re.findall(r"`(\w+)`", functions):
            assert re.search(rf"^\s*(?:(?:def|class) {function}\b|{function}\b.* = )", code, re.MULTILINE), (page, name)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_known_languages(page):
    assert {block.language for block in docs.blocks(page)} <= docs.LANGUAGES
    found = {(block.page, block.heading) for block in docs.blocks(page, "text")}
    assert found == {place for place in NOT_RUN if place[0] == page}


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_command_means_the_same_in_every_shell(line):
    assert not re.search(r"['`$\\;]|&&|\|", line)


@pytest.mark.parametrize("line", [line for line in COMMAND_LINES if line.startswith("nightshift ")])
def test_the_arguments_of_a_command_are_valid(line):
    _, name, *arguments = shlex.split(line)
    assert name in COMMANDS
    if arguments != ["--help"]:
        parser_of(name).parse_args(arguments)


@pytest.mark.parametrize("line", [line for line in COMMAND_LINES if line.startswith("dvc ")])
def test_the_arguments_of_dvc_are_valid(line):
    from dvc.cli import parse_args

    parse_args(shlex.split(line)[1:])


def changes_of(line: str) -> list[str]:
    """The settings that a command changes in params.yaml; of a sweep, those of its first run."""
    words = shlex.split(line)
    given = [value for option, value in itertools.pairwise(words) if option == "-S"]
    if "--queue" in words or words[:2] == ["nightshift", "curve"]:
        given = [re.sub(r"=(\[[^\]]*\]|[^,\[]*),.*", r"=\1", value) for value in given]
    return [value for value in given if not value.startswith("conf/")]


@pytest.mark.parametrize("line", [line for line in COMMAND_LINES if " -S " in line])
def test_the_settings_of_a_command_are_valid(line, checkout):
    Path("conf/data/mine.yaml").write_text(docs.blocks("docs/data.md", "yaml")[0].text, encoding="utf-8")
    added = ["+arms.wide={kind: lora}"] if "~arms.wide" in line else []
    params.read([*added, *changes_of(line)])


def test_the_make_targets_exist():
    targets = re.findall(r"^([a-z-]+): ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = [line.split()[1] for line in COMMAND_LINES if line.startswith("make ")]
    assert named and set(named) <= set(targets)


def test_no_dvc_command_names_a_stage_that_is_not_there():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    arms = params.read(folder=ROOT).arms
    names = {f"{stage}@{arm}" for stage, entry in stages.items() if "foreach" in entry for arm in arms} | set(stages)
    for line in COMMAND_LINES:
        words = shlex.split(line)
        if words[:2] in (["dvc", "repro"], ["dvc", "pull"]):
            assert {word for word in words[2:] if not word.startswith("-")} <= names, line


# Blocks of YAML and JSON


@pytest.mark.parametrize("block", docs.blocks("docs/data.md", "yaml"), ids=lambda block: block.heading)
def test_the_presets_of_the_docs_are_valid(block: Block, tmp_path):
    (tmp_path / "preset.yaml").write_text(block.text, encoding="utf-8")
    read_as(DataFile, tmp_path / "preset.yaml")


@pytest.mark.parametrize("block", docs.blocks("docs/arms.md", "yaml"), ids=lambda block: block.heading)
def test_the_arms_of_the_docs_are_valid(block: Block, checkout):
    values = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    Path("params.yaml").write_text(yaml.safe_dump(values | yaml.safe_load(block.text)), encoding="utf-8")
    assert params.read().arms


def test_the_hardware_of_the_docs_has_every_key_and_its_default():
    (block,) = docs.blocks("docs/hardware.md", "yaml")
    assert yaml.safe_load(block.text) == Hardware().model_dump()
    (profile,) = docs.blocks("docs/clusters.md", "yaml")
    Hardware.model_validate(yaml.safe_load(profile.text))


def test_the_metrics_of_the_docs_are_what_compare_writes():
    (block,) = docs.blocks("docs/report.md", "json")
    keys = set(json.loads(block.text))
    Metrics.model_validate(json.loads(block.text) | {"patients_needed": None})
    assert keys | {"patients_needed"} == set(Metrics.model_fields)


def test_the_table_of_kinds_has_every_setting_and_its_default():
    table, found, kind = docs.section("docs/arms.md", "Settings of each kind"), {}, ""
    for first, key, default in re.findall(r"^\|(?: `(\w+)`)? \|(?: `(\w+)`)? \|(?: (.+?))? \| ", table, re.MULTILINE):
        kind = first or kind
        found.setdefault(kind, {}).update({key: default.strip("`")} if key else {})
    assert list(found) == list(KINDS)
    for name, kind in KINDS.items():
        own = {key: field for key, field in kind.model_fields.items() if key not in TrainedSection.model_fields}
        assert found[name].keys() == own.keys(), name
        for key, field in own.items():
            written = found[name][key].replace("all four", str(list(get_args(Layer))))
            assert yaml.safe_load(written) == field.get_default(call_default_factory=True), (name, key)
    train = re.search(r"\| any key of `train:` \|.*", table)[0]
    assert set(re.findall(r"`(\w+)`", train)) == set(Overrides.model_fields)


def test_the_table_of_methods_has_the_keys_of_each():
    rows = re.findall(
        r"^\| `(\w+)` \| .+? \| (.*?) ?\|$", docs.section("docs/arms.md", "Methods of adapters"), re.MULTILINE
    )
    assert {name: tuple(re.findall(r"`(\w+)`", keys)) for name, keys in rows} == METHOD_KEYS


def test_the_table_of_causes_has_every_cause():
    rows = re.findall(r"^\| `(\w+)` \|", docs.section("docs/probe.md", "Causes and cures"), re.MULTILINE)
    assert set(rows) == set(CAUSES)


# What reruns when


def stages() -> dict[str, dict]:
    files = (ROOT / "dvc.yaml", ROOT / "stages/dvc.yaml")
    return {k: v for file in files for k, v in yaml.safe_load(file.read_text(encoding="utf-8"))["stages"].items()}


RERUNS = re.findall(
    r"^\| (`.*?) \| (.*?) ?\| (.*?) ?\|$", docs.section("CONTRIBUTING.md", "What reruns when"), re.MULTILINE
)


def names_of(cell: str) -> set[str]:
    """`train`, `compare` as stages, those of every arm with the arm: {train@frozen, train@lora, compare}."""
    found = set()
    for name in re.findall(r"`([^`]+)`", cell):
        whole = "foreach" in stages()[name.partition("@")[0]] and "@" not in name
        found |= {f"{name}@frozen", f"{name}@lora"} if whole else {name}
    return found


def stages_that_depend_on(path: str) -> set[str]:
    found = set()
    for name, entry in stages().items():
        for arm in ("frozen", "lora") if "foreach" in entry else ("",):
            deps = entry.get("do", entry).get("deps", [])
            deps = [dep.replace("${key}", arm).replace("${item.kind}", arm) for dep in deps]
            if any(Path(path).is_relative_to(dep) or Path(dep).is_relative_to(path) for dep in deps):
                found.add(f"{name}@{arm}" if arm else name)
    return found


def stages_that_read(before: dict, after: dict) -> set[str]:
    """The stages whose resolved settings differ."""
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    return {
        re.sub(r"arms/(\w+)/(\w+)", lambda m: f"{'probe_arm' if m[2] == 'probe' else m[2]}@{m[1]}", name)
        for name in changed
    }


OTHER = {"arms.lora.rank": 3, "arms.lora.epochs": 3, "train.epochs": 3, "head.width": 16, "augment.variants": 2}
OTHER |= {"prepare.seed": 1, "compare.level": 0.01, "compare.margin": 0.5, "probe.ddp": "false"}
OTHER |= {"encoder.channels": "vesselness", "predict.mirror": "true", "predict.hysteresis": "true"}


@pytest.mark.parametrize(("edits", "direct", "then"), RERUNS, ids=[row[0] for row in RERUNS])
def test_what_reruns_is_what_the_table_says(edits, direct, then, checkout):
    for edit in re.findall(r"`([^`]+)`", edits):
        if edit == "hardware.yaml":
            expected = set()
        elif edit.startswith("nightshift/"):
            expected = stages_that_depend_on(edit)
        else:
            change = edit if "=" in edit else f"{edit}={OTHER[edit]}"
            changes = [f"+{change}" if change.startswith("arms.lora.epochs") else change]  # a key that is not there
            expected = stages_that_read(resolved.contents(params.read()), resolved.contents(params.read(changes)))
        assert expected == names_of(direct), edit
    assert not names_of(direct) & names_of(then)
