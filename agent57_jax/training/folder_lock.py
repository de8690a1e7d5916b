"""One training to a folder: a lock that the system takes back from a process that is gone, however it ended."""

import fcntl
import os
import pathlib
import socket
import time
from collections.abc import Callable
from typing import IO

from agent57_jax.types import RunError

NAME = "lock"
WAIT_SECONDS = 120.0  # as long as schedulers let a training that they stop save: the next one may start before it has ended
PERIOD_SECONDS = 0.5


class FolderInUseError(RunError):
    """Another process trains in the folder; the message says which."""


def hold(folder: pathlib.Path, say: Callable[[str], None], is_stopped: Callable[[], bool]) -> IO[str]:
    """Takes the folder, which stays taken until the result is closed; waits for a training that is about to end.

    File systems without locks are taken as they are.

    Args:
      folder: of the run; exists.
      say: tells a person that it waits, and for whom.
      is_stopped: whether to wait no longer.

    Raises:
      FolderInUseError: if another process has held it for WAIT_SECONDS, or it is stopped.
    """
    file = (folder / NAME).open("a+")
    begun, owner = time.monotonic(), ""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            waited = time.monotonic() - begun
            if not owner:
                file.seek(0)
                owner = file.read().strip() or "another process"
                say(f"{owner} trains in {folder}: waiting up to {WAIT_SECONDS:.0f} s for its end")
            if waited >= WAIT_SECONDS or is_stopped():
                file.close()
                raise FolderInUseError(f"{owner} trains in {folder}: stop it first, or choose another --workdir") from None
            time.sleep(PERIOD_SECONDS)
        except OSError:
            return file
    file.truncate(0)
    file.write(f"process {os.getpid()} of {socket.gethostname()}\n")
    file.flush()
    return file
