"""Signals that end a training."""

import os
import signal
import time
from types import FrameType


class Shutdown:
    """SIGINT, SIGTERM and SIGHUP: the first asks the loop to save and exit, a second one ends the process at once.

    A repeat within `REPEAT_SECONDS` is the same request: launchers signal a process and its group, and both arrive here. SIGHUP comes when
    a terminal or a connection is gone: nobody is impatient then, so it never is the second one.
    """

    REPEAT_SECONDS = 2.0

    def __init__(self) -> None:
        self.requested = False
        self._first = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it, so that the run outlives its terminal
            signal.signal(signal.SIGHUP, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._first = True, now
        elif number != signal.SIGHUP and now - self._first > self.REPEAT_SECONDS:
            os._exit(128 + number)
