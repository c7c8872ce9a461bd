"""Queued runs that are jobs of SLURM, or processes that submitit starts here: submit, state, cancel.

A job's id is kept in the run's note, and what it does in nightshift/jobs/cluster_run.py. Whether it waits or runs is
asked of SLURM, or of the process; whether it came to an end is in a file that it writes.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil

from nightshift.commands import dvc_adapter
from nightshift.commands.dvc_private import SNAPSHOTS, State, Task
from nightshift.commands.notes import JOBS, Note, Place, all_notes, update
from nightshift.config.hardware import hardware
from nightshift.console.errors import UserError
from nightshift.core.io import read_json
from nightshift.core.project import root
from nightshift.jobs.cluster_run import ENDED, LOG, ClusterRun

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
SUBMITTED = 600  # seconds after which a run without a job was never submitted
LOCAL_MINUTES = 30 * 24 * 60  # there is no limit on this machine, but submitit has one
# Of a completed one the file that says so may not be seen yet; it is listed for five minutes.
RUNNING = ("RUNNING", "COMPLETED", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


def check(place: Place) -> None:
    """Raises UserError where runs cannot be submitted to `place` from this machine."""
    if sys.platform == "win32":
        raise UserError(f"--on {place}: submitit needs Linux or macOS; without it DVC's queue does the same here")
    if place == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "--on slurm: there is no sbatch on this machine; start it where you submit jobs, on a head node"
        )


def submit(runs: Mapping[str, Note]) -> None:
    """Submit runs with their helpers, several jobs as an array, and note the jobs' ids. Raises UserError.

    A run that is put back needs no new helpers: its old ones are still there.
    """
    import submitit

    place = next(iter(runs.values())).on
    executor = submitit.AutoExecutor(folder=(root() / JOBS / "submitit").absolute(), cluster=place, **_limits(place))
    executor.update_parameters(**_parameters(place, list(runs)))
    places = {name: range(1 if note.restarted else note.share) for name, note in runs.items()}
    asked = [_job(name, runs[name], helper) for name, helpers in places.items() for helper in helpers]
    try:
        jobs = executor.submit_array(asked) if len(asked) > 1 else [executor.submit(asked[0])]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(f"sbatch: {str(error).strip().splitlines()[-1]}") from None
    ids = iter(_id(place, job.job_id) for job in jobs)
    for name, note in runs.items():
        first, *helpers = [next(ids) for _ in places[name]]
        changes = {"job": first, "helpers": [*note.helpers, *helpers], "restarted": note.restarted, "killed": False}
        if (now := update(name, **changes)).stopped:  # in the meantime
            cancel(name, now)


def _id(place: Place, job: str) -> str:
    """Of a job, as a note has it; a local one that has ended already never began."""
    if place == "slurm":
        return job
    try:
        return f"{job}:{psutil.Process(int(job)).create_time()}"
    except psutil.NoSuchProcess:
        return f"{job}:0"


def _process(job: str) -> psutil.Process | None:
    """The process of a local job, None where it has ended."""
    number, _, began = job.partition(":")
    try:
        process = psutil.Process(int(number))
        ended = abs(process.create_time() - float(began)) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return None if ended else process


def _job(name: str, note: Note, helper: int) -> ClusterRun:
    profile, folder = hardware().slurm, (root() / JOBS / name).absolute()
    (folder / ENDED).unlink(missing_ok=True)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ClusterRun(
        name=name,
        project=root().absolute(),
        ref=f"{SNAPSHOTS}/{name}",
        targets=[f"train@{arm}" for arm in note.arms] if helper else note.targets,
        helper=helper,
        folder=folder,
        cache=dvc_adapter.cache_folder().parents[1].absolute(),
        clones=Path(profile.clones) if profile.clones else None,
        # submitit's local executor hides all GPUs, and which one a run takes is decided by our locks
        environment={"CUDA_VISIBLE_DEVICES": visible} if note.on == "local" else {},
        grace=0.8 * profile.grace,  # the rest is for submitit, which queues the job again
    )


def _limits(place: Place) -> dict[str, int]:
    """How often submitit queues a job again that reached its time limit."""
    return {f"{place}_max_num_timeout": 1000}


def _parameters(place: Place, names: Sequence[str]) -> dict[str, object]:
    """What submitit's executor is told: hardware.yaml's profile."""
    profile = hardware().slurm
    if place == "local":
        return {"timeout_min": LOCAL_MINUTES}
    found = {
        "slurm_job_name": names[0] if len(names) == 1 else names[0].rpartition("-")[0],
        "timeout_min": profile.minutes,
        "cpus_per_task": profile.cpus,
        "slurm_array_parallelism": profile.at_once,
        "slurm_signal_delay_s": round(profile.grace),
        "slurm_partition": profile.partition,
        "slurm_account": profile.account,
        "slurm_gres": profile.gres,
        "slurm_mem": profile.memory,
        "slurm_setup": profile.setup,
        "slurm_additional_parameters": profile.options,
    }
    return {key: value for key, value in found.items() if value}


def tasks() -> list[Task]:
    """The runs that were given to a cluster, in no order. Raises UserError where SLURM does not answer."""
    notes = {name: note for name, note in all_notes().items() if note.on}
    states = _squeue() if any(note.on == "slurm" and not _ended(name) for name, note in notes.items()) else {}
    found = []
    for name, note in notes.items():
        log = root() / JOBS / name / LOG
        state = _ended(name) or _state(note, states)
        found.append(
            Task(name, note.revision, datetime.fromtimestamp(note.created), state, log if log.is_file() else None, None)
        )
    return found


def _ended(name: str) -> State | None:
    folder = root() / JOBS / name
    # listed: that a file was not there is remembered by NFS for a minute
    if not folder.is_dir() or folder / ENDED not in list(folder.iterdir()):
        return None
    return "done" if read_json(folder / ENDED)["status"] == 0 else "failed"


def _state(note: Note, states: Mapping[str, str]) -> State:
    """Of a run that has not come to an end of its own."""
    if not note.job:  # the guard is about to start it; of SLURM, it is being submitted
        interrupted = note.on == "slurm" and time.time() - note.created > SUBMITTED
        return "killed" if note.stopped or interrupted else "queued"
    if note.on == "local":
        return "running" if _process(note.job) else "killed"
    state = states.get(note.job, "")
    return "queued" if state in WAITING else "running" if state in RUNNING else "killed"


def _squeue() -> dict[str, str]:
    """States of this user's jobs by id (`12`, or `12_3` in an array), those that ended in the last minutes, too."""
    words = ["squeue", "--noheader", "--array", "--states=all", "--me", "--format=%i %T"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("runs of SLURM are noted here, and this machine has no squeue") from None
    if done.returncode:
        raise UserError(f"SLURM does not answer: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return dict(line.split() for line in done.stdout.splitlines() if line.strip())


def cancel(name: str, note: Note) -> None:
    """End a run and its helpers, after a checkpoint where they train. Raises UserError where it cannot be done."""
    jobs = [job for job in (note.job, *note.helpers) if job]
    if note.on == "slurm" and jobs:
        done = subprocess.run(["scancel", *jobs], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{name}: scancel: {done.stderr.strip()}")
    elif jobs:
        for process in filter(None, map(_process, jobs)):
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        end = time.monotonic() + hardware().slurm.grace + 10
        while any(map(_process, jobs)):
            if time.monotonic() > end:
                raise UserError(f"{name} does not end; its processes: {', '.join(jobs)}")
            time.sleep(0.2)
