"""Settings shared by the unit tests: one thread, and the same hypothesis examples in every run."""

from __future__ import annotations

import urllib.request
from urllib.error import URLError

import hypothesis
import pytest
import torch
from threadpoolctl import threadpool_limits

from .helpers_run import SmallRun, finished_run

torch.set_num_threads(1)
threadpool_limits(limits=1)
hypothesis.settings.register_profile("gwprune", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("gwprune")


@pytest.fixture
def no_network(monkeypatch):
    """Every download fails at once, as on a machine without network."""

    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def run() -> SmallRun:
    """The small run, finished: made once in each test process."""
    return finished_run()


@pytest.fixture
def empty(run, tmp_path) -> SmallRun:
    """The same run, with its data set and nothing else."""
    return SmallRun(tmp_path / "results", data=run)
