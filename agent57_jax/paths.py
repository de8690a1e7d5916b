"""Files and folders as a person names them on a command line, and prepares them for a run."""

import argparse
import os
import pathlib
import re
from collections.abc import Sequence

from agent57_jax.config import SettingsError

_EARLIER = re.compile(r"earlier\.\d+")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class PathError(argparse.ArgumentTypeError, ValueError):
    """A path that cannot work; the message says what to do. argparse shows it as the first of its bases, absl as the second."""


def local(text: str) -> str:
    """The path with its "~" expanded, which shells leave alone behind a "=".

    Raises:
      PathError: for an address of another machine, a home that is not known, and names that are not UTF-8, which no checkpoint can have.
    """
    if address := _ADDRESS.match(text):
        if address[1].lower() == "file":
            raise PathError(f"name the folder itself, without {address[0]}")
        raise PathError("this is no folder of this machine: mount it, as gcsfuse, s3fs or rclone do, and name the folder where it appears")
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise PathError(f"there is no home for {path.split('/')[0]}: name the whole path, or ./{path} for a folder of that name")
    # Also where Python reads names in another encoding: the libraries that write checkpoints take every name for UTF-8.
    whole = os.path.abspath(path)
    if os.fsencode(whole) != whole.encode("utf-8", "replace"):
        raise PathError(f"{whole!a} is not UTF-8: rename the folder, or choose another one")
    return path


def path(text: str) -> pathlib.Path:
    """The same for argparse."""
    return pathlib.Path(local(text))


def refuse_broken_links(paths: Sequence[pathlib.Path]) -> None:
    """Looks for links to what is not there.

    Raises:
      SettingsError: for the first of them.
    """
    for link in paths:
        if link.is_symlink() and not link.exists():
            raise SettingsError(f"{link} is a link to {os.readlink(link)}, which is not there: mount its disk, make it, or remove the link")


def set_aside(path: pathlib.Path) -> None:
    """Renames a file or folder of an earlier run to the first free `<name>.<number>`; an empty one stays.

    A folder that is a link, or on a disk of its own, was put there on purpose: it stays too, and what it holds goes into a folder
    earlier.<number> inside.
    """
    if path.is_dir() and (path.is_symlink() or path.is_mount()):
        # A file system keeps what it has lost in a folder of its own.
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
