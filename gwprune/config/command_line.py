"""A look at Snakemake's command line before Snakemake reads its configuration files.

Snakemake's own reader names no file for tabs and shows a Python traceback for a missing file, a file that is no UTF-8
and ``--config training.epochs=3``. profiles/default/config.yaml, which Snakemake reads first,
calls :func:`check` and :func:`find_logger`.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence

from .loading import ConfigError, read_file, unknown_key
from .models import Config

__all__ = ["check", "faults", "find_logger"]


def faults(arguments: Sequence[str]) -> list[str]:
    """What is wrong with ``--configfile`` and ``--config`` so that Snakemake could not read it.

    Args:
        arguments: the command line, without the program.

    Returns:
        One text per fault, naming the file or the key.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", default=[])
    parser.add_argument("--config", "-C", nargs="*", default=[])
    given, _ = parser.parse_known_args(list(arguments))
    texts = []
    for path in given.configfile:
        try:
            read_file(path)
        except ConfigError as error:
            texts.append(str(error))
    for entry in given.config:
        key, equals, value = entry.partition("=")
        if not equals:
            texts.append(f"--config {entry}: write key=value")
        elif not re.fullmatch(r"[a-zA-Z_][\w-]*\w", key):
            texts.append(f"--config {entry}: {unknown_key(key, value, Config)}")
    return texts


def check() -> None:
    """End the process with the faults of its command line, if it has any."""
    if texts := faults(sys.argv[1:]):
        sys.exit("\n".join(texts))


def find_logger() -> None:
    """Make the logger `gwprune` known, which Snakemake does not find by itself in an editable installation."""
    from snakemake_interface_logger_plugins import registry  # noqa: PLC0415 - the library does without Snakemake

    name = "snakemake_logger_plugin_gwprune"
    known = registry.LoggerPluginRegistry()
    if not known.is_installed("gwprune"):
        known.register_plugin(name, importlib.import_module(name))
