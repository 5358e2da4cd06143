"""What every workflow job shares: log, device, GPU slot, lock, signals, deterministic arithmetic, provenance."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.files import config_hash, provenance, remove_leftovers
from ..storage.locks import gpu_slot, locked
from .interruption import EXIT_STATUS, Interrupted, Interruption

if TYPE_CHECKING:
    import torch

__all__ = ["SLOTS_VARIABLE", "Job", "from_snakemake", "job", "resolve_device"]

logger = logging.getLogger("gwprune")

# Where the main process of a local run names the GPUs of this machine, so that each GPU job takes one of its own.
SLOTS_VARIABLE = "GWPRUNE_GPU_SLOTS"


@dataclass(frozen=True)
class Job:
    """Which run and seed a job belongs to (empty and -1: all), and where it computes."""

    run: str = ""
    seed: int = -1
    device: str = "cpu"
    settings: dict = field(default_factory=dict)
    interruption: Interruption = field(default_factory=Interruption, compare=False, repr=False)

    @property
    def key(self) -> dict[str, str | int]:
        """The first two key columns of the tables."""
        return {"run": self.run, "seed": self.seed}

    def provenance(self) -> dict[str, str]:
        """Provenance for a file of this job."""
        return provenance(self.settings, self.device)


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
    found = resolve_device(device)
    if found.type == "cuda":  # the CPU kernels that we use are deterministic, and the switch takes seconds to import
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        # Bounds that certify need products of full precision.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return str(found)


@contextmanager
def job(
    log: str | os.PathLike,
    *,
    run: str = "",
    seed: int | str = -1,
    device: str = "",
    threads: int = 1,
    settings: dict | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    checkpoints: Sequence[str] = (),
    gpus: int = 0,
) -> Iterator[Job]:
    """Run a job's work: log to ``log`` and standard error; an error ends the process with one clear line.

    One process at a time does a job. Another that was started meanwhile (after its Snakemake was killed and started
    again, say) waits, and ends if the first one made the outputs of the same inputs and settings.

    SIGTERM and SIGUSR1 end the process with status 75, once a checkpoint is written where the work writes them.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; empty for a job that does not compute (torch is not set up then).
        inputs, outputs: files.  checkpoints: their names, or what these begin with. What killed processes left
            unfinished of outputs and checkpoints is removed.
        gpus: slots that the job takes: of those that the environment variable GWPRUNE_GPU_SLOTS lists, one.
    """
    state = Interruption()
    try:
        with ExitStack() as stack:
            stack.enter_context(state.handled())
            work = config_hash({"settings": settings, "inputs": [_identity(path) for path in inputs]})
            me = f"{work} process {os.getpid()} on {os.uname().nodename}"
            before = stack.enter_context(locked(f"{log}.lock", me)) or ""
            if before.startswith(work) and outputs and all(map(os.path.exists, outputs)):
                told = f"{before.removeprefix(work).strip()} has done this job"
                with suppress(OSError):
                    Path(log).write_text(f"{told}\n")
                print(f"gwprune: {told}", file=sys.stderr)
                raise SystemExit(0)
            for path in (*outputs, *checkpoints):
                remove_leftovers(path)
            stack.enter_context(_logging(log))
            yield stack.enter_context(_working(log, run, seed, device, threads, settings or {}, gpus, state))
    except Interrupted as signal:  # before or after the work itself
        print(f"gwprune: stopped by {signal}", file=sys.stderr)
        sys.exit(EXIT_STATUS)
    except OSError as error:  # its log or its lock
        sys.exit(f"gwprune: {error}")


class _LogFile(logging.FileHandler):
    """The log of a job. That it cannot be written (a full disk) is said once, and ends nothing."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self._told:
            print(f"gwprune: cannot write {self.baseFilename}: {sys.exc_info()[1]}", file=sys.stderr)
        self._told = True


@contextmanager
def _logging(log: str | os.PathLike) -> Iterator[None]:
    handlers: list[logging.Handler] = [_LogFile(log, mode="w"), logging.StreamHandler()]
    handlers[1].setLevel(logging.WARNING)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
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
def _working(
    log: str | os.PathLike,
    run: str,
    seed: int | str,
    device: str,
    threads: int,
    settings: dict,
    gpus: int,
    state: Interruption,
) -> Iterator[Job]:
    """The boundary of the process: what the work raises becomes a traceback in the log and one line on the terminal."""
    slots = os.environ.get(SLOTS_VARIABLE, "").replace(",", " ").split()
    try:
        with ExitStack() as stack:
            if gpus and slots:
                stack.enter_context(gpu_slot(slots))
            name = _prepare_torch(device, threads) if device else "cpu"
            logger.info("run %s, seed %s, device %s, threads %d", run or "-", seed, name, threads)
            if "CUDA_VISIBLE_DEVICES" in os.environ:
                logger.info("CUDA_VISIBLE_DEVICES=%s", os.environ["CUDA_VISIBLE_DEVICES"])
            yield Job(run, int(seed), name, settings, state)
            state.close()
            logger.info("done")
    except Interrupted as signal:
        logger.warning("stopped by %s; run again to go on from the last checkpoint", signal)
        sys.exit(EXIT_STATUS)
    except Exception as error:  # the boundary of the process  # noqa: BLE001
        with suppress(OSError), open(log, "a") as stream:
            traceback.print_exc(file=stream)
        sys.exit(f"gwprune: {type(error).__name__}: {error}\n(log: {log})")


def _identity(path: str) -> list[str | int]:
    """Name, size and time of a file: other ones are other inputs."""
    try:
        status = os.stat(path)
    except OSError:
        return [path]
    return [path, status.st_size, status.st_mtime_ns]


def from_snakemake(snakemake: Any, settings: dict | None = None) -> AbstractContextManager[Job]:
    """:func:`job` for a script's ``snakemake`` object: its wildcards run and seed, its param device, its files.

    Args:
        settings: what the provenance names; all params when it is not given.
    """
    params = dict(snakemake.params.items())
    return job(
        snakemake.log[0],
        run=snakemake.wildcards.get("run", ""),
        seed=snakemake.wildcards.get("seed", -1),
        device=params.get("device", ""),
        threads=snakemake.threads,
        settings=params if settings is None else settings,
        inputs=list(snakemake.input),
        outputs=list(snakemake.output),
        checkpoints=[params["checkpoint"]] if "checkpoint" in params else [],
        gpus=snakemake.resources.get("gpu", 0),
    )
