"""A private SLURM of one node, with GPU slots to count, for the time of a test: real daemons, one directory."""

from __future__ import annotations

import ctypes
import getpass
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from tests.cluster.records import JobRecord, fields_of, record_of

__all__ = ["INSTALL", "NodeError", "SlurmNode", "missing_programs"]

INSTALL = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("srun", "sbatch", "squeue", "scancel", "sinfo", "scontrol", "sacct", "sacctmgr", "sshare", "sstat", "sprio")
NEEDED_CLIENTS = CLIENTS[:6]
NODE = "node1"
# Unix socket paths end at 107 characters; the longest one here is spool/node1_JOB.STEP.
LONGEST_DIRECTORY = 60
# Debian installs the daemons there, which ordinary users do not have on their path.
SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
PR_SET_PDEATHSIG = 1
# Processors and memory are what is claimed here, whatever the machine has.
CPUS, MEMORY_MB = 16, 64000
# Seconds for which ended jobs stay known; SlurmNode.records needs them.
MIN_JOB_AGE = 7200


class NodeError(Exception):
    """The private SLURM did not start, or left something behind."""


def missing_programs() -> list[str]:
    """What of SLURM and munge is not installed."""
    return [name for name in (*DAEMONS, *NEEDED_CLIENTS) if shutil.which(name, path=SEARCH) is None]


