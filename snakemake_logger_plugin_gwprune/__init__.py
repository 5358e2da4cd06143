"""The name by which Snakemake finds the logger `gwprune`: snakemake --logger gwprune."""

from gwprune.jobs.progress import LogHandler

__all__ = ["LogHandler"]
