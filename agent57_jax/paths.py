"""Paths from a command line, and the files and folders of a run."""

import argparse
import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from agent57_jax.config import SettingsError

_EARLIER = re.compile(r"earlier\.\d+")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class PathError(argparse.ArgumentTypeError, ValueError):
    """A path that cannot work; the message says what to do. The first base is for argparse, the second for absl."""


def local(text: str) -> str:
    """The path with "~" expanded, which shells do not do after a "=".

    Raises PathError for an address of another machine, an unknown home, or a name that is not UTF-8, which checkpoints cannot have.
    """
    if address := _ADDRESS.match(text):
        if address[1].lower() == "file":
            raise PathError(f"name the folder itself, without {address[0]}")
        raise PathError("this is not a folder of this machine: mount it with gcsfuse, s3fs or rclone, and name the mounted folder")
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise PathError(f"{path.split('/')[0]} has no home directory: give the full path, or ./{path} for a folder of that name")
    # Whatever encoding Python uses: the libraries that write checkpoints assume UTF-8.
    whole = os.path.abspath(path)
    if os.fsencode(whole) != whole.encode("utf-8", "replace"):
        raise PathError(f"{whole!a} is not UTF-8: rename the folder, or choose another one")
    return path


def path(text: str) -> pathlib.Path:
    """`local` as a Path, for argparse."""
    return pathlib.Path(local(text))


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary file beside `path`, which atomically replaces it if the block succeeds, and is removed otherwise."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def refuse_broken_links(paths: Sequence[pathlib.Path]) -> None:
    """Raises SettingsError for the first link whose target does not exist."""
    for link in paths:
        if link.is_symlink() and not link.exists():
            raise SettingsError(
                f"{link} is a link to {os.readlink(link)}, which does not exist: mount its disk, create it, or remove the link"
            )


def set_aside(path: pathlib.Path) -> None:
    """Renames a file or folder of an earlier run to the first free `<name>.<number>`, unless it is empty.

    The user chose the place of a linked or mounted folder: it stays, and its contents move to a folder earlier.<number> inside.
    """
    if path.is_dir() and (path.is_symlink() or path.is_mount()):
        # lost+found belongs to the file system.
        held = [entry for entry in path.iterdir() if entry.name != "lost+found" and not _EARLIER.fullmatch(entry.name)]
        if held:
            other = _free(path / "earlier")
            other.mkdir()
            for entry in held:
                entry.rename(other / entry.name)
    elif path.exists() and (any(path.iterdir()) if path.is_dir() else path.stat().st_size):
        path.rename(_free(path))


def _free(path: pathlib.Path) -> pathlib.Path:
    number = 1
    while (other := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return other
