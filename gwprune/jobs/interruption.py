"""Signals that ask a job to stop: it stops at its next checkpoint, so that it can go on from there when run again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["EXIT_STATUS", "RUN_INTERRUPTED", "Interrupted", "Interruption"]

# EX_TEMPFAIL of sysexits.h: not done, worth another try.
EXIT_STATUS = 75

# In the process of a run, not of a job: set when a person has pressed Ctrl-C.
RUN_INTERRUPTED = threading.Event()

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interrupted(BaseException):
    """A signal asked the job to stop. No :class:`Exception`, so that no handler of errors swallows it."""


class Interruption:
    """What becomes of SIGTERM, SIGUSR1 and SIGINT while :meth:`handled` is entered.

    The first two mean that time is short: SLURM sends SIGTERM before it kills a job for its time limit, for preemption
    or for `scancel`, and whichever signal `sbatch --signal` names ahead of the limit. SIGINT is a person's Ctrl-C, who
    does not want to wait for a checkpoint.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._deferred = self._closed = False

    @contextmanager
    def handled(self) -> Iterator[Interruption]:
        """Turn the signals into :class:`Interrupted`; the handlers that were there before come back afterwards."""
        if threading.current_thread() is not threading.main_thread():  # Python delivers signals there alone
            yield self
            return
        # A shell that starts a process in the background lets it ignore Ctrl-C; so it stays.
        numbers = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self._received is not None
        self._received = number
        if not self._closed and (not self._deferred or again or number == signal.SIGINT):
            raise Interrupted(signal.Signals(number).name)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a first signal waits for :meth:`check`: for work that writes checkpoints. A second one does not."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def close(self) -> None:
        """Let no signal end the work any more: it is done, and what is left is to say so."""
        self._closed = True

    def check(self) -> None:
        """To be called when a checkpoint was written.

        Raises:
            Interrupted: when a signal came.
        """
        if self._received is not None:
            raise Interrupted(signal.Signals(self._received).name)
