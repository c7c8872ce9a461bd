"""A SLURM of one node with two slots on the loopback interface, from Debian's packages: started, used and stopped."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

THERE = all(shutil.which(name) for name in ("slurmctld", "slurmd", "sbatch"))
# Without authentication it is safe on loopback alone. Requeued jobs wait two minutes, so `released` starts them.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MpiDefault=none
SwitchType=switch/none
JobRequeue=1
ReturnToService=2
MailProg=/bin/true
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=60 State=UP
"""


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """With it for the block, in the environment (SLURM_CONF) of this process and of those that it starts."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    text = CONFIGURATION.format(host=host, ports=_free_ports(2), folder=folder)
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    done = threading.Event()
    try:
        subprocess.run(["slurmctld"], check=True)
        subprocess.run(["slurmd", "-N", host], check=True)
        end = time.monotonic() + 60
        while "idle" not in said("sinfo", "-h", "-o", "%t"):
            assert time.monotonic() < end, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.1)
        threading.Thread(target=_release, args=(done,), daemon=True).start()
        yield
    finally:
        done.set()
        said("scancel", "--me")
        _stop(folder)
        del os.environ["SLURM_CONF"]


def said(*command: str) -> str:
    """What a command of SLURM prints; nothing where it does not answer."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def states() -> dict[str, str]:
    """States of all jobs by id."""
    return dict(line.split() for line in said("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines())


def _release(done: threading.Event) -> None:
    """Start requeued jobs at once, once their old run has ended."""
    while not done.wait(0.5):
        for line in said("squeue", "-h", "-r", "-o", "%i %T %r").splitlines():
            job, state, reason = line.split()
            if (state, reason) == ("PENDING", "BeginTime"):
                time.sleep(1)
                said("scontrol", "update", f"JobId={job}", "StartTime=now")


def _stop(folder: Path) -> None:
    # read once: the daemons delete these files before they end
    numbers = [int(path.read_text()) for path in folder.glob("*.pid")]
    for number in numbers:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(number)
            process.terminate()
            process.wait(20)


def _free_ports(count: int) -> list[int]:
    places = [socket.socket() for _ in range(count)]
    for place in places:
        place.bind(("127.0.0.1", 0))
    ports = [place.getsockname()[1] for place in places]
    for place in places:
        place.close()
    return ports
