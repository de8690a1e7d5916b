"""The commands in the documents: where they stand, what they are, and how a test tries each.

    python -m tests.document_commands [--write=docs/commands.md]        # the list; `make docs` writes it

A command is a line of a fenced or indented block, a code span, or an exec form (["python", ...]) that begins with one of PROGRAMS; a fence
of another language than the shell's has none. Each is of one of the kinds below, or a test fails. What can run on two cores runs in the
slow tests: made small by `shrunk`, or in the test that is named. All others have the reason why not. Of every command the arguments go
through the program's own parser and the checks of the settings, targets through make, and paths must exist.
"""

import argparse
import contextlib
import io
import json
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "benchmarks/README.md", "reproductions/README.md", "reproductions/results/README.md")
NOT_READ = ("docs/commands.md", "docs/configuration_head.md")  # what this module writes; a part of another page
FOR_NEWCOMERS = "Quickstart"  # a section of README.md
SHELL = ("sh", "bash", "shell", "console")
# Programs of others that a slow test runs, with what it does instead of the whole work.
RUN_TOOLS = {
    "mkdir": "",
    "mkdocs": "",
    "mypy": "",
    "pip": "with `--dry-run --no-index`: the installed packages match",
    "pytest": "it only collects the tests",
    "ruff": "",
    "source": "and checks that `python` then has the packages",
    "tensorboard": "until its page has loaded",
    "venv": "without pip",
}
DEPLOY = "tests/shipping/test_deploy.py"
# Those that nothing here runs: what they need, and the test that is nearest to it.
# fmt: off
NEEDS = (
    (("apt", "apt-get", "usermod", "systemctl", "newgrp", "ubuntu-drivers", "chown"), "would change the machine", ""),
    (("nvidia-ctk", "nvidia-smi"), "needs an NVIDIA GPU", ""),
    (("docker compose",), "needs a container engine; the file is checked against its schema", f"{DEPLOY}::test_compose_fits_its_schema"),
    (("docker build",), "needs a container engine; the Dockerfile's steps run without one", "tests/shipping/test_debian_root.py"),
    (("docker run",), "needs a container engine; the entry points run without one", "tests/shipping/test_debian_root.py"),
    (("docker", "helm"), "needs a container engine", ""),
    (("sbatch", "squeue", "scancel"), "needs Slurm; the script runs without it", f"{DEPLOY}::test_a_slurm_script_starts_a_training"),
    (("kubectl",), "needs a cluster; the objects are checked against their schema", f"{DEPLOY}::test_kubernetes_objects_fit_their_schema"),
    (("gcloud", "gsutil"), "needs a Google Cloud project; the job file is checked", f"{DEPLOY}::test_vertex_job"),
    (("http.server",), "runs until it is stopped", ""),
    (("ssh", "scp", "rsync", "ncat"), "needs another machine", ""),
    (("git",), "needs the repository's address", ""),
    (("curl", "wandb"), "needs a network", ""),
    (("cat", "chmod", "cp", "df", "free", "ls", "mv", "rm", "tail", "tee", "tmux", "watch"), "standard Unix tool", ""),
    (("cd", "echo", "export", "for", "while", "if", "done", "fi", "wait", "set"), "shell built-in", ""),
)
# fmt: on
TOOLS = (*RUN_TOOLS, *(name for names, _, _ in NEEDS for name in names if " " not in name))
OWN = ("python", "python3", "make", "docker")
BEFORE = ("sudo", "srun", "exec", "xargs", "time", "nohup", "env", "do", "then")  # what may stand before a command
PROGRAMS = (*OWN, *TOOLS, *BEFORE)
MODULES_OF_OTHERS = ("pip", "pytest", "venv", "mkdocs", "ruff", "mypy", "http.server", "uv")

