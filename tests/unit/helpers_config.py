"""Small configurations, and the lines of the error that refuses one."""

from __future__ import annotations

from typing import Any

import pytest

from gwprune import config
from gwprune.config import ConfigError

# Every key that takes a list or, for a list of one, the value alone.
SCALARS = {
    "training.l1": 1e-4,
    "spectrum.operators": "ggn",
    "spectrum.predictors": "width",
    "epsilon": "batch_std",
    "pruning.methods": "magnitude",
    "pruning.sparsities": 0.5,
    "fine_tuning.methods": "magnitude",
    "fine_tuning.sparsities": 0.5,
    "criteria.accuracy_drop": 2.0,
    "seeds": 3,
}


def values(experiment: dict | None = None, **top: Any) -> dict:
    """A small valid configuration with ``top`` keys, and ``experiment`` laid over its only experiment."""
    return {"experiments": [{"dataset": "digits", "network": "fc", **(experiment or {})}], **top}


def nested(path: str, value: Any) -> dict:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def faults(raw: dict) -> list[str]:
    """The lines of the error, without the heading."""
    with pytest.raises(ConfigError) as caught:
        config.load(raw)
    heading, *lines = str(caught.value).splitlines()
    assert heading == "configuration is not valid:"
    assert lines
    return [line.strip() for line in lines]


def only_fault(raw: dict) -> str:
    lines = faults(raw)
    assert len(lines) == 1, lines
    return lines[0]


def only_run(experiment: dict | None = None, **top: Any) -> config.Run:
    """The run of a configuration that makes one."""
    (run,) = config.expand(config.load(values(experiment, **top))).values()
    return run
