"""Ctrl-C and SIGTERM as an event, or as an exception."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal interrupts at once. To be entered after Ray has started."""
    stop = threading.Event()

    def handle(_number: int, _frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    with _handled(handle, signal.SIGINT, signal.SIGTERM):
        yield stop


@contextmanager
def interrupted_at_once() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, in asyncio too.

    asyncio makes a cancellation of Python's own handling, which is lost on a task that ends at that moment.
    """

    def handle(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    with _handled(handle, signal.SIGINT):
        yield


@contextmanager
def _handled(handle: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    """Signals are handled so in the block, if it is in the main thread: Python allows no other to say."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