# What a reader fills in.
PLACEHOLDERS = (
    (r"(?<=[=\s])(\w+)(\|\w+)+", r"\1"),  # one of several
    (r"\bIMAGE\b", "agent57_jax"),
    (r"\bFLAGS\b", ""),
    (r"\b(WORD|COMMAND)\b", "train"),
    (r"\bTASK\b", "LunarLander-v3"),
    (r"\bAGENT\b", "agent57"),
    (r"configs/NAME\.py(\[[^\]]*\])?", "configs/zaxxon.py"),
    (r"reproductions\.NAME", "reproductions.meta_controller"),
    (r"--config\.NAME=VALUE", "--config.seed=1"),
    (r"(--[\w.]+)=\.\.\.", ""),
    (r"=N\b", "=4"),
    (r"=[IS]\b", "=0"),
    (r"\bHOST(?=:)", "host"),
    (r":PORT\b", ":12345"),
    (r"\bRUNS?\b(\.\.\.)?(?![/=])", "runs/zaxxon"),
    (r"=FILE\b", "=file.json"),
    (r"(?:^|(?<=\s))\[|\](?=\s|$)", ""),  # what may be left out is put in
    (r"(?:^|(?<=\s))\.\.\.(?=\s|$)", ""),
    (r"\$\(\w+\)", "0"),  # a variable of Kubernetes
)


class Command(NamedTuple):
    """One command of a page."""

    page: str
    text: str  # one line


class Tried(NamedTuple):
    """How a test tries a command."""

    kind: str  # "ours", "make", "container" or "tool"
    runs: bool  # whether `test_a_command_runs` does, made small
    why: str  # what runs instead, or why it does not
    test: str = ""  # the other test that runs it, or what comes nearest to it: tests/FILE.py or tests/FILE.py::NAME
    elsewhere: bool = False  # whether that test runs the command


# Where the commands are -------------------------------------------------------------------------------------------------------------


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """The code blocks of a page: the language of a fence ("" for none, and for indented ones) and the dedented text."""
    lines, i = text.splitlines(), 0
    while i < len(lines):
        fence = re.match(r"\s*(`{3,}|~{3,})(\w*)", lines[i])
        if fence:
            end = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == fence.group(1)), len(lines))
            yield fence.group(2), "\n".join(line.strip() for line in lines[i + 1 : end])
            i = end + 1
        elif re.match(r" {4,}\S", lines[i]) and (i == 0 or not lines[i - 1].strip()):
            end = i
            while end < len(lines) and (not lines[end].strip() or lines[end].startswith("    ")):
                end += 1
            yield "", "\n".join(line.strip() for line in lines[i:end])
            i = end
        else:
            i += 1


def begins(line: str) -> bool:
    """Whether a line begins like a command."""
    try:
        words = shlex.split(line.removeprefix("$ "))
    except ValueError:  # prose: an apostrophe opens a quotation
        words = line.split()
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:] or [""]
    return bool(words) and pathlib.PurePath(words[0]).name in PROGRAMS


def of_block(language: str, text: str) -> Iterator[str]:
    """The commands of a code block."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    kept = [line for line in lines if line and not line.startswith("#")]
    if language and language not in SHELL:
        return
    for form in re.findall(r'\["(?:python|make|docker)"[^\]]*\]', text):
        yield shlex.join(json.loads(form))
    if any(line.startswith("$ ") for line in kept):
        kept = [line for line in kept if line.startswith("$ ")]
    elif not language and not (kept and begins(kept[0])):
        return
    end = None
    for line in kept:
        if end is None:
            yield line.removeprefix("$ ")
            heredoc = re.search(r"<<-?\s*'?(\w+)", line)
            end = heredoc and heredoc.group(1)
        elif line == end:
            end = None


def commands_in(text: str) -> Iterator[str]:
    """The commands of a page's text, in blocks and in spans."""
    outside = text
    for language, block in blocks(text):
        yield from of_block(language, block)
    outside = re.sub(r"(?ms)^\s*(`{3,})\w*$.*?^\s*\1$", "", text)
    for paragraph in re.split(r"\n\s*\n", outside):
        if paragraph.startswith("    "):
            continue
        for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", paragraph):
            words = " ".join(span.split())
            if re.match(r"(train|evaluate)\.py ", words):
                yield f"python {words}"
            elif words.split()[0] in (*OWN, "pip", "sudo") and " " in words:
                yield words


def collect() -> list[Command]:
    """All commands of the documents, in order."""
    pages = sorted({path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)} - set(NOT_READ))
    return [Command(page, text) for page in pages for text in commands_in((ROOT / page).read_text())]


def newcomers() -> list[str]:
    """The commands of README's section for newcomers, which tests/test_newcomer.py runs as they stand."""
    return list(commands_in((ROOT / "README.md").read_text().partition(f"\n## {FOR_NEWCOMERS}\n")[2].partition("\n## ")[0]))


# What they are ----------------------------------------------------------------------------------------------------------------------