class SlurmNode:
    """munged, slurmctld and slurmd of one node, all their files in one directory under the system's temporary one.

    Partitions `gpu` and `cpu` share the node. GPU slots are links to /dev/null: SLURM counts them and names each job's
    own in CUDA_VISIBLE_DEVICES. A job that takes more memory than it asked for is killed; it is looked at every second.

    Start, stop and restart in the main thread: the daemons are told to end with the thread that started them, so that
    nothing stays when the test's process is killed.

    Args:
        gpus: number of slots.
        kill_wait: seconds between SIGTERM and SIGKILL when a job is cancelled or its time is over.
        requeue_delay: seconds that a job waits that is queued again (SLURM calls it cred_expire).
    """

    def __init__(self, *, gpus: int = 2, kill_wait: int = 5, requeue_delay: int = 15):
        self.gpus, self.kill_wait, self.requeue_delay = gpus, kill_wait, requeue_delay
        self.directory: Path | None = None
        self._daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> SlurmNode:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # --- start and stop ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemons and wait until the node takes jobs.

        Raises:
            NodeError: with the daemons' last errors, when it does not.
        """
        if missing := missing_programs():
            raise NodeError(f"not installed: {', '.join(missing)}; {INSTALL}")
        self.directory = Path(tempfile.mkdtemp(prefix="gwslurm-", dir=_short_directory()))
        # munged wants every directory above its socket to be open to all.
        self.directory.chmod(0o755)
        try:
            self._write_files()
            self._start_munged()
            self._start_daemon("slurmctld", "-D", "-f", str(self.conf))
            self._start_daemon("slurmd", "-D", "-f", str(self.conf))
            self._wait_for(lambda: self.node_state() == "idle", 60, "the node does not become idle")
        except BaseException:
            self.stop()
            raise

    def stop(self, grace: float = 10) -> None:
        """Cancel all jobs, end the daemons, remove the directory.

        Args:
            grace: seconds that processes get to end by themselves when the daemons have.

        Raises:
            NodeError: naming processes and mounts that were left; they are ended, and the directory is removed anyhow.
        """
        if self.directory is None:
            return
        if "slurmctld" in self._daemons:
            self.cancel(self.queue)
        for name in ("slurmctld", "slurmd", "munged"):
            self._stop_daemon(name)
        end = time.monotonic() + grace
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        named = [_describe(process) for process in left]
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=10)
        mounts = self.mounts()
        directory, self.directory = self.directory, None
        shutil.rmtree(directory)
        if named or mounts:
            raise NodeError("left behind:\n" + "\n".join([*named, *mounts]))

    def restart_slurmd(self, hard: bool = False) -> None:
        """End slurmd, with SIGKILL if ``hard``, and start it again. Jobs go on meanwhile."""
        self._stop_daemon("slurmd", signal.SIGKILL if hard else signal.SIGTERM)
        self._start_daemon("slurmd", "-D", "-f", str(self.conf))

    def cancel(self, wanted: Callable[[], Iterable[JobRecord]], seconds: float = 60) -> None:
        """Cancel what ``wanted`` answers until that is nothing."""
        end = time.monotonic() + seconds
        while (jobs := list(wanted())) and time.monotonic() < end:
            self.client("scancel", *(str(job.id) for job in jobs), check=False)
            time.sleep(0.3)

    # --- what tests ask --------------------------------------------------------------------------------------------

    @property
    def bin(self) -> Path:
        """Directory of the client programs, each bound to this SLURM."""
        return self.directory / "bin"

    @property
    def conf(self) -> Path:
        return self.directory / "etc/slurm.conf"

    def env(self, base: dict[str, str] | None = None) -> dict[str, str]:
        """Environment for processes that use this SLURM: ``base`` (this process's) without traces of another one."""
        kept = {k: v for k, v in (os.environ if base is None else base).items() if not k.startswith(_FOREIGN)}
        return {**kept, "PATH": f"{self.bin}{os.pathsep}{kept.get('PATH', os.defpath)}", "SLURM_CONF": str(self.conf)}

    def client(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """Standard output of a client program.

        Raises:
            NodeError: with its message, when it fails; not if ``check`` is false.
        """
        try:
            done = subprocess.run(command, env=self.env(), capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            if check:
                raise NodeError(f"{' '.join(command)}: no answer in {timeout} s") from error
            return ""
        if check and done.returncode:
            raise NodeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def node_state(self) -> str:
        return self.client("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T", check=False, timeout=10).strip()

    def queue(self) -> list[JobRecord]:
        """Jobs that have not ended: pending, running, or being cleared away."""
        shown = (record_of(fields) for fields in self._shown().values())
        return [record for record in shown if not record.ended]

    def records(self) -> list[JobRecord]:
        """Every run of every job that has ended, in the order of their ends, from the file that slurmctld writes.

        Raises:
            NodeError: when SLURM has forgotten what a job asked for, MIN_JOB_AGE after its end.
        """
        path = self.directory / "log/jobcomp.log"
        if not path.exists():
            return []
        shown, found = self._shown(), []
        for line in path.read_text().splitlines():
            fields = fields_of(line)
            if int(fields["JobId"]) not in shown:
                raise NodeError(f"job {fields['JobId']} is not known any more; MIN_JOB_AGE is too short")
            # The file knows times and states of each run, the controller what the job asked for.
            asked = shown[int(fields["JobId"])]
            found.append(record_of({**asked, **fields}))
        return found

    def fail(self) -> None:
        """Take the node down and up again: its jobs end, and those that may are queued again."""
        self.client("scontrol", "update", f"NodeName={NODE}", "State=DOWN", "Reason=test")
        # slurmd may have registered again by itself meanwhile; then there is nothing to resume.
        self.client("scontrol", "update", f"NodeName={NODE}", "State=RESUME", check=False)

    def processes(self) -> list[psutil.Process]:
        """Processes that belong to this SLURM: they work in its directory, or their command or environment names it."""
        mark, found = str(self.directory), []
        for process in psutil.process_iter():
            try:
                values = [process.cwd(), *process.cmdline(), *process.environ().values()]
            except (psutil.Error, OSError):  # ended, a zombie, or another user's
                continue
            if process.pid != os.getpid() and any(mark in value for value in values):
                found.append(process)
        return found

    def mounts(self) -> list[str]:
        """Mounts below the directory."""
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [line for line in lines if line.split()[1].startswith(str(self.directory))]

    def log(self) -> str:
        """Last lines of all daemons' logs."""
        logs = sorted((self.directory / "log").glob("*d.log"))
        return "\n".join(f"--- {path.name}\n{_tail(path)}" for path in logs)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _write_files(self) -> None:
        for name in ("etc", "munge", "key", "state", "spool", "log", "run", "dev", "bin"):
            (self.directory / name).mkdir(mode=0o755)
        (self.directory / "key").chmod(0o700)
        key = self.directory / "key/munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        # Each slot needs a character device of its own name: with a count alone the node is refused as invalid.
        for slot in range(self.gpus):
            (self.directory / f"dev/gpu{slot}").symlink_to("/dev/null")
        slots = f"gpu[0-{self.gpus - 1}]" if self.gpus > 1 else "gpu0"
        (self.directory / "etc/gres.conf").write_text(f"Name=gpu File={self.directory}/dev/{slots}\n")
        self.conf.write_text(self._configuration())
        # Snakemake's plugin drops SLURM_CONF before its inner srun; programs that set it again do not mind.
        for name in CLIENTS:
            if real := shutil.which(name, path=SEARCH):
                wrapper = self.bin / name
                wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={self.conf} exec {real} "$@"\n')
                wrapper.chmod(0o755)

    def _configuration(self) -> str:
        d, host, user = self.directory, socket.gethostname().partition(".")[0], getpass.getuser()
        controller_port, node_port = _free_ports(2)
        return f"""ClusterName=gwprune
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={d}/munge/socket,cred_expire={self.requeue_delay}
CredType=cred/munge
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool
SlurmctldPidFile={d}/run/slurmctld.pid
SlurmdPidFile={d}/run/slurmd.pid
SlurmctldLogFile={d}/log/slurmctld.log
SlurmdLogFile={d}/log/slurmd.log
MailProg=/bin/true
SwitchType=switch/none
MpiDefault=none
# Of a process tree it loses those whose parent has ended; job scripts end before what they call.
ProctrackType=proctrack/pgid
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Look for jobs to start at once and every second, not after three and every minute.
SchedulerParameters=batch_sched_delay=0,sched_interval=1
DefMemPerCPU=100
KillWait={self.kill_wait}
MinJobAge={MIN_JOB_AGE}
PropagateResourceLimits=NONE
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
JobCompType=jobcomp/filetxt
JobCompLoc={d}/log/jobcomp.log
GresTypes=gpu
NodeName={NODE} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory={MEMORY_MB} \
Gres=gpu:{self.gpus} State=UNKNOWN
PartitionName=cpu Nodes={NODE} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={NODE} Default=NO MaxTime=INFINITE State=UP
"""

    def _start_munged(self) -> None:
        d = self.directory
        options = {"key-file": "key/munge.key", "socket": "munge/socket", "pid-file": "run/munged.pid"}
        options |= {"log-file": "log/munged.log", "seed-file": "key/seed"}
        arguments = [f"--{name}={d}/{file}" for name, file in options.items()]
        self._start_daemon("munged", "--foreground", "--num-threads=2", *arguments)
        self._wait_for((d / "munge/socket").exists, 20, "munged does not answer")

    def _start_daemon(self, name: str, *arguments: str) -> None:
        program = shutil.which(name, path=SEARCH)
        with open(self.directory / f"log/{name}.out", "ab") as output:
            self._daemons[name] = subprocess.Popen(
                [program, *arguments],
                env={**self.env(), "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory / "run",
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def _stop_daemon(self, name: str, number: int = signal.SIGTERM) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is None:
            return
        if daemon.poll() is None:
            daemon.send_signal(number)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _wait_for(self, condition: Callable[[], bool], seconds: float, text: str) -> None:
        end = time.monotonic() + seconds
        while not condition():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > end:
                outputs = [_tail(self.directory / f"log/{name}.out") for name in self._daemons]
                reason = f"{', '.join(ended)} ended" if ended else text
                raise NodeError("\n".join([reason, *outputs, self.log()]))
            time.sleep(0.05)

    def _shown(self) -> dict[int, dict[str, str]]:
        lines = self.client("scontrol", "show", "jobs", "--oneliner").splitlines()
        jobs = [fields_of(line) for line in lines if line.startswith("JobId=")]
        return {int(job["JobId"]): job for job in jobs}


_FOREIGN = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SCANCEL_", "SINFO_", "SACCT_", "SCONTROL_", "MUNGE_")
_LIBC = ctypes.CDLL(None)


def _end_with_parent() -> None:
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _short_directory() -> str:
    """A writable directory for temporary files whose name is short enough for sockets in it."""
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if len(place) < LONGEST_DIRECTORY - len("/gwslurm-xxxxxxxx") and os.access(place, os.W_OK | os.X_OK):
            return place
    raise NodeError("no writable directory with a name short enough for sockets; set TMPDIR")


def _free_ports(count: int) -> list[int]:
    """Free TCP ports below those that the kernel hands out by itself, which could be taken during a restart."""
    chosen, numbers = [], random.SystemRandom()
    while len(chosen) < count:
        port = numbers.randrange(20000, 32000)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in chosen:
            chosen.append(port)
    return chosen


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def _describe(process: psutil.Process) -> str:
    try:
        return f"process {process.pid}: {' '.join(process.cmdline())[:300]}"
    except psutil.Error:
        return f"process {process.pid}"
