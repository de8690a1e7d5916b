"""Checkpoints of a run: arrays as Orbax items, the rest as JSON, no pickles. The only importer of Orbax."""

import contextlib
import ctypes
import errno
import glob
import itertools
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath
from jax.sharding import NamedSharding

from agent57_jax.types import RunError

FORMAT = 2  # raise it when items or fields change their meaning, so that old checkpoints are refused
META = "meta"
_ARRAY = "/.zarray"  # suffix of the keys of arrays' metadata
# Waiting for a save is intended. The other messages come with an exception, which `Checkpoints` reports.
_REPORTED = ("Waiting for previous save to complete", "[process=%d][thread=%s]", "Failed to write metadata=")


def _is_news(record: logging.LogRecord) -> bool:
    """Keeps only Orbax warnings that are not reported otherwise."""
    if "/orbax/" not in record.pathname:
        return True
    return record.levelno >= logging.WARNING and not record.exc_info and not str(record.msg).startswith(_REPORTED)


# Orbax logs some fifty lines per save at INFO, the level that absl sets at start-up for its one logger.
logging.getLogger("absl").addFilter(_is_news)
# After a failed save asyncio logs the exceptions of the other arrays.
logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())


def _silence_late_writers() -> None:
    """Hides messages of TensorStore threads that outlive a failed save and find its event loop closed."""
    replaced = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if unraisable.object is not None or str(unraisable.exc_value) != "Event loop is closed":
            replaced(unraisable)

    sys.unraisablehook = hook


_silence_late_writers()
# TensorStore 0.1.86 never frees the answers to this query: some 0.1 MiB per save, for a log line that is filtered out above.
tensorstore.experimental_collect_matching_metrics = lambda *_, **__: []


def _glob_literally(folder: Any, pattern: str) -> Iterator[Any]:
    """Replaces `glob` of etils 1.14, which takes the folder's name for a pattern: Orbax would not find its files in `zaxxon[seed0]`."""
    return _glob(type(folder)(glob.escape(str(folder))), pattern)


_glob = type(epath.Path("/")).glob
type(epath.Path("/")).glob = _glob_literally


class CheckpointError(RunError):
    """A checkpoint that cannot be written or read; the message is one line that says why."""