def filled(text: str) -> str:
    """A command with a value for what the reader fills in."""
    for pattern, value in PLACEHOLDERS:
        text = re.sub(pattern, value, text)
    return text


def simple(text: str) -> Iterator[list[str]]:
    """The words of each simple command in a line: without pipes, redirections, comments, variables and what may stand before a command."""
    lexer = shlex.shlex(filled(text), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if skip:
            skip = False
        elif re.fullmatch(r"[<>]+", word):
            skip = True
        elif re.fullmatch(r"[;&|()]+", word):
            while words and (words[0] in BEFORE or re.fullmatch(r"[A-Z_]+=.*", words[0])):
                words = words[1:]
            if words:
                yield [pathlib.PurePath(words[0]).name, *words[1:]]
            words = []
        else:
            words.append(word)


def program(words: Sequence[str]) -> str | None:
    """The script or module of the project that a Python command runs: "train.py" or "benchmarks.guard"; None if it is another's."""
    rest = list(words[1:])
    while rest and rest[0] in ("-u", "-B"):
        rest = rest[1:]
    if rest[:1] == ["-m"] and len(rest) > 1:
        return None if rest[1] in MODULES_OF_OTHERS else rest[1]
    return rest[0] if rest and rest[0].endswith(".py") else None


def in_container(words: Sequence[str]) -> list[str]:
    """What `docker run ... agent57_jax ARGUMENTS` starts: the image's entry point, or the one that is given, with the arguments."""
    entry: list[str] = json.loads(re.findall(r"(?m)^ENTRYPOINT (\[.*\])$", (ROOT / "Dockerfile").read_text())[-1])
    images = [i for i, word in enumerate(words) if word.split("/")[-1].split(":")[0] == "agent57_jax" and words[i - 1] != "-t"]
    if words[1] != "run" or not images:
        return []
    given = [words[i + 1] for i, word in enumerate(words) if word == "--entrypoint"]
    rest = list(words[images[0] + 1 :])
    return [] if rest and rest[0] == "tensorboard" else [*(given or entry), *rest]


# How they are tried -----------------------------------------------------------------------------------------------------------------

SIZES = ("total_steps", "num_devices", "replay.capacity", "environment.num_envs", "learner.batch_size", "environment.num_groups")
SMALL = ("--config.total_steps=600", "--config.replay.min_sequences=16", "--config.logging.period_seconds=1")
FEW = ("--repeats=1", "--seconds=0", "--config.replay.capacity=4000")
# What makes a benchmark a matter of a minute, beside the smoke profile; its figures then mean nothing.
BENCHMARKS = {
    "benchmarks.throughput": (*FEW, "--updates_per_run=1", "--parts=environments,device,acting,learner,together"),
    "benchmarks.precision": ("--updates=1", "--batches=1", "--config.replay.capacity=4000"),
    "benchmarks.growth": (
        *(*FEW, "--results=FOLDER/new", "--fills=0,20", "--replays=5120,10240", "--environments=4,8"),
        *("--batches=2,4", "--traces=6,8", "--devices=1,2"),
    ),
}
COLLECT = "PYTEST_ADDOPTS=--collect-only --quiet"
FIGURES = "tests/test_slow_runs.py::test_every_figure_can_be_made"
GAMES = "tests/reproductions/test_atari57.py::test_two_games_are_trained_evaluated_and_judged"
GPU = "tests/benchmarks/test_gpu.py::test_all_parts_run_on_a_cpu"
LEARNING = "tests/benchmarks/test_learning.py::test_a_real_run_is_trained_stopped_resumed_and_judged"
OWN_ENVIRONMENT = "tests/environments/test_own_environment.py::test_the_example_is_trained_and_judged_by_the_commands_on_the_page"
PROCESSES = "tests/test_processes.py::test_two_processes_compute_what_one_does"
WORDS = "tests/shipping/test_image.py::test_a_program_behind_a_word_is_the_one_without_it"
OWN_WORDS = ("export", "pack", "watch")  # words behind `python -m agent57_jax` that are its only form
# Programs of the project that `test_a_command_runs` leaves to others: how they are run, and where.
ELSEWHERE = {
    "agent57_jax": ("", WORDS),  # but for OWN_WORDS
    "benchmarks.gpu": ("at the tiny size, on a CPU", GPU),
    "benchmarks.guard": ("at the end of `make test-slow`", ""),
    "benchmarks.learning": ("one agent, smoke profile", LEARNING),
    "reproductions.atari57": ("two games, smoke profile", GAMES),
    "tests.document_commands": ("the tests themselves run it", ""),
}
# Targets of make that it does not run as they stand.
TARGETS = {
    "atari57": Tried("make", True, "one game, smoke profile"),
    "bench-smoke": Tried("make", False, "at the end of `make test-slow`", elsewhere=True),
    "lock": Tried("make", False, "asks the package index for new versions, so its result changes from day to day"),
    "reproductions": Tried("make", False, "each of its commands, smoke profile", FIGURES, elsewhere=True),
    "train": Tried("make", False, "", "tests/test_slow_runs.py::test_make_trains_on_a_machine_without_a_gpu", elsewhere=True),
    ".venv/ready-cuda": Tried("make", False, "downloads gigabytes of CUDA"),
    **{name: Tried("make", True, "pytest only collects the tests") for name in ("test", "test-slow", "chaos", "soak")},
}


def tool(words: Sequence[str]) -> list[str]:
    """A command of a program of others, without the Python that starts it."""
    words = list(words)
    return words[2:] if words[0].startswith("python") and words[1:2] == ["-m"] else words


def tried(words: Sequence[str]) -> Tried | None:
    """How a simple command is tried; None if no rule knows it."""
    words = list(words)
    name = words[0]
    if name == "make":
        target = next((word for word in words[1:] if "=" not in word), "")
        return TARGETS.get(target, Tried("make", True, ""))
    if name in ("python", "python3") and (ours := program(words)) is not None:
        if any(word.startswith(("--coordinator", "--distributed", "--num_processes")) for word in words):
            return Tried("ours", False, "on this machine", PROCESSES, elsewhere=True)
        if any(re.fullmatch(r"--config\.environment\.task_id=.*:.*", word) for word in words):
            return Tried("ours", False, "with the page's file", OWN_ENVIRONMENT, elsewhere=True)
        if ours in ELSEWHERE and not set(words[1:4]) & set(OWN_WORDS):
            return Tried("ours", False, *ELSEWHERE[ours], elsewhere=True)
        if ours.startswith("reproductions."):
            return Tried("ours", False, "smoke profile", FIGURES, elsewhere=True)
        if ours == "tests.mutations":
            return Tried("ours", False, "takes hours: it runs tests for each of its mutations")
        return Tried("ours", True, "")
    if name in ("python", "python3") and words[1:2] != ["-m"]:
        return None
    name = tool(words)[0]
    if name == "pytest" and "gpu" in words:
        return Tried("tool", False, "needs a GPU")
    if name == "pip" and "requirements-bench.txt" in words:
        return Tried("tool", False, "at the end of `make test-slow`", elsewhere=True)
    if name == "pip" and "requirements-peers.txt" in words:
        return Tried("tool", False, "installs agents that no other test needs")
    if name in RUN_TOOLS:
        return Tried("tool", True, RUN_TOOLS[name])
    kind = "container" if name == "docker" else "tool"
    for names, why, test in NEEDS:
        if name in names or " ".join(words[:2]) in names:
            return Tried(kind, False, why, test)
    return None


def shrunk(words: Sequence[str]) -> list[str]:
    """A command that does in seconds what the given one does: the smoke profile and few steps, one episode, folders under FOLDER.

    Every run that a command reads is FOLDER/trained, which the test has trained.
    """
    if words[0] == "make":
        return shrunk_target(words)
    ours = program(words) if words[0].startswith("python") else None
    if ours is None:
        return shrunk_tool(tool(words))
    if ours == "train.py" or ours in BENCHMARKS:
        small = []
        for word in words:
            config = re.fullmatch(r"--config=([^:]*)(?::(.*))?", word)
            if config:
                agents = [part for part in (config.group(2) or "").split(",") if part not in ("", "paper", "laptop", "smoke")]
                small.append(f"--config={config.group(1)}:{','.join(['smoke', *agents])}")
            elif word.removeprefix("--config.").split("=")[0] not in SIZES and not word.startswith("--workdir="):
                small.append(word)
        if ours in BENCHMARKS:
            return [
                *small,
                *([] if any(word.startswith("--config=") for word in words) else ["--config=configs/zaxxon.py:smoke"]),
                *BENCHMARKS[ours],
            ]
        return [*small, *SMALL, "--workdir=FOLDER/new"] if any(word.startswith("--config=") for word in words) else small
    small = [re.sub(r"(?:(?:/[\w.-]+)*/)?\bruns(?:/[\w./*-]*|$)", "FOLDER/trained", word) for word in words]
    if ours == "evaluate.py":
        small = [*(word for word in small if not word.startswith("--episodes")), "--episodes=1"]
    return small


def shrunk_target(words: Sequence[str]) -> list[str]:
    """`shrunk` for make: the virtual environment stays as it is, pytest only collects."""
    given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    (target,) = (word for word in words[1:] if "=" not in word)
    command = ["make", *(word for kind in ("cpu", "cuda") for word in ("-o", f".venv/ready-{kind}")), target]
    if target == "atari57":
        first = {
            name: value.split()[0] for name, value in ({"GAMES": "Pong-v5", "SEEDS": "0"} | given).items() if name in ("GAMES", "SEEDS")
        }
        command += [*(f"{name}={value}" for name, value in first.items()), "PROFILE=smoke", "RUNS=FOLDER/new"]
        return [*command, f"ARGS={' '.join(('--episodes=1', *SMALL))}"]
    if target == "watch":
        return [*command, "WORKDIR=FOLDER/trained", "ARGS=--episodes=1"]
    if target in ("test", "test-slow", "chaos", "soak"):
        return ["env", COLLECT, *command, "MAKE=true"]  # bench-smoke, which follows test-slow, needs cores that do nothing else
    return [*command, *(f"{name}={value}" for name, value in given.items())]


def shrunk_tool(words: Sequence[str]) -> list[str]:
    """`shrunk` for programs of others."""
    name = words[0]
    if name == "pip":
        # An extra of JAX that brings CUDA is not here.
        more = ["--no-deps"] if "requirements-cuda.txt" in words else ["--no-build-isolation"] if "-e" in words else []
        return ["python", "-m", "pip", "install", "--dry-run", "--no-index", "--quiet", *more, *words[2:]]
    if name == "pytest":
        return ["python", "-m", *words, "--collect-only"]
    if name == "venv":
        return ["python", "-m", "venv", "--without-pip", "FOLDER/new"]
    if name == "source":
        return ["bash", "-c", f"{shlex.join(words)} && python -c 'import jax, agent57_jax'"]
    if name == "tensorboard":
        return ["tensorboard", "--logdir", "FOLDER", "--port", "0"]
    return list(words)


class Parsed(Exception):  # noqa: N818 - the end that is hoped for
    """A program has read its arguments."""


def parse(words: Sequence[str]) -> str | None:
    """Starts a program of the project and stops it when it has read its arguments and checked its settings: None, or what it found wrong.

    For a process of its own: flags and modules are global.
    """
    from absl import app, flags

    def flags_only(main: Any, argv: Any = None, flags_parser: Any = None, **_: Any) -> None:
        from agent57_jax.commands import command_line

        (flags_parser or flags.FLAGS)(sys.argv)
        if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
            command_line.complete_settings(flags.FLAGS["config"].value)
        raise Parsed

    def arguments_only(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        argparse.ArgumentParser.parse_known_args = parse_known  # type: ignore[method-assign]
        parse_arguments(self, *args, **kwargs)
        raise Parsed

    def some_arguments_only(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        parse_known(self, *args, **kwargs)
        raise Parsed

    def no_process(*_: Any, **__: Any) -> None:
        raise SystemExit(f"{name} starts a process before it has read its arguments")

    name = program(words)
    assert name is not None
    rest = list(words[words.index(name) + 1 :])
    file = ROOT / name if name.endswith(".py") else ROOT / (name.replace(".", "/") + ".py")
    file = file if file.exists() else file.with_suffix("") / "__main__.py"
    if not file.exists():
        return f"there is no {name}"
    app.define_help_flags()
    before, parser = set(flags.FLAGS), argparse.ArgumentParser
    run, start, parse_arguments, parse_known = app.run, subprocess.Popen.__init__, parser.parse_args, parser.parse_known_args
    app.run, subprocess.Popen.__init__ = flags_only, no_process  # type: ignore[assignment,method-assign]
    parser.parse_args, parser.parse_known_args = arguments_only, some_arguments_only  # type: ignore[assignment,method-assign]
    said = io.StringIO()
    old_arguments, sys.argv = sys.argv, [str(file), *rest]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            if name.endswith(".py"):
                runpy.run_path(str(file), run_name="__main__")
            else:
                runpy.run_module(name, run_name="__main__", alter_sys=False)
    except Parsed:
        return None
    except SystemExit as end:
        return None if end.code == 0 else said.getvalue().strip() or str(end.code)
    finally:
        app.run, subprocess.Popen.__init__, sys.argv = run, start, old_arguments  # type: ignore[method-assign]
        parser.parse_args, parser.parse_known_args = parse_arguments, parse_known  # type: ignore[method-assign]
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)
        folders = {path.stem for path in ROOT.iterdir()}
        for module in [module for module in sys.modules if module.split(".")[0] in folders]:
            del sys.modules[module]
    is_program = file.stem == "__main__" or "__main__" in file.read_text()
    return f"{name} ended without reading its arguments" if rest or not is_program else None


def parse_all(commands: Sequence[Sequence[str]]) -> list[str | None]:
    """`parse` of each command, in one other process."""
    command = [sys.executable, "-m", "tests.document_commands", "--parse"]
    done = subprocess.run(
        command, cwd=ROOT, input=json.dumps([list(one) for one in commands]), capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: list[str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


def made(words: Sequence[str]) -> tuple[list[list[str]], str | None]:
    """The simple commands that make would run, and what it says if it cannot."""
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        return [], done.stderr.strip()
    lines = re.sub(r"\\\n", " ", done.stdout).splitlines()
    return [one for line in lines if line.lstrip("@").startswith((".venv/bin/python ", "exec ")) for one in simple(line)], None


def missing_paths(words: Sequence[str]) -> list[str]:
    """Words that name a file of the project which is not there."""
    found = []
    for word in words[1:]:
        path = word.split("=", 1)[-1]
        names_a_file = re.fullmatch(r"[\w][\w./-]*\.(py|txt|lock|yaml|yml|sh|toml|md)", path) or path.split("/")[0] in (
            "configs",
            "docs",
            "tests",
        )
        if names_a_file and not (ROOT / path.split(":")[0]).exists():
            found.append(path)
    return found


# The list ---------------------------------------------------------------------------------------------------------------------------

HEAD = """# Commands and their tests

This page lists every command in the documents and how [`tests/test_document_commands.py`](../tests/test_document_commands.py) tests it.
`make docs` writes it.

- **All commands** are parsed in `make test`, by the program's own parser and settings checks, or by make. The paths in them must exist.
- **runs:** `make test-slow` also runs a small version (`shrunk` in [`tests/document_commands.py`](../tests/document_commands.py)): training
  takes the smoke profile and 600 steps, evaluation one episode, and a command that reads a run gets one that the test has trained. Where
  another test is named, that test runs the command.
- **parsed:** the command needs something that two cores without a GPU and without a container engine do not have.
- The README's quickstart also runs unchanged in a fresh clone ([`tests/test_newcomer.py`](../tests/test_newcomer.py)).
"""


def described(kind: Tried) -> str:
    """How a command is tried, in words."""
    reason = ": ".join(filter(None, [kind.why, kind.test and f"`{kind.test}`"]))
    return ("runs" if kind.runs or kind.elsewhere else "parsed") + (f" ({reason})" if reason else "")


def page() -> str:
    """docs/commands.md."""
    pages: dict[str, set[str]] = {}
    as_they_stand = newcomers()
    for command in collect():
        pages.setdefault(" ".join(re.sub(r"\s+#.*", "", command.text).split()), set()).add(command.page)
    rows = []
    for text, where in pages.items():
        kinds = [kind for words in simple(text) if (kind := tried(words))]
        how = "; ".join(dict.fromkeys(map(described, kinds)))
        if text in as_they_stand:
            how = "runs unchanged (`tests/test_newcomer.py`)"
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in (f'`{text}`', ', '.join(sorted(where)), how))} |")
    return "\n".join([HEAD, "| command | page | test |", "|---|---|---|", *rows]) + "\n"


def main() -> None:
    """Writes or prints the list; for `parse_all`, parses what it is given."""
    parser = argparse.ArgumentParser(description="The commands in the documents and how tests try them.")
    parser.add_argument("--write", type=pathlib.Path, help="file for the list")
    parser.add_argument("--parse", action="store_true", help="read commands from standard input and parse them")
    arguments = parser.parse_args()
    if arguments.parse:
        print(json.dumps([parse(words) for words in json.load(sys.stdin)]))
    elif arguments.write:
        arguments.write.write_text(page())
    else:
        print(page())


if __name__ == "__main__":
    main()
