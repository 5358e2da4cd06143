"""What Snakemake plans, asked often without starting up again."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A process that has imported these. Each plan is made by a fork of it.
_imported = multiprocessing.get_context("forkserver")
_imported.set_forkserver_preload([__name__, "snakemake.cli", "gwprune.config", "gwprune.jobs.launch"])


def _call_snakemake(arguments: list[str], output: Path) -> None:
    from snakemake.cli import main

    with open(output, "wb") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    os.chdir(ROOT)
    sys.argv[1:] = arguments
    main(arguments)


def dry_run(directory: Path, *arguments: str | Path, status: int = 0) -> str:
    """What ``snakemake --dry-run`` prints.

    Args:
        directory: where it works.
        arguments: of the command line, beside these.
        status: expected exit status.
    """
    output = directory / "dry-run"
    words = [str(word) for word in ("--directory", directory, "--dry-run", *arguments)]
    process = _imported.Process(target=_call_snakemake, args=(words, output))
    process.start()
    process.join()
    text = output.read_text()
    assert process.exitcode == status, text
    return text
