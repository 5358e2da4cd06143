"""Typed configuration: what config/*.yaml may hold, its defaults, its expansion into runs, its documentation."""

from .loading import ConfigError, load, load_file
from .models import Config, Experiment
from .runs import Run, expand

__all__ = ["Config", "ConfigError", "Experiment", "Run", "expand", "load", "load_file"]
