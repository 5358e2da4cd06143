"""How jobs and times are called where people read them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["duration", "name_of", "program"]

# Wildcards that tell a job from the others of its rule, network and seed.
_TELLING = ("dataset", "operator", "probe", "method", "sparsity", "epoch")


def name_of(rule: str, wildcards: Mapping[str, str]) -> str:
    """A job as people name it: network, seed, rule, and what tells it from others of its rule.

    Args:
        rule: its rule.
        wildcards: name -> value.
    """
    seed = f"seed {wildcards['seed']}" if "seed" in wildcards else ""
    probe = {"probe": f"probe {wildcards['probe']}"} if "probe" in wildcards else {}
    telling = [{**wildcards, **probe}.get(key, "") for key in _TELLING]
    return " ".join(filter(None, [wildcards.get("run", ""), seed, rule, *telling]))


def duration(seconds: float) -> str:
    """Seconds in words, no more precise than an estimate can be."""
    if seconds < 90:
        return f"{max(round(seconds, -1), 5):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def program(name: str) -> str:
    """How to start a program of this environment: by its name where a shell finds it, elsewhere by its path."""
    own, found = Path(sys.executable).parent / name, shutil.which(name)
    known = not own.exists() or (found is not None and os.path.samefile(found, own))
    return name if known else os.path.relpath(own)
