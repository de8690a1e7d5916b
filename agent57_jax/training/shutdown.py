"""Signals that end a run."""

import os
import signal
import time
from types import FrameType
from typing import Self


class Shutdown:
    """Handles SIGINT, SIGTERM and SIGHUP: the first asks the loop to save and exit, a second one ends the process at once.

    A repeat within `REPEAT_SECONDS` counts as the same request: launchers signal both a process and its group. SIGHUP, from a lost
    terminal, never counts as the second one. Calling it tells whether a signal has arrived. At exit it restores the replaced handlers.
    """

    REPEAT_SECONDS = 2.0

    def __init__(self) -> None:
        self.requested = False
        self._first = 0.0
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored under nohup
            numbers.append(signal.SIGHUP)
        self._replaced = {number: signal.signal(number, self._handle) for number in numbers}

    def __call__(self) -> bool:
        return self.requested

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed from Python

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._first = True, now
        elif number != signal.SIGHUP and now - self._first > self.REPEAT_SECONDS:
            os._exit(128 + number)
