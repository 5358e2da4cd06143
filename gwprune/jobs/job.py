"""What every workflow job shares: log, device, GPU slot, lock, signals, deterministic arithmetic, provenance."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.files import config_hash, provenance, remove_leftovers
from ..storage.locks import gpu_slot, locked
from .interruption import EXIT_STATUS, Interrupted, Interruption
from .words import name_of

if TYPE_CHECKING:
    import torch

__all__ = ["QUIET_VARIABLE", "SLOTS_VARIABLE", "Job", "from_snakemake", "job", "paced", "resolve_device"]

logger = logging.getLogger("gwprune")

# Where the main process of a local run names the GPUs of this machine, so that each GPU job takes one of its own.
SLOTS_VARIABLE = "GWPRUNE_GPU_SLOTS"
# Set by a run that itself says why a job has failed: local jobs leave that to it.
QUIET_VARIABLE = "GWPRUNE_QUIET_JOBS"


@dataclass(frozen=True)
class Job:
    """What a job's work is given beside files and settings.

    Attributes:
        run: that it belongs to; empty for a job of all runs.
        seed: that it belongs to; -1 for a job of all seeds.
        device: where it computes.
        configuration: what the provenance of its files names by a hash.
        data_dir: directory of downloaded data sets.
        interruption: to be asked after each checkpoint whether to stop.
    """

    run: str = ""
    seed: int = -1
    device: str = "cpu"
    configuration: Mapping[str, Any] = field(default_factory=dict)
    data_dir: str = "data"
    interruption: Interruption = field(default_factory=Interruption, compare=False, repr=False)

    @property
    def key(self) -> dict[str, str | int]:
        """The first two key columns of the tables."""
        return {"run": self.run, "seed": self.seed}

    def provenance(self) -> dict[str, str]:
        """Provenance for a file of this job."""
        return provenance(self.configuration, self.device)


def paced(seconds: float = 2.0) -> Callable[[], bool]:
    """A function that is true when it was not so for some seconds: for lines of a log that tell how far a job is."""
    last = time.monotonic()

    def now() -> bool:
        nonlocal last
        due = time.monotonic() - last >= seconds
        last = time.monotonic() if due else last
        return due

    return now


def resolve_device(name: str) -> torch.device:
    """``auto`` is CUDA when present.

    Raises:
        RuntimeError: for ``cuda`` on a machine without it.
    """
    import torch  # noqa: PLC0415 - light jobs never need it

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device: cuda, but this job sees no CUDA device; use device: auto or cpu, or ask for a GPU")
    return torch.device(name)


def _prepare_torch(device: str, threads: int) -> str:
    # cuBLAS reads it when it starts; without it deterministic matrix products are refused.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch  # noqa: PLC0415 - light jobs never need it

    torch.set_num_threads(threads)
    resolved = resolve_device(device)
    if resolved.type == "cuda":  # the CPU kernels that we use are deterministic, and the switch takes seconds to import
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        # Bounds that certify need products of full precision.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return str(resolved)


@contextmanager
def job(
    log: str | os.PathLike,
    *,
    name: str = "",
    run: str = "",
    seed: int | str = -1,
    device: str = "",
    threads: int = 1,
    configuration: Mapping[str, Any] | None = None,
    data_dir: str = "data",
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    checkpoints: Sequence[str] = (),
    gpus: int = 0,
) -> Iterator[Job]:
    """Run a job's work: log to ``log`` and standard error; an error ends the process with one clear line.

    One process at a time does a job. Another that was started meanwhile (after its Snakemake was killed and started
    again, say) waits, and ends if the first one made the outputs of the same inputs and configuration.

    SIGTERM and SIGUSR1 end the process with status 75, once a checkpoint is written where the work writes them; Ctrl-C
    ends it at once with the same status.

    Args:
        log: file; what an earlier attempt wrote there goes.
        name: that warnings on standard error carry.
        run: that the job belongs to.
        seed: that the job belongs to.
        device: ``auto``, ``cpu`` or ``cuda``; empty for a job that does not compute (torch is not set up then).
        threads: that torch computes with.
        configuration: what the result depends on.
        data_dir: directory of downloaded data sets.
        inputs: files.
        outputs: files. What killed processes left unfinished of them is removed.
        checkpoints: names of further files that are left unfinished, or what these names begin with.
        gpus: slots that the job takes: of those that the environment variable GWPRUNE_GPU_SLOTS lists, one.
    """
    interruption = Interruption()
    os.environ["TQDM_DISABLE"] = "1"  # bars of several jobs would write over each other
    try:
        with ExitStack() as stack:
            stack.enter_context(interruption.handled())
            work = config_hash({"configuration": configuration, "inputs": [_identity(path) for path in inputs]})
            me = f"{work} process {os.getpid()} on {os.uname().nodename}"
            before = stack.enter_context(locked(f"{log}.lock", me)) or ""
            if before.startswith(work) and outputs and all(map(os.path.exists, outputs)):
                told = f"{before.removeprefix(work).strip()} has done this job"
                with suppress(OSError):
                    Path(log).write_text(f"{told}\n")
                _say(told)
                raise SystemExit(0)
            _remove_leftovers(*outputs, *checkpoints)
            stack.enter_context(_logging(log, name))
            stack.enter_context(_errors(log))
            # A signal can come between any two steps of a write, or while an earlier one is answered.
            stack.callback(_remove_leftovers, *outputs, *checkpoints)
            stack.callback(interruption.close)
            slots = os.environ.get(SLOTS_VARIABLE, "").replace(",", " ").split()
            if gpus and slots:
                stack.enter_context(gpu_slot(slots))
            used = _prepare_torch(device, threads) if device else "cpu"
            own = f", run {run}" * bool(run) + f", seed {seed}" * (int(seed) >= 0)  # jobs for all have neither
            logger.info("begun on %s, threads %d%s", used, threads, own)
            if "CUDA_VISIBLE_DEVICES" in os.environ:
                logger.info("CUDA_VISIBLE_DEVICES=%s", os.environ["CUDA_VISIBLE_DEVICES"])
            yield Job(run, int(seed), used, configuration or {}, data_dir, interruption)
            interruption.close()
            logger.info("done")
    except Interrupted as signal:  # before or after the work itself
        _say(f"stopped by {signal}")
        sys.exit(EXIT_STATUS)
    except OSError as error:  # its log or its lock
        sys.exit(f"{_clear()}gwprune: {error}")


def _clear() -> str:
    """What a line on standard error begins with, so that on a terminal it stands in place of the run's live lines."""
    return "\r\x1b[J" if sys.stderr.isatty() else ""


