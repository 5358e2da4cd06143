"""What every workflow job shares: its log, its device, its threads, deterministic arithmetic, its provenance."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import provenance

if TYPE_CHECKING:
    import torch

__all__ = ["Job", "from_snakemake", "job", "resolve_device"]

logger = logging.getLogger("gwprune")


@dataclass(frozen=True)
class Job:
    """Which run and seed a job belongs to (empty and -1: all), and where it computes."""

    run: str = ""
    seed: int = -1
    device: str = "cpu"
    settings: dict = field(default_factory=dict)

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
) -> Iterator[Job]:
    """Run a job's work: log to ``log`` and standard error; an error ends the process with one clear line.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; empty for a job that does not compute (torch is not set up then).
    """
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.FileHandler(log, mode="w"), logging.StreamHandler()]
    handlers[1].setLevel(logging.WARNING)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        name = _prepare_torch(device, threads) if device else "cpu"
        logger.info("run %s, seed %s, device %s, threads %d", run or "-", seed, name, threads)
        yield Job(run, int(seed), name, settings or {})
        logger.info("done")
    except Exception as error:  # the boundary of the process  # noqa: BLE001
        with open(log, "a") as stream:
            traceback.print_exc(file=stream)
        sys.exit(f"gwprune: {type(error).__name__}: {error}\n(log: {log})")
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def from_snakemake(snakemake: Any) -> AbstractContextManager[Job]:
    """:func:`job` for a script's ``snakemake`` object, with wildcards run and seed. Without a device in its params
    the job computes on the CPU."""
    params = dict(snakemake.params.items())
    return job(
        snakemake.log[0],
        run=snakemake.wildcards.run,
        seed=snakemake.wildcards.seed,
        device=params.get("device", "cpu"),
        threads=snakemake.threads,
        settings=params,
    )