class DamagedCheckpointError(CheckpointError):
    """An existing checkpoint whose files cannot be read; an older one may be readable."""


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raises CheckpointError for a folder that cannot hold checkpoints."""
    if "\\" in str(Path(path).absolute()):
        raise CheckpointError(f"{path} has a backslash in its name, which TensorStore takes for a slash: choose another folder")


class Checkpoints:
    """The numbered checkpoints in one directory.

    Each named tree of arrays is a separate item, so that a model can be read without the replay. The number of devices may differ
    between saving and restoring. An interrupted save leaves only a temporary folder, which the next writer removes.
    """

    def __init__(self, directory: Path | str, keep: int, read_only: bool = False) -> None:
        """Opens the directory, which `check_folder` must accept, and creates it if it is missing.

        Only the newest `keep` checkpoints stay. `read_only` creates, removes and saves nothing, for a run that may still be training.
        """
        check_folder(directory)
        self._directory = Path(directory).absolute()
        self._manager = None
        self._unread: tuple[int, dict[str, dict[str, str]]] | None = None  # saved but not read back yet: kinds of its arrays
        if not read_only:
            options = ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                cleanup_tmp_directories=True,
                create=True,
                # On a full disk, threads that create folders in the background would keep the process alive.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(self, step: int, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> bool:
        """Waits for the previous save, copies the arrays to the host, and writes them in the background.

        The caller may donate the arrays at once. On a CPU the host's copy is the array itself, which is held until written, so that a
        program to which it is donated works on a copy.

        Args:
          step: number of the checkpoint, larger than those before; returns False if it exists.
          arrays: name of the item -> pytree of JAX or NumPy arrays.
          meta: plain JSON values.

        Raises CheckpointError if an argument is not as described, or writing this or the previous checkpoint fails.
        """
        manager = self._manager
        if manager is None:
            raise CheckpointError(f"{self._directory} was opened for reading only")
        self.wait()
        latest = self.latest()
        if latest == step:
            return False
        if latest is not None and step < latest:
            raise CheckpointError(f"checkpoint {step} is older than the latest one, {latest}, in {self._directory}")
        for item, tree in arrays.items():
            if item == META:
                raise CheckpointError(f"the item name '{META}' is taken")
            leaves = jax.tree.leaves_with_path(tree)
            if not leaves:
                raise CheckpointError(f"the item '{item}' holds no arrays; leave it out")
            for path, leaf in leaves:
                if not isinstance(leaf, jax.Array | np.ndarray):
                    raise CheckpointError(
                        f"{item}.{_dotted(path)} is a {type(leaf).__name__}; checkpoints hold arrays, other values go to meta"
                    )
        items = {item: ocp.args.StandardSave(tree) for item, tree in arrays.items()}
        items[META] = ocp.args.JsonSave({"format": FORMAT, "content": _plain(meta)})
        try:
            saved = manager.save(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax, TensorStore and the file system each raise their own
            raise CheckpointError(f"checkpoint {step} could not be written to {self._directory}: {_reason(error)}") from error
        if not saved:
            raise CheckpointError(f"checkpoint {step} was not written to {self._directory}: Orbax refused it")
        self._unread = step, {item: _kinds(tree) for item, tree in arrays.items()}
        return True

    def wait(self) -> None:
        """Waits until every save is complete and its metadata were read back; raises CheckpointError if one failed."""
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise CheckpointError(f"a checkpoint could not be written to {self._directory}: {_reason(error)}") from error
        self._read_back()
        # Returns the memory freed by a save to the system; glibc would keep it.
        if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
            trim(0)

    def _read_back(self) -> None:
        """Reads the last save's metadata, so that damage shows at once and not when the checkpoint is needed."""
        unread, self._unread = self._unread, None
        # A user may have removed the folder, and other processes may see files of the first one late.
        if unread is None or jax.process_index() or not (self._directory / str(unread[0])).is_dir():
            return
        step, items = unread
        self.meta(step)
        for item, kinds in items.items():
            with self._reading(step, item) as folder:
                if _written(folder) != kinds:
                    raise ValueError("it holds other arrays than were saved")

    def close(self) -> None:
        """Waits for saves and ends the background threads; raises CheckpointError if a save failed."""
        self.wait()
        if self._manager is not None:
            self._manager.close()

    def latest(self) -> int | None:
        """The newest complete checkpoint; None if there is none."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """All complete checkpoints, oldest first. A save renames its folder to the number once everything is written."""
        if not self._directory.is_dir():
            return []
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdecimal())

    def set_aside(self, step: int) -> Path:
        """Renames a damaged checkpoint, so that it is not read again and its number is free; returns the new path."""
        places = (self._directory / f"{step}.damaged{number or ''}" for number in itertools.count())
        place = next(path for path in places if not path.exists())
        (self._directory / str(step)).rename(place)
        self.reread()
        return place

    def reread(self) -> None:
        """Rereads the directory after another process has changed it."""
        if self._manager is not None:
            self._manager.reload()

    def has_item(self, step: int, name: str) -> bool:
        """Whether the checkpoint holds the item."""
        return (self._directory / str(step) / name).is_dir()

    def meta(self, step: int) -> dict[str, Any]:
        """Reads only the JSON part; raises CheckpointError if it is missing, damaged or of another format."""
        self.wait()
        self._need_item(step, META)
        with self._reading(step, META) as folder, ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            record = reader.restore(folder)
        found = record.get("format") if isinstance(record, dict) else None
        if found != FORMAT:
            raise CheckpointError(
                f"checkpoint {step} in {self._directory} has format {found}, but this version of agent57_jax reads format {FORMAT}"
            )
        return record["content"]

    def restore(self, step: int, targets: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads items, and the JSON part.

        `targets` maps names to pytrees of `jax.ShapeDtypeStruct`, each with its NamedSharding. Returns the arrays, in the same structure
        and safe to donate, and the metadata. Raises CheckpointError if there is no such checkpoint, it has another format, or leaves do
        not match, DamagedCheckpointError if an item is missing or cannot be read.
        """
        meta = self.meta(step)
        for name, target in targets.items():
            self._need_item(step, name)
            self._need_equal(step, name, target)
        restored: dict[str, Any] = {}
        for name, target in targets.items():  # one by one, to limit the peak of memory
            with self._reading(step, name) as folder, ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
                stored = reader.restore(folder, args=ocp.args.StandardRestore(target))
            shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
            # On GPUs only outputs of programs are sure to be donatable. Where donation works, this copy takes no memory.
            own = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings, donate_argnums=0)
            restored[name] = own(stored)
        return restored, meta

    @contextlib.contextmanager
    def _reading(self, step: int, name: str) -> Iterator[Path]:
        """Yields the folder of an item; every error is a DamagedCheckpointError."""
        try:
            yield self._directory / str(step) / name
        except Exception as error:  # Orbax, TensorStore, JSON and the file system each raise their own
            reason = f"{type(error).__name__}: {_reason(error)}"
            raise DamagedCheckpointError(f"item '{name}' of checkpoint {step} in {self._directory} cannot be read: {reason}") from error

    def _need_item(self, step: int, name: str) -> None:
        if not (self._directory / str(step)).is_dir():
            raise CheckpointError(f"there is no checkpoint {step} in {self._directory}")
        if not self.has_item(step, name):
            raise DamagedCheckpointError(f"checkpoint {step} in {self._directory} has no item '{name}'")

    def _need_equal(self, step: int, name: str, target: Any) -> None:
        """Compares shapes and dtypes before reading: Orbax would cast dtypes, and reports other differences in long texts."""
        with self._reading(step, name) as folder:
            metadata = ocp.StandardCheckpointHandler().metadata(folder)
        stored = _kinds(getattr(metadata, "tree", metadata))
        wanted = {_dotted(path): leaf for path, leaf in jax.tree.leaves_with_path(target)}
        where = f"checkpoint {step} does not fit this run's settings"
        for path, leaf in wanted.items():
            if not isinstance(leaf.sharding, NamedSharding):
                raise CheckpointError(f"the target of {name}.{path} has no NamedSharding")
            if path not in stored:
                raise CheckpointError(f"{where}: it has no {name}.{path}")
            if stored[path] != _kind(leaf):
                raise CheckpointError(f"{where}: {name}.{path} is {stored[path]}, but {_kind(leaf)} is expected")
        if unexpected := [path for path in stored if path not in wanted]:
            raise CheckpointError(f"{where}: {name}.{unexpected[0]} is not expected")


