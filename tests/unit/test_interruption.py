"""Signals: at once where nothing is kept, at the next checkpoint where something is."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from gwprune.jobs.interruption import Interrupted, Interruption

SIGNALS = [signal.SIGTERM, signal.SIGUSR1]
ALL = [*SIGNALS, signal.SIGINT]


@pytest.mark.parametrize("number", ALL)
def test_a_signal_ends_work_without_checkpoints_at_once(number):
    steps = []

    def work():
        os.kill(os.getpid(), number)
        steps.append("went on")

    with Interruption().handled(), pytest.raises(Interrupted, match=signal.Signals(number).name):
        work()
    assert steps == []


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_next_checkpoint(number):
    steps = []

    def work(state):
        state.check()
        with state.deferred():
            os.kill(os.getpid(), number)
            steps.append("finished what was under way")
            state.check()
            steps.append("went on")

    with Interruption().handled() as state, pytest.raises(Interrupted, match=signal.Signals(number).name):
        work(state)
    assert steps == ["finished what was under way"]


def test_ctrl_c_does_not_wait_for_a_checkpoint():
    with Interruption().handled() as state, state.deferred(), pytest.raises(Interrupted, match="SIGINT"):
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_stays_ignored_where_the_shell_that_started_the_process_ignores_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption().handled():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_signal_does_not_wait():
    with Interruption().handled() as state, state.deferred():
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_after_the_last_checkpoint_the_work_ends_by_itself():
    with Interruption().handled() as state:
        with state.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
        finished = True
    assert finished


def test_the_handlers_from_before_come_back():
    before = {number: signal.getsignal(number) for number in ALL}
    with Interruption().handled():
        assert all(signal.getsignal(number) != before[number] for number in ALL)
    assert {number: signal.getsignal(number) for number in ALL} == before


def test_other_threads_leave_signals_alone():
    seen = []

    def work():
        with Interruption().handled() as state:
            state.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert seen == [before]


def test_no_handler_of_errors_swallows_an_interruption():
    assert not issubclass(Interrupted, Exception)


def test_after_the_work_is_done_no_signal_ends_it():
    with Interruption().handled() as state:
        state.close()
        for number in (*ALL, signal.SIGTERM):
            os.kill(os.getpid(), number)
        finished = True
    assert finished
