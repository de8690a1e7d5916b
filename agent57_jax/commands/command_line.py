"""Common parts of the programs: flags whose errors are one line, and settings that are complete before JAX starts."""

import argparse
import ctypes
import io
import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import config_flags

from agent57_jax import paths, presets
from agent57_jax.config import Settings, SettingsError, finalise

USAGE_ERROR = 2
_M_ARENA_MAX = -8  # from malloc.h
# Other values would change the types in programs and checkpoints, or the random numbers.
_JAX_SWITCHES = {"JAX_ENABLE_X64": "false", "JAX_DEFAULT_PRNG_IMPL": "threefry2x32", "JAX_NUMPY_DTYPE_PROMOTION": "standard"}
_FALSE = ("", "0", "f", "n", "no", "off")  # other forms of "false"


def fail(message: str, code: int = USAGE_ERROR) -> NoReturn:
    """Ends the process with one message on standard error."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    """A parser for programs without absl flags, whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        fail(message)


def fail_at_once(message: str, code: int) -> NoReturn:
    """Like `fail`, but skips exit handlers, which would wait for lost processes."""
    try:
        print(f"error: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    finally:  # even if output fails
        os._exit(code)


def open_standard_files() -> None:
    """Reopens closed standard files: otherwise other files, such as the memory of observations, get their numbers and what is printed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)  # child processes print too
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open until the process ends


def writing_problem(file: pathlib.Path) -> str | None:
    """Why a file cannot be written; None if it can. Tried with a temporary file, since permissions do not show read-only file systems."""
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            return "it is a folder" if file.is_dir() else None
    except OSError as error:
        return error.strerror or str(error)


def _check_overrides(arguments: Sequence[str]) -> None:
    """Ends the process at the first override that names no setting."""
    for argument in arguments:
        name = argument.lstrip("-").split("=", 1)[0]
        if name.startswith("config."):
            if not argument.startswith("-"):
                fail(f"'{argument}' must begin with two dashes: --{argument}")
            if (message := presets.unknown(name.removeprefix("config."))) is not None:
                fail(message)


def parse_flags(arguments: list[str]) -> list[str]:
    """Parses absl flags; every error ends the process with one line and exit code 2."""
    _check_overrides(arguments[1:])
    folder = os.getcwd()
    try:
        rest: list[str] = flags.FLAGS([_with_path(argument) for argument in arguments])
    except flags.Error as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        # The message of a config file's error contains the traceback: the first line names the file, the last one the reason.
        fail(lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}")
    except FileNotFoundError as error:
        fail(f"no config file {error.filename or error}")
    except Exception as error:  # a config file is code, which can raise anything
        fail(f"{type(error).__name__} in the config file or an override: {error}")
    finally:
        os.chdir(folder)  # the config file may have changed it, and paths are relative to it
    if len(rest) > 1:
        fail(f"'{rest[1]}' is not understood; flags begin with two dashes")
    return rest


def _with_path(argument: str) -> str:
    """Replaces the names in --config=zaxxon and --config=~/own.py by paths, since ml_collections parses this flag."""
    name, equals, value = argument.partition("=")
    return f"{name}={presets.located(value)}" if equals and name.lstrip("-") == "config" else argument


class _PathParser(flags.ArgumentParser[str]):
    def parse(self, argument: str) -> str:
        return paths.local(argument)


def define_path(name: str, help_text: str) -> Any:
    """A flag for a file or folder, default None; agent57_jax/paths.py checks the value."""
    return flags.DEFINE(_PathParser(), name, None, help_text, serializer=flags.ArgumentSerializer())


def define_config() -> Any:
    """The flag --config=configs/NAME.py[:PROFILE|:AGENT|:PROFILE,AGENT] with its overrides."""
    help_text = (
        "NAME or path/to/FILE.py, and [:PROFILE|:AGENT|:PROFILE,AGENT]; the file is Python code and is run; "
        "profiles: paper (default), box, laptop, smoke; agents: agent57, ngu, r2d2 and others"
    )
    return config_flags.DEFINE_config_file("config", None, help_text)


def config_path() -> str:
    """The value of --config as a path; empty without it."""
    flag = flags.FLAGS["config"]
    return config_flags.get_config_filename(flag) if flag.present else ""


def default_workdir() -> str:
    """The default of --workdir: runs/ and the config's name."""
    try:
        return paths.local(f"runs/{pathlib.Path(config_path().split(':')[0]).stem}")
    except paths.PathError as error:
        fail(str(error))


def complete_settings(value: Any) -> Settings:
    """Frozen settings from the value of --config; problems end the process with one line each."""
    if not isinstance(value, Settings):
        path = config_path().split(":")[0]
        if not path:
            fail("--config is missing: for example --config=configs/zaxxon.py")
        fail(f"no config file {path}" if not os.path.exists(path) else f"{path} does not return agent57_jax.config.Settings")
    try:
        return finalise(value)
    except SettingsError as error:
        fail(str(error).replace("\n", "\nerror: "))


def prepare_jax(whole_device: bool) -> None:
    """Sets up the environment before JAX is imported, keeping the user's values; `whole_device` takes all memory of the GPU."""
    # Hides messages about missing backends and about joining processes.
    for name in ("xla_bridge", "distributed"):
        logging.getLogger(f"jax._src.{name}").setLevel(logging.WARNING)
    _fix_switches()
    # A container's user may have no home; then programs are compiled at every start.
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(caches):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(caches, "agent57_jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    if not whole_device:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    elif "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # the old name; JAX refuses both together
        # The replay fills the device; JAX's default would leave a quarter of it unused.
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.95")
    # glibc would use eight heaps per core, and memory freed by the threads that write checkpoints stays in theirs: a run grew by some
    # 0.5 MiB per save (docs/decisions.md).
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # None without glibc
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)


def _fix_switches() -> None:
    """Sets the JAX switches that the project needs, and warns about other values."""
    for name, value in _JAX_SWITCHES.items():
        given = os.environ.get(name, value)
        if given.lower() != value and not (value == "false" and given.lower() in _FALSE):
            print(f"warning: {name}={given} is ignored: agent57_jax needs {value}", file=sys.stderr)
        os.environ[name] = value
    if "jax" in sys.modules:  # a config file may have imported it
        import jax

        for name, value in _JAX_SWITCHES.items():
            jax.config.update(name.lower(), False if value == "false" else value)


def run(main: Callable[[], None]) -> None:
    """Parses the flags and runs `main`."""
    open_standard_files()
    # Prints a question mark for characters that the locale lacks, instead of failing. Python already does so on standard error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    app.run(lambda _: main(), flags_parser=parse_flags)
