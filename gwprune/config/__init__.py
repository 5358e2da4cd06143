"""Typed configuration: what config/*.yaml may hold, its defaults, its expansion into runs, its documentation.

It knows networks, pruning methods and data sets by their registries, and imports neither torch nor a library of
figures or tables. Read first: `models`, then `loading`.
"""

from .loading import ConfigError, load, load_file, load_for_workflow, read_file
from .models import Config, Experiment
from .runs import Run, expand

__all__ = [
    "Config",
    "ConfigError",
    "Experiment",
    "Run",
    "expand",
    "load",
    "load_file",
    "load_for_workflow",
    "read_file",
]
