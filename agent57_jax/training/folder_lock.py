"""A lock that admits one training run to a folder; the system releases it when the process ends, however it ends."""

import fcntl
import os
import pathlib
import socket
import time
from collections.abc import Callable
from typing import IO

from agent57_jax.types import RunError

NAME = "lock"
WAIT_SECONDS = 120.0  # the time that schedulers give a stopped run to save; the next start may overlap with it
PERIOD_SECONDS = 0.5


class FolderInUseError(RunError):
    """Another process trains in the folder; the message names it."""


def hold(folder: pathlib.Path, say: Callable[[str], None], is_stopped: Callable[[], bool]) -> IO[str]:
    """Locks an existing folder until the result is closed, if its file system has locks.

    Waits for a run that is about to end, which `say` shows; raises FolderInUseError after WAIT_SECONDS, or when `is_stopped`.
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
                say(f"{owner} trains in {folder}: waiting up to {WAIT_SECONDS:.0f} s for it to end")
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
