from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import suppress

import pytest

from pipeline.signals import interrupted_at_once, stop_on_signals


def test_two_signals_stop_and_then_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_is_not_lost_on_a_task_that_ends_when_it_is_cancelled() -> None:
    async def stubborn() -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(5)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupted_at_once():
        asyncio.run(stubborn())
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_may_not_say_how_signals_are_handled() -> None:
    done: list[bool] = []

    def use() -> None:
        with stop_on_signals() as stop, interrupted_at_once():
            done.append(not stop.is_set())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(5)
    assert done == [True]
