"""What the programs share: flags that fail in one line, and settings that are complete before JAX starts."""

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
_M_ARENA_MAX = -8  # of malloc.h
# Switches of JAX that would change types and shapes of what programs, checkpoints and random numbers are made of.
_JAX_SWITCHES = {"JAX_ENABLE_X64": "false", "JAX_DEFAULT_PRNG_IMPL": "threefry2x32", "JAX_NUMPY_DTYPE_PROMOTION": "standard"}
_FALSE = ("", "0", "f", "n", "no", "off")  # other words for it


def fail(message: str, code: int = USAGE_ERROR) -> NoReturn:
    """Ends the process with one clear message on standard error."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    """A parser for programs without absl's flags, whose mistakes end in one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        fail(message)


def fail_at_once(message: str, code: int) -> NoReturn:
    """Like `fail`, without what happens at a process' end: that would wait for processes which are no more."""
    try:
        print(f"error: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    finally:  # also where output is gone
        os._exit(code)


def open_standard_files() -> None:
    """Opens what a caller has closed of standard input, output and error.

    Their numbers would go to the next files that are opened, which then get what is printed: the memory of observations, for one.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)  # processes that are started here print too
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives


def writing_problem(file: pathlib.Path) -> str | None:
    """Why a file cannot be written, tried beside it; None if it can. Permissions do not tell of read-only file systems."""
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            return "it is a folder" if file.is_dir() else None
    except OSError as error:
        return error.strerror or str(error)


def _unknown_setting(arguments: Sequence[str]) -> str | None:
    """The message for the first override that names no setting, if there is one."""
    for argument in arguments:
        name, dashes = argument.lstrip("-").split("=", 1)[0], argument.startswith("-")
        if not name.startswith("config."):
            continue
        name = name.removeprefix("config.")
        if not dashes:
            return f"'{argument}' must begin with two dashes: --{argument}"
        if (message := presets.unknown(name)) is not None:
            return message
    return None


def parse_flags(arguments: list[str]) -> list[str]:
    """Parses absl flags; every mistake ends the process with one line and exit code 2."""
    message = _unknown_setting(arguments[1:])
    if message:
        fail(message)
    folder = os.getcwd()
    try:
        rest: list[str] = flags.FLAGS([_with_path(argument) for argument in arguments])
    except flags.Error as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        # Errors of a config file come with their traceback; its first line names the file, its last one the reason.
        fail(lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}")
    except FileNotFoundError as error:
        fail(f"no config file {error.filename or error}")
    except Exception as error:  # a config file is code, which can raise anything
        fail(f"{type(error).__name__} in the config file or an override: {error}")
    finally:
        os.chdir(folder)  # code may have changed it, and paths are meant as they were typed
    if len(rest) > 1:
        fail(f"'{rest[1]}' is not understood; flags begin with two dashes")
    return rest


def _with_path(argument: str) -> str:
    """--config=zaxxon and --config=~/own.py with their paths: the parser of that flag is not ours."""
    name, equals, value = argument.partition("=")
    return f"{name}={presets.located(value)}" if equals and name.lstrip("-") == "config" else argument


class _PathParser(flags.ArgumentParser[str]):
    def parse(self, argument: str) -> str:
        return paths.local(argument)

    def flag_type(self) -> str:
        return "path"


def define_path(name: str, help_text: str) -> Any:
    """A flag for a file or folder, None unless given; one that cannot work is refused (agent57_jax/paths.py)."""
    holder: Any = flags.DEFINE(_PathParser(), name, None, help_text, serializer=flags.ArgumentSerializer())
    return holder


def define_config() -> Any:
    """The flag --config=configs/NAME.py[:PROFILE|:AGENT|:PROFILE,AGENT] with its overrides."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "NAME or path/to/FILE.py, and [:PROFILE|:AGENT|:PROFILE,AGENT]; Python code that is run; profiles: paper (default), box, laptop, "
        "smoke; agents: agent57, ngu, r2d2 and others",
    )


def config_name() -> str:
    """File name of the config without folder, profile and suffix."""
    return pathlib.Path(config_path().split(":")[0]).stem


def config_path() -> str:
    """What --config was given."""
    for argument in reversed(sys.argv):
        if argument.lstrip("-").startswith("config="):
            return os.path.expanduser(argument.split("=", 1)[1])
    position = [i for i, argument in enumerate(sys.argv) if argument.lstrip("-") == "config" and i + 1 < len(sys.argv)]
    return sys.argv[position[-1] + 1] if position else ""


def default_workdir() -> str:
    """runs/ and the config's name, where a run lies unless --workdir says otherwise."""
    try:
        return paths.local(f"runs/{config_name()}")
    except paths.PathError as error:
        fail(str(error))


def complete_settings(value: Any) -> Settings:
    """Frozen settings from the flag's value; problems end the process with one line each."""
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
    """Process-wide switches that must be set before JAX is imported; what the user has set stays, unless nothing here would work with it.

    Args:
      whole_device: take the GPU's memory for this process, as training does; else share it with a run that trains.
    """
    # JAX announces every backend that a machine lacks, and each step of joining processes; its warnings and errors still show.
    for name in ("xla_bridge", "distributed"):
        logging.getLogger(f"jax._src.{name}").setLevel(logging.WARNING)
    _fix_switches()
    # A user of a container may have no home: without a folder for them, programs are compiled at every start.
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(caches):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(caches, "agent57_jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    if not whole_device:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    elif "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # its old name; JAX refuses both together
        # The replay is to fill the device; JAX's default would leave a quarter of it unused.
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.95")
    _share_one_arena()


def _fix_switches() -> None:
    """Gives JAX the switches that all is written for, and says so where the user has set another."""
    for name, value in _JAX_SWITCHES.items():
        given = os.environ.get(name, value)
        if given.lower() != value and not (value == "false" and given.lower() in _FALSE):
            print(f"warning: {name}={given} is not heeded: agent57_jax needs {value}", file=sys.stderr)
        os.environ[name] = value
    if "jax" in sys.modules:  # a config file is code, which may have imported it, and set them
        import jax

        for name, value in _JAX_SWITCHES.items():
            jax.config.update(name.lower(), False if value == "false" else value)


def _share_one_arena() -> None:
    """Lets all threads allocate from one heap.

    glibc's own choice is eight heaps a core, and what the threads that write checkpoints have freed in one of them no thread of another can
    use: a run grew by some 0.5 MiB for each save (docs/decisions.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; other systems have other allocators
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)


def run(main: Callable[[], None]) -> None:
    """Starts a program: flags, then `main` without positional arguments."""
    open_standard_files()
    # In a locale without UTF-8 a character that cannot be written becomes a question mark, not the program's end. Standard error needs no
    # such care: Python escapes there what it cannot write.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    app.run(lambda _: main(), flags_parser=parse_flags)
