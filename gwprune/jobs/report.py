"""The self-contained HTML report of a finished workflow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..config import load_file

__all__ = ["build_report"]


def build_report(config: Path, cores: str = "all") -> Path:
    """Build ``<results>/report.html`` by Snakemake, unless it is newer than every table and figure.

    Args:
        config: file of the configuration.
        cores: as Snakemake's argument of that name.

    Returns:
        The report.

    Raises:
        RuntimeError: with Snakemake's last words, when it fails.
        FileNotFoundError: when the workflow has not written its tables.
    """
    results = Path(load_file(config).results)
    report = results / "report.html"
    sources = [*results.glob("tables/*"), *results.glob("figures/**/*.svg")]
    if not sources:
        raise FileNotFoundError(f"{results}/tables holds nothing to report; run the workflow first")
    if report.exists() and report.stat().st_mtime >= max(source.stat().st_mtime for source in sources):
        return report
    words = ["--cores", cores, "--configfile", str(config), "--report", str(report)]
    command = [sys.executable, "-m", "snakemake", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError("snakemake --report failed:\n" + "\n".join(done.stderr.splitlines()[-15:]))
    return report
