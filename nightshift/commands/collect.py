"""A queued run's arms beside the others: from DVC's run cache or, where code has changed, from the run's snapshot."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nightshift.commands import dvc_adapter, dvc_private
from nightshift.commands.notes import NOTES, Change, read_note
from nightshift.config import params, resolved
from nightshift.config.params import PARAMS
from nightshift.config.yaml_io import parse, read_yaml, value_at
from nightshift.console.errors import UserError
from nightshift.core.project import root
from nightshift.jobs.preconditions import NO_TRAINING
from nightshift.jobs.stale_metrics import METRICS

RUNS = Path("reports/runs")  # comparisons with a snapshot, by name of the run
STEPS = ("encode", "train", "evaluate")
DATA = ("synthesize", "prepare")  # settings that every arm follows from
Contents = dict[str, dict[str, Any]]  # by name of a file below reports/settings: {settings: ..., versions: ...}


@dataclass(frozen=True)
class Difference:
    """A setting or a version that the run had otherwise: `key` as `-S` takes it, or a package."""

    key: str
    there: Any
    here: Any


def collect(name: str) -> None:
    """All arms from the run cache, then the comparison, in the workspace. Nothing is trained.

    What the run was given with -S is set in params.yaml, unless it was edited there since. What comes out is kept as
    the experiment NAME-collected, which the next `dvc exp run` does not touch.

    Raises:
        UserError: the workspace has other code or settings than the run, which are named; or one of the other arms is
            not trained as the workspace has it now.
    """
    revision = dvc_adapter.experiment(name)
    arms = arms_of(name, revision)
    changes = still_open(read_note(name).changes, arms)
    differences = differing(revision, arms, changes)
    files = changed_code(revision, arms)
    if files or differences:
        code = f"code ({', '.join(files)} changed since)" if files else ""
        now = ", ".join(f"{one.key} {one.here} instead of {one.there}" for one in differences)
        settings = f"settings (now {now})" if differences else ""
        raise UserError(
            f"{name} was made with other {' and '.join(filter(None, (code, settings)))}; nothing was trained. Put that "
            "back, or queue again (nightshift queue start), or compare with what the run made "
            f"(nightshift queue collect {name} --snapshot)"
        )
    for change in changes:
        set_in_params(change)
    try:
        print(dvc_adapter.dvc("repro", "compare", **{NO_TRAINING: "1"}).rstrip())
    except UserError:
        _put_back()  # DVC deletes the outputs of a stage before it runs it
        raise
    new = dvc_adapter.untracked([METRICS.as_posix()])  # where its removal was committed meanwhile
    include = [word for path in new for word in ("-I", path)]
    dvc_adapter.dvc("exp", "save", "-f", "-n", f"{name}-collected", *include, "compare")
    print(f"kept as the experiment {name}-collected")


def arms_of(name: str, revision: str) -> list[str]:
    """The arms that the run made: as its note says, else the reference of params.yaml at its revision."""
    if found := read_note(name).arms:
        return found
    reference = value_at(parse(dvc_adapter.file_at(revision, "params.yaml") or ""), "compare.reference")
    if not isinstance(reference, str):
        raise UserError(f"{name}: its params.yaml has no compare.reference, so it is not known which arm it made")
    return [reference]


def still_open(changes: Sequence[Change], arms: Sequence[str]) -> list[Change]:
    """Those that params.yaml does not have, that nobody has edited since, and that matter to one of `arms`."""
    values = read_yaml(PARAMS)
    found = [change for change in changes if value_at(values, change.key) == change.before != change.after]
    for change in list(found):
        others = [one for one in found if one is not change]
        try:
            if _contents_here(others, arms) == _contents_here(found, arms):
                found = others
        except UserError:  # the others alone are not valid
            pass
    return found


def differing(revision: str, arms: Sequence[str], changes: Sequence[Change] = ()) -> list[Difference]:
    """What `arms` are made from at a finished `revision` otherwise than in the workspace with `changes`.

    What only other arms follow from is not asked.
    """
    here = _contents_here(changes, arms)
    there = contents_at(revision, list(here), finished=True)
    raw = [read_yaml(PARAMS, [change.text for change in changes])]
    raw.append(parse(dvc_adapter.file_at(revision, "params.yaml") or "") or {})
    found: dict[str, Difference] = {}
    for name, content in here.items():
        for path, one, other in _leaves("", there.get(name), content):
            if key := key_of(name, path, raw):
                found.setdefault(key, Difference(key, one, other))
    return list(found.values())


def key_of(file: str, path: str, raw: Sequence[Any]) -> str:
    """How `-S` or a preset names a setting; empty for one that only follows from another one, which is named itself.

    Args:
        file: name below reports/settings, as `arms/lora/train`.
        path: dotted, in that file, as `settings.train.epochs`.
        raw: params.yaml here and there.
    """
    kind, _, path = path.partition(".")
    if kind == "versions":
        return path
    section, _, rest = path.partition(".")

    def same(key: str) -> bool:
        return bool(value_at(raw[0], key) == value_at(raw[1], key))

    use = {"preset": "encoder", "source": "data", "simulated": "data", "external": "external"}.get(section)
    if use:
        preset = f"conf/{'encoder' if use == 'encoder' else 'data'}/{value_at(raw[0], f'use.{use}')}.yaml"
        return f"{preset}:{rest.removeprefix('source.')}".rstrip(":") if same(f"use.{use}") else f"use.{use}"
    if file in DATA:
        return "use.data" if section == "name" else path
    arm = f"arms.{file.split('/')[1]}"
    if section == "train" and any(value_at(values, f"{arm}.{rest}") is not None for values in raw):
        return f"{arm}.{rest}"
    if (path == "encoder.resolution" or section == "augment") and same(path):
        return ""  # native: another size of the preset; with no variants nothing else of augment is used
    return f"{arm}.{rest}".rstrip(".") if section == "arm" else path


def changed_code(revision: str, arms: Sequence[str]) -> list[str]:
    """Files that the stages of `arms` depend on and that the workspace has otherwise than `revision`."""
    paths = code_of(arms)
    return dvc_adapter.changed_files(revision, paths) if paths else []


def code_of(arms: Iterable[str]) -> list[str]:
    """Files and folders of code that the stages of `arms` depend on."""
    stages = dvc_private.stages_of(f"evaluate@{arm}" for arm in arms)
    return sorted({dep for stage in stages for dep in stage.deps if dep.split("/")[0] in ("nightshift", "stages")})


def contents_at(revision: str, names: Sequence[str], *, finished: bool) -> Contents:
    """The files of reports/settings with these names as `revision` has them.

    Of a `finished` run as its stages read them, by their hash in dvc.lock, versions of packages too. Else, and where
    DVC's cache has them no more, as its params.yaml and conf/ resolve now.
    """
    found: Contents = {}
    if finished:
        cache = dvc_adapter.cache_folder()
        for stage in dvc_adapter.locked(dvc_adapter.file_at(revision, "dvc.lock")).values():
            for dep in stage.get("deps", []):
                name = str(dep["path"]).removeprefix("reports/settings/").removesuffix(".json")
                if name in names and (content := dvc_adapter.cached_json(cache, dep.get("md5", ""))):
                    found[name] = content
    if any(name not in found for name in names):
        with TemporaryDirectory() as folder:
            dvc_adapter.settings_files(revision, Path(folder))
            try:
                all_of_them = resolved.contents(params.read(folder=Path(folder)))
            except UserError as error:
                clause = str(error).removeprefix(f"{folder}/")
                raise UserError(f"{revision[:7]} has settings that cannot be read any more: {clause}") from None
        found = {name: content for name, content in all_of_them.items() if name in names} | found
    return found


def contents_of(settings: params.Settings, arms: Sequence[str]) -> Contents:
    """The files of reports/settings that `arms` follow from. Raises UserError for an arm that there is not."""
    for arm in arms:
        settings.arm(arm)
    folders = tuple(f"arms/{arm}/" for arm in arms)
    found = resolved.contents(settings)
    return {name: content for name, content in found.items() if name in DATA or name.startswith(folders)}


def _contents_here(changes: Sequence[Change], arms: Sequence[str]) -> Contents:
    return contents_of(params.read([change.text for change in changes]), arms)


def _leaves(path: str, there: Any, here: Any) -> list[tuple[str, Any, Any]]:
    """(dotted path, there, here) of what differs between two values of JSON."""
    if not isinstance(there, dict) or not isinstance(here, dict):
        return [] if there == here else [(path, there, here)]
    names = dict.fromkeys([*there, *here])
    return [leaf for name in names for leaf in _leaves(f"{path}.{name}".lstrip("."), there.get(name), here.get(name))]


def set_in_params(change: Change) -> None:
    """Give a key of params.yaml the value that the run had; comments stay."""
    from dvc.utils.serialize import modify_yaml

    *sections, last = change.key.split(".")
    with modify_yaml(str(PARAMS)) as content:
        section = content
        for name in sections:
            section = section[name]
        print(f"{PARAMS}: {change.key} {change.before} -> {change.after}, as the run had it")
        if change.after is None:
            section.pop(last, None)
        else:
            section[last] = change.after


def _put_back() -> None:
    """Check out the outputs of all arms: DVC removes those of a stage before it runs it, also if it then refuses."""
    for arm in params.read().arms:
        for step in STEPS:
            dvc_adapter.tried("checkout", f"{step}@{arm}")  # one that never ran has nothing to put back


def snapshot(name: str) -> None:
    """The comparison with the run's arms as they were made -> reports/runs/NAME, marked as such."""
    from nightshift.reporting import compare  # matplotlib: a second
    from nightshift.reporting.about import about_run
    from nightshift.reporting.load import read_arm

    revision = dvc_adapter.experiment(name)
    made = arms_of(name, revision)
    changes = [f"{path} has changed" for path in changed_code(revision, made)]
    changes += [f"{one.key} was {one.there} and is {one.here}" for one in differing(revision, made)]
    folder = root() / NOTES / name
    dvc_adapter.fetch(revision, [path for arm in made for path in _files_of(arm)], folder)
    settings = params.read()
    arms = {arm: read_arm(arm, folder if arm in made else Path()) for arm in settings.arms}
    which = f"The {made[0]} arm is a snapshot" if len(made) == 1 else f"The arms {', '.join(made)} are a snapshot"
    what = f"{which}, {name} ({revision[:7]}), and not what this workspace makes"
    note = f"{what}: {'; '.join(changes) or 'nothing has changed since'}."
    compare.write(arms, settings.compare, about_run(settings, arms, [note]), RUNS / name)


def _files_of(arm: str) -> list[str]:
    costs = [f"reports/cost/{arm}/{step}.json" for step in STEPS]
    record = f"reports/probe/arms/{arm}.json"
    return [f"models/{arm}", f"reports/evaluation/{arm}", f"reports/curves/{arm}.csv", record, *costs]
