"""What every test starts from."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def default_signals() -> Iterator[None]:
    """SIGINT and SIGTERM act as at a terminal.

    A shell starts what it runs in the background with SIGINT ignored. Children inherit that, and a test that sends them
    the signal would wait for nothing.
    """
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def wide_terminal() -> None:
    """What is printed has the width of what is no terminal; workers of pytest-xdist say that they are a narrow one."""
    os.environ["COLUMNS"] = "170"
