"""What `nightshift queue` does: start, status, logs, stop and collect. What waits and goes on: guard.py."""

import shutil
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

from nightshift.commands import cluster, dvc_adapter, dvc_private, guard, queue_runs
from nightshift.commands import collect as collecting
from nightshift.commands.dvc_private import Task
from nightshift.commands.notes import Change, Note, note_path, read_note
from nightshift.config import params
from nightshift.config.params import Settings
from nightshift.config.yaml_io import read_yaml, value_at, values_of
from nightshift.console.errors import UserError
from nightshift.console.progress import bar, gigabytes, hours
from nightshift.jobs.stale_metrics import METRICS

AGAIN = "`nightshift queue start` with the same settings goes on from its checkpoint"


def start(given: Sequence[str], changes: Sequence[str], sweep: Sequence[str], note: Note) -> None:
    """Queue the evaluation of arms, or the whole comparison with each value of a sweep, and see that it is worked on.

    Args:
        given: names of arms; without one the reference, or all for a sweep.
        changes: as `params.read` takes them.
        sweep: as `values_of` takes each.
        note: where and how: what the runs' notes have in common.

    Raises:
        UserError: settings that are not valid, a file that git does not know, an arm that the probe refuses or that
            does not fit this machine; where runs cannot be submitted.
    """
    place, name = note.on, f"run-{datetime.now():%m%d-%H%M%S}"
    if place:
        cluster.check(place)
    points = list(product(*map(values_of, sweep)))
    names = [name] if len(points) == 1 else [f"{name}-{number}" for number in range(1, len(points) + 1)]
    runs = dict(zip(names, points, strict=True))
    arms, said = list[str](), list[str]()
    for run, point in runs.items():
        settings = params.read([*changes, *point])
        every = list(settings.arms) if sweep else [settings.compare.reference]
        arms = list(dict.fromkeys(given)) or every
        check_known_to_git(settings, arms)
        check_probe(arms, settings)
        which = f"the arms {', '.join(arms)}" if len(arms) > 1 else f"the {arms[0]} arm"
        values = "".join(f", {value}" for value in point)
        said.append(f"{run}: {which} of {settings.use.encoder} on {settings.use.data}{values}, as the workspace is now")
        said.append(forecast_of(arms, settings) if place != "slurm" else "hours and memory: not known here")
    targets = [f"evaluate@{arm}" for arm in arms] if given or not sweep else ["compare"]
    try:
        notes = {run: put_in(run, targets, arms, [*changes, *point], note) for run, point in runs.items()}
        if place == "slurm":
            cluster.submit(notes)
    except BaseException:
        for run in runs if place else ():
            if not read_note(run).job:
                note_path(run).unlink(missing_ok=True)  # it never was a run
        raise
    if not place:
        dvc_adapter.dvc("queue", "start", "-j", str(note.workers))
    others = [run.name for run in queue_runs.runs() if run.name not in runs and queue_runs.goes_on(run)]
    guard.start()
    print("\n".join(said))
    if others:
        print(f"{', '.join(others)}: killed before, and put back now; nightshift queue stop NAME gives one up")
    after = "leaderboard" if targets == ["compare"] else "queue collect"
    print(f"the workspace is free; see `nightshift queue status`, and when it is done: nightshift {after}")


def check_known_to_git(settings: Settings, arms: Iterable[str]) -> None:
    """Check that git knows all files that a run of `arms` reads. Raises UserError with those that it does not."""
    kinds = [settings.arm(name).arm.kind for name in arms]
    if unknown := dvc_adapter.untracked(files_used(settings, kinds)):
        raise UserError(f"a queued run does not see what git does not know: `git add {' '.join(unknown[:5])}` first")


def put_in(run: str, targets: Sequence[str], arms: Sequence[str], changes: Sequence[str], note: Note) -> Note:
    """Queue `targets`, or the whole pipeline, of the workspace with `changes`, under the name `run`; its note.

    For a cluster the workspace is only recorded: see `cluster.submit`.
    """
    found = {"arms": list(arms), "changes": [change_of(text) for text in changes], "targets": list(targets)}
    if note.on:
        found["revision"] = dvc_private.snapshot(run, targets, changes)
    else:
        with dvc_adapter.put_aside(METRICS):  # or `dvc exp show` has the workspace's for it, until it has its own
            dvc_adapter.queue_experiment(run, targets, changes)
    note = note.model_copy(update=found | {"created": time.time()})
    note.write(note_path(run))
    return note


def files_used(settings: Settings, kinds: Sequence[str]) -> list[str]:
    """Paths that a run of arms of these `kinds` reads, as git takes them: code, dvc.yaml and the presets in use."""
    presets = [f"conf/encoder/{settings.use.encoder}.yaml", *(data.file for data in settings.data.sets)]
    own = sorted({f"nightshift/arms/{kind}.py" for kind in kinds})
    packages = sorted(p.as_posix() for p in Path("nightshift").glob("*") if p.name not in ("arms", "__pycache__"))
    return ["dvc.yaml", "params.yaml", "stages", *packages, "nightshift/arms/__init__.py", *own, *presets]


def change_of(text: str) -> Change:
    """A -S with what params.yaml has without and with it. Raises UserError as reading it does."""
    key = text.split("=")[0].lstrip("+~")
    before, after = read_yaml(params.PARAMS), read_yaml(params.PARAMS, [text])
    return Change(text=text, key=key, before=value_at(before, key), after=value_at(after, key))


