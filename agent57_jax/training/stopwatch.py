"""Wall time of the training loop, by label."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Sums of seconds by label since the last `read`."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._since = time.monotonic()

    @contextmanager
    def __call__(self, label: str) -> Iterator[None]:
        """Adds the time of a `with` block to a label."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._sums[label] += time.monotonic() - start

    def read(self) -> tuple[float, dict[str, float]]:
        """Seconds since the last read, and the sums; resets both."""
        now = time.monotonic()
        elapsed, sums = now - self._since, dict(self._sums)
        self._since = now
        self._sums.clear()
        return elapsed, sums