def _say(text: str) -> None:
    print(f"{_clear()}gwprune: {text}", file=sys.stderr)


def _remove_leftovers(*paths: str) -> None:
    for path in paths:
        remove_leftovers(path)


class _LogFile(logging.FileHandler):
    """The log of a job. That it cannot be written (a full disk) is said once, and ends nothing."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self._told:
            _say(f"cannot write {self.baseFilename}: {sys.exc_info()[1]}")
        self._told = True


@contextmanager
def _logging(log: str | os.PathLike, name: str) -> Iterator[None]:
    handlers: list[logging.Handler] = [_LogFile(log, mode="w"), logging.StreamHandler()]
    handlers[1].setLevel(logging.WARNING)
    handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers[1].setFormatter(logging.Formatter(f"{_clear()}{name or 'gwprune'}: %(levelname)s: %(message)s"))
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            with suppress(OSError):  # said already
                handler.close()


@contextmanager
def _errors(log: str | os.PathLike) -> Iterator[None]:
    """The boundary of the process: what the work raises becomes a traceback in the log and one line on the terminal."""
    try:
        yield
    except Interrupted as signal:
        # After Ctrl-C it is the run that says how to go on, not each of its jobs.
        level = logging.INFO if str(signal) == "SIGINT" else logging.WARNING
        logger.log(level, "stopped by %s; run again to go on from the last checkpoint", signal)
        sys.exit(EXIT_STATUS)
    except Exception as error:  # the boundary of the process  # noqa: BLE001
        with suppress(OSError), open(log, "a") as stream:
            traceback.print_exc(file=stream)
        said = bool(os.environ.get(QUIET_VARIABLE)) and "SLURM_JOB_ID" not in os.environ
        sys.exit(1 if said else f"{_clear()}gwprune: {type(error).__name__}: {error}\n(log: {log})")


def _identity(path: str) -> list[str | int]:
    """Name, size and time of a file: other ones are other inputs."""
    try:
        status = os.stat(path)
    except OSError:
        return [path]
    return [path, status.st_size, status.st_mtime_ns]


def from_snakemake(snakemake: Any) -> AbstractContextManager[Job]:
    """:func:`job` for a script's ``snakemake`` object: its files, its wildcards run and seed, and its params.

    The provenance of its files names the param ``provenance``, or all params where there is none.
    """
    params = dict(snakemake.params.items())
    checkpoint = params.get("settings", {}).get("checkpoint")
    return job(
        snakemake.log[0],
        name=name_of(snakemake.rule, dict(snakemake.wildcards.items())),
        run=snakemake.wildcards.get("run", ""),
        seed=snakemake.wildcards.get("seed", -1),
        device=params.get("device", ""),
        threads=snakemake.threads,
        configuration=params.get("provenance", params),
        data_dir=snakemake.config.get("data_dir", "data"),
        inputs=list(snakemake.input),
        outputs=list(snakemake.output),
        checkpoints=[checkpoint] if checkpoint else [],
        gpus=snakemake.resources.get("gpu", 0),
    )