def check_probe(names: Iterable[str], settings: Settings) -> None:
    """Raises UserError where the probe refuses an arm."""
    from nightshift.probe.arm import ProbeArm, verdict_of  # torch: seconds, after the settings were checked

    for name in names:
        arm = settings.arm(name)
        verdict = verdict_of(ProbeArm.model_validate(arm.model_dump(include=set(ProbeArm.model_fields))))
        if not verdict.ok:
            raise UserError(f"the probe refuses the {name} arm: {verdict.cause}. {verdict.cure}")


def forecast_of(names: Sequence[str], settings: Settings) -> str:
    """When a run on this machine ends and what it takes. Raises UserError where an arm does not fit."""
    from nightshift.commands import forecast, planning  # torch: seconds
    from nightshift.engine.device import device, seed_everything
    from nightshift.jobs import gpu_lock

    seed_everything(0)
    folds = planning.fold_sizes(settings.data)
    where, free = device(), shutil.disk_usage(Path.cwd()).free
    process = planning.process_bytes_of(settings.arm(name) for name in names)
    seconds, need, memory, disk = 0.0, 0, 0, 0
    resumed = []
    with gpu_lock.if_free("queue start") as (_, busy):
        for name in names:
            arm = settings.arm(name)
            found = forecast.of_arm(arm, folds, where, process, bar(f"measuring {name}", "step"), busy)
            memory = found.memory
            if not found.fits:
                advice = planning.advice(arm, where, process, memory)
                raise UserError(f"{name} needs {gigabytes(found.need)} of {gigabytes(memory)} of memory; try {advice}")
            share, run = trained_before(name, settings)
            if share:
                resumed.append(f"{name} goes on from {share:.0%} of its training, of {run}")
            seconds += found.seconds * (1 - share)
            need, disk = max(need, found.need), disk + sum(found.disk)
    if disk > free:
        raise UserError(f"the run needs {gigabytes(disk)} of disk and {gigabytes(free)} are free")
    end = datetime.now() + timedelta(seconds=seconds)
    day = "" if end.date() == datetime.now().date() else f" on {end:%a %d %b}"
    ends = f"ends about {end:%H:%M}{day} ({hours(seconds)})"
    if busy:
        ends = f"starts when the device is free: {busy}; hours not measured"
    takes = [f"{gigabytes(need)} of {gigabytes(memory)}", f"{gigabytes(disk)} of disk ({gigabytes(free)} free)"]
    return ", ".join([ends, *takes, *resumed])


def trained_before(name: str, settings: Settings) -> tuple[float, str]:
    """How much of the training an unfinished run of this very arm has left a checkpoint of, from 0 to 1; its name."""
    wanted = collecting.contents_of(settings, [name])
    for run in reversed(queue_runs.runs()):
        if run.state not in ("stopped", "killed", "failed"):
            continue
        share = queue_runs.share_trained(run, name, settings.prepare.folds * settings.arm(name).trainings)
        if share and _made_the_same(run, name, wanted):
            return share, run.name
    return 0.0, ""


def _made_the_same(run: Task, name: str, wanted: collecting.Contents) -> bool:
    """Whether an unfinished run was of these settings and of the workspace's code."""
    try:
        same = collecting.contents_at(run.revision, list(wanted), finished=False) == wanted
        return same and not collecting.changed_code(run.revision, [name])
    except UserError:  # settings that are no longer valid, or an arm that only -S adds
        return False


def status() -> None:
    """Print a line for every run."""
    found = queue_runs.runs()
    for run in found:
        arms = ", ".join(read_note(run.name).arms)
        print(f"{run.name}  {run.created:%a %H:%M}  {run.state:8} {arms:8} {queue_runs.last_line(run)}")
    print(f"{len(found)} run(s) in the queue")


def logs(run: Task, count: int) -> None:
    """Print the last `count` lines of a run, and where all of them are."""
    print("\n".join(queue_runs.lines(run)[-count:]))
    print(f"{run.name}: {run.state}, {run.log.as_posix() if run.log else 'nothing printed yet'}")


def stop(run: Task) -> None:
    """Stop a run. Raises UserError for one that is over."""
    if queue_runs.is_over(run):
        raise UserError(f"{run.name} is {run.state}, there is nothing to stop")
    queue_runs.stop(run)
    print(f"{run.name} is stopped; {AGAIN}")


def remove(run: Task) -> None:
    """Take a run off the list. Raises UserError for one that is not over."""
    if not queue_runs.is_over(run):
        raise UserError(f"{run.name} is {run.state}; end it first: nightshift queue stop {run.name}")
    queue_runs.remove(run)
    print(f"{run.name} is off the list; what it made stays among the experiments")


def collect(run: Task, *, snapshot: bool) -> None:
    """Compare with what the run made. Raises UserError, after its last lines, for one that is not done."""
    if run.state != "done":
        print("\n".join(queue_runs.lines(run)[-20:]))
    if run.state in ("queued", "running"):
        raise UserError(f"{run.name} is {run.state}, see its last lines above; collect it when it is done")
    if queue_runs.goes_on(run):
        guard.start()
        raise UserError(f"{run.name} was killed, see above; the queue's guard puts it back")
    if run.state == "killed" and not read_note(run.name).on:
        queue_runs.forget(run)
    if run.state in ("killed", "failed", "stopped"):
        ended = "failed" if run.state == "failed" else f"was {run.state}"
        raise UserError(f"{run.name} {ended}, see above; {AGAIN}")
    if snapshot:
        collecting.snapshot(run.name)
    else:
        collecting.collect(run.name)
