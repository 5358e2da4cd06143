"""What every test starts from."""

from __future__ import annotations

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
