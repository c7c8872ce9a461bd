"""The night's result beside the LoRA arm's: both from DVC's run cache or, where the code has changed, its snapshot."""

from pathlib import Path
from typing import Any

from nightshift.reporting import compare as comparison
from nightshift.commands import queue as night
from nightshift.reporting import render as report
from nightshift.config import params as settings
from nightshift.console.errors import UserError
from nightshift.core.io import read_json, write_json
from nightshift.jobs.preconditions import NO_TRAINING
from nightshift.config.yaml_io import at, read_yaml
from nightshift.reporting.load import STEPS, read_arm

FOLDER, PARAMS = Path(".nightshift/nights"), Path("params.yaml")
COSTS = [f"reports/cost/{step}_frozen.json" for step in STEPS]
FROZEN = [
    "models/frozen",
    "reports/evaluation/frozen",
    "reports/curves/frozen.csv",
    "reports/probe/frozen.json",
    *COSTS,
]


def remember(name: str, changes: list[str]) -> None:
    """What the night is told with -S, and what the workspace has instead."""
    before, after = read_yaml(PARAMS), read_yaml(PARAMS, changes)
    keys = [change.split("=")[0] for change in changes]
    write_json(settings.root() / FOLDER / f"{name}.json", {key: [at(before, key), at(after, key)] for key in keys})


def collect(name: str) -> None:
    """Both arms from the run cache, then the comparison, in the workspace. Nothing is trained.

    What the night was told with -S is set in params.yaml, unless it was edited there since. Raises UserError where the
    workspace has other modules or settings, naming them, or where the LoRA arm is not trained as it is now.
    """
    night.dvc("repro", "stages/dvc.yaml:env")  # versions count, too
    modules, differing = night.changed(night.result(name))
    note = settings.root() / FOLDER / f"{name}.json"
    told = read_json(note) if note.is_file() else {}  # none where `dvc exp run --queue` was used by itself
    ours = {key: there for key, (there, here) in differing.items() if told.get(key) == [here, there]}
    others = [f"{key} {here} instead of {there}" for key, (there, here) in differing.items() if key not in ours]
    if modules or others:
        raise UserError(
            f"{name} was made with other {' and '.join(filter(None, (_modules(modules), _settings(others))))}; nothing "
            "was trained. Put that back, or queue again (python -m stages.night start), or compare with what the night "
            f"made (python -m stages.night collect {name} --snapshot)"
        )
    _set(ours)
    try:
        print(night.dvc("repro", "compare", **{NO_TRAINING: "1"}).rstrip())
    except UserError:
        night.put_back()  # DVC deletes the outputs of a stage before it runs it
        raise


def _modules(modules: list[str]) -> str:
    return f"code ({', '.join(modules)} changed since)" if modules else ""


def _settings(others: list[str]) -> str:
    return f"settings (now {', '.join(others)})" if others else ""


def _set(values: dict[str, Any]) -> None:
    from dvc.utils.serialize import modify_yaml  # keeps comments

    for key, value in values.items():
        *sections, last = key.split(".")
        with modify_yaml(str(PARAMS)) as content:
            section = content
            for one in sections:
                section = section[one]
            print(f"params.yaml: {key} {section.get(last)} -> {value}, as the night had it")
            section[last] = value


def snapshot(name: str) -> None:
    """The comparison with the night's result as it was made -> reports/nights/NAME, marked as such."""
    revision = night.result(name)
    modules, differing = night.changed(revision)
    folder = settings.root() / FOLDER / name
    night.fetch(revision, FROZEN, folder)
    arms = {"frozen": read_arm("frozen", folder), "lora": read_arm("lora")}
    chosen = settings.read()
    told = [f"{key} was {there} and is {here}" for key, (there, here) in differing.items()]
    what = f"The frozen arm is a snapshot, {name} ({revision[:7]}), and not what this workspace makes"
    note = f"{what}: {'; '.join([*(f'{path} has changed' for path in modules), *told]) or 'nothing has changed since'}."
    about = report.about_run(chosen, arms, [note])
    comparison.write(arms, chosen.compare.level, about, Path("reports/nights") / name)