def _reason(error: Exception) -> str:
    """An exception's message in one line; TensorStore hides the reason in long texts."""
    text = " ".join(str(error).split())
    full = os.strerror(errno.ENOSPC)
    return full if full in text else text[:300]


def _dotted(path: tuple[Any, ...]) -> str:
    """A path into a pytree, such as `parameters.q.0`; equal for a NamedTuple and for the dict that stands for it in metadata."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _kinds(tree: Any) -> dict[str, str]:
    """`_kind` of every leaf, by its dotted path."""
    return {_dotted(path): _kind(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def _written(item: Path) -> dict[str, str]:
    """`_kinds` of a stored item, read with TensorStore: Orbax's reader leaks memory (TensorStore 0.1.86)."""
    json.loads((item / "_METADATA").read_text())
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{item}/"}}
    store = tensorstore.KvStore.open(database).result()
    reads = {key.decode().removesuffix(_ARRAY): store.read(key) for key in store.list().result() if key.endswith(_ARRAY.encode())}
    records = {path: json.loads(read.result().value) for path, read in reads.items()}
    return {path: f"{np.dtype(record['dtype'])}{record['shape']}" for path, record in records.items()}


def _kind(leaf: Any) -> str:
    """`float32[8, 3]` for anything with a shape and a dtype."""
    return f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Checks that `meta` survives JSON unchanged."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(meta, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the metadata of a checkpoint must be plain JSON values: {error}") from error
    if copy != meta:
        raise CheckpointError("the metadata of a checkpoint must be plain JSON values: string keys, and lists for sequences")
    return copy
