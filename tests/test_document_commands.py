"""Every command in the documents works: all are parsed, and what two cores can run in seconds is run (tests/document_commands.py)."""

import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request

import pytest

from docs.number_lines import definitions
from tests import document_commands as documents

ROOT = documents.ROOT
COMMANDS = list(dict.fromkeys(tuple(words) for command in documents.collect() for words in documents.simple(command.text)))
KINDS = {words: documents.tried(words) for words in COMMANDS}
RUNNING = list(dict.fromkeys(tuple(documents.shrunk(words)) for words, kind in KINDS.items() if kind is not None and kind.runs))


def test_there_are_commands_and_each_is_of_a_kind() -> None:
    assert ("make", "train") in COMMANDS and ("python", "train.py", "--config=configs/zaxxon.py") in COMMANDS
    assert not [words for words, kind in KINDS.items() if kind is None], "no rule of tests/document_commands.py knows how to try these"


def test_each_runs_or_says_why_not_and_the_tests_that_are_named_exist() -> None:
    for words, kind in KINDS.items():
        assert kind is not None and (kind.runs or kind.test or kind.why), words
        file, _, name = kind.test.partition("::")
        assert not file or (ROOT / file).is_file(), kind
        assert not name or name in definitions((ROOT / file).read_text()), kind
    ways = [kind.runs or kind.elsewhere for kind in KINDS.values() if kind is not None]
    assert sum(ways) > 0.6 * len(ways)


def test_packages_are_installed_from_this_folder_with_extras_that_it_has() -> None:
    """It is in no index: its own name would be somebody else's package, or none."""
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    asked = [word for words in COMMANDS if words[0] == "pip" for word in words[2:]]
    assert not [word for word in asked if word.startswith("agent57")]
    named = {extra for word in asked if (found := re.fullmatch(r"\.\[(.*)\]", word)) for extra in found.group(1).split(",")}
    assert named and named <= extras


def test_the_list_of_commands_is_current() -> None:
    assert (ROOT / "docs/commands.md").read_text() == documents.page(), "run `make docs`, or python -m tests.document_commands"


def test_paths_in_commands_exist() -> None:
    assert not {words: missing for words in COMMANDS if (missing := documents.missing_paths(words))}


def test_arguments_are_those_that_the_programs_take() -> None:
    """Commands of the project, those that make would run, and those that start in a container."""
    ours = [list(words) for words, kind in KINDS.items() if kind is not None and kind.kind == "ours"]
    for words, kind in KINDS.items():
        if kind is not None and kind.kind == "make":
            more, problem = documents.made(words)
            assert problem is None, f"{' '.join(words)}: {problem}"
            ours += [one for one in more if one[0] == "python" and documents.program(one)]
        elif kind is not None and kind.kind == "container" and documents.in_container(words):
            ours.append(documents.in_container(words))
    ours = [list(words) for words in dict.fromkeys(map(tuple, ours))]
    assert len(ours) > 20
    found = zip(ours, documents.parse_all(ours), strict=True)
    assert not [f"{' '.join(words)}: {problem}" for words, problem in found if problem]


# The rules themselves ---------------------------------------------------------------------------------------------------------------

PAGE = """Text with `make test` and `python evaluate.py
--workdir=RUN`, but not `make` alone or `config.json`.

    python train.py --config=configs/zaxxon.py  # a comment
    A=1 python -m benchmarks.guard | tee log

    A="--b=1 --c" python train.py --config=configs/boxing.py

Text.

    Don't take this for a command.

- a list

    18:15:16 resumed from checkpoint 2

```sh
mkdir -p runs && \\
    ruff check .
frobnicate --all
python - <<'END' | xargs python train.py --config=configs/atari.py
import os
END
```

```python
import docker
```

    command: ["python", "train.py",
              "--config=configs/zaxxon.py"]
"""


def test_commands_are_found_and_nothing_else() -> None:
    found = [" ".join(words) for text in documents.commands_in(PAGE) for words in documents.simple(text)]
    assert found == [
        "python train.py --config=configs/zaxxon.py",
        "python -m benchmarks.guard",
        "tee log",
        "python train.py --config=configs/boxing.py",
        "mkdir -p runs",
        "ruff check .",
        "frobnicate --all",
        "python -",
        "python train.py --config=configs/atari.py",
        "python train.py --config=configs/zaxxon.py",
        "make test",
        "python evaluate.py --workdir=runs/zaxxon",
    ]


def test_a_command_of_no_kind_is_seen() -> None:
    assert documents.tried(["frobnicate", "--all"]) is None and documents.tried(["python"]) is None
    assert documents.tried(["python", "-m", "frobnicate.all"]) is not None  # which the parser then finds missing
    assert documents.tried(["python", "-m", "uv"]) is None


def test_wrong_arguments_are_seen() -> None:
    wrong = [
        ["python", "train.py", "--config=configs/zaxon.py"],
        ["python", "train.py", "--config=configs/zaxxon.py", "--config.replay.period=200"],
        ["python", "train.py", "--config=configs/zaxxon.py:huge"],
        ["python", "evaluate.py", "--episode=1"],
        ["python", "-m", "benchmarks.guards"],
        ["python", "-m", "reproductions.random_coin", "--profile=tpu"],
        ["python", "-m", "agent57_jax.agent.replay"],
    ]
    assert all(documents.parse_all(wrong))
    assert documents.parse_all([["python", "train.py", "--config=configs/zaxxon.py"], ["python", "evaluate.py", "--episodes=1"]]) == [
        None,
        None,
    ]
    assert documents.made(["make", "trian"])[1] and documents.missing_paths(["pip", "install", "-r", "requirement.txt"])


def test_a_program_that_would_start_work_is_stopped(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    made = tmp_path / "made"
    (tmp_path / "works.py").write_text(f"import subprocess\nsubprocess.run(['touch', {str(made)!r}])\n")
    some = f"import argparse, pathlib\nargparse.ArgumentParser().parse_known_args()\npathlib.Path({str(made)!r}).touch()\n"
    (tmp_path / "reads.py").write_text(some)
    (tmp_path / "ends.py").write_text("")
    (tmp_path / "prints.py").write_text("if __name__ == '__main__':\n    print(1)\n")
    assert "starts a process" in str(documents.parse(["python", "works.py"]))
    assert documents.parse(["python", "reads.py", "--any=1"]) is None
    assert "without reading" in str(documents.parse(["python", "ends.py"]))
    assert documents.parse(["python", "prints.py"]) is None and documents.parse(["python", "prints.py", "--any=1"])
    assert not made.exists()


def test_a_command_in_a_container_is_the_entry_points() -> None:
    words = ["docker", "run", "--gpus", "all", "-v", "/x:/runs", "agent57_jax", "--config=configs/zaxxon.py"]
    assert documents.in_container(words)[-1] == "--config=configs/zaxxon.py" and documents.program(documents.in_container(words))
    other = [*words[:2], "--entrypoint", "python", "agent57_jax", "evaluate.py", "--workdir=/runs/zaxxon"]
    assert documents.in_container(other) == ["python", "evaluate.py", "--workdir=/runs/zaxxon"]
    assert documents.in_container(tuple(other)) == documents.in_container(other)
    assert documents.in_container(("docker", "build", "-t", "agent57_jax", ".")) == []


def test_commands_become_small() -> None:
    words = ["python", "train.py", "--config=configs/zaxxon.py:laptop,ngu", "--config.replay.capacity=9", "--workdir=runs/a"]
    assert documents.shrunk(words)[:3] == ["python", "train.py", "--config=configs/zaxxon.py:smoke,ngu"]
    assert documents.shrunk(words)[3:] == [*documents.SMALL, "--workdir=FOLDER/new"]
    assert documents.shrunk(["python", "-m", "x", "runs/a", "--json=/data/runs/b/c.json", "runs", "prunes"])[3:] == [
        "FOLDER/trained",
        "--json=FOLDER/trained",
        "FOLDER/trained",
        "prunes",
    ]
    assert documents.shrunk(["python", "-m", "benchmarks.precision"]) == documents.shrunk(
        ["python", "-m", "benchmarks.precision", "--config=configs/zaxxon.py"]
    )
    assert documents.shrunk(["make", "atari57", "GAMES=Boxing-v5 Pong-v5"])[-5:-1] == [
        "GAMES=Boxing-v5",
        "SEEDS=0",
        "PROFILE=smoke",
        "RUNS=FOLDER/new",
    ]
    assert "ARGS=--episodes=1" in documents.shrunk(["make", "watch", "WORKDIR=runs/zaxxon"])
    assert documents.shrunk(["make", "test-slow"])[:2] == ["env", documents.COLLECT]
    assert documents.shrunk(["pip", "install", "-e", ".[wandb]"])[3:] == [
        "install",
        *("--dry-run", "--no-index", "--quiet"),
        *("--no-build-isolation", "-e", ".[wandb]"),
    ]


# Whole runs -------------------------------------------------------------------------------------------------------------------------


def run(words: list[str], folder: pathlib.Path) -> None:
    """Runs a command in a copy of the tree's files, so that what it writes beside them is lost."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION")}
    environment["WANDB_MODE"] = "offline"
    environment["PATH"] = f"{pathlib.Path(sys.executable).parent}:{environment['PATH']}"
    command = [sys.executable if words[0].startswith("python") else words[0], *(word.replace("FOLDER", str(folder)) for word in words[1:])]
    if words[0] == "tensorboard":
        return shown_by_a_server(command, environment)
    if "watch" in words:  # plays in a terminal, which `script` makes
        environment |= {"TERM": "xterm-256color"}
        command = ["script", "--quiet", "--return", "--command", shlex.join(command), "/dev/null"]
    done = subprocess.run(
        command, cwd=folder / "tree", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def shown_by_a_server(command: list[str], environment: dict[str, str]) -> None:
    """Starts a server, fetches the page whose address it prints, and ends it."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            lines = []
            for line in server.stdout:
                lines.append(line)
                if found := re.search(r"http://\S+:\d+/", line):
                    with urllib.request.urlopen(found.group(), timeout=60) as page:
                        assert b"TensorBoard" in page.read()
                    return
            raise AssertionError("".join(lines))
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a copy of the tree and a trained run."""
    made = tmp_path_factory.mktemp("documents")
    unwanted = shutil.ignore_patterns(".*", "runs", "site", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, made / "tree", ignore=unwanted)
    (made / "tree" / ".venv").symlink_to(sys.prefix)  # what make looks for
    train = ["python", "train.py", "--config=configs/zaxxon.py:smoke", *documents.SMALL]
    run([*train, "--workdir=FOLDER/trained"], made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("words", RUNNING, ids=" ".join)
def test_a_command_runs(words: tuple[str, ...], folder: pathlib.Path) -> None:
    if "tensorboard" in words and importlib.util.find_spec("tensorboard") is None:
        pytest.skip("TensorBoard is not installed")
    shutil.rmtree(folder / "new", ignore_errors=True)
    run(list(words), folder)


@pytest.mark.slow
def test_xla_knows_its_flags() -> None:
    """Of the documents' variable: it ends a program that is given one it does not know."""
    flags = [found for command in documents.collect() for found in re.findall(r'XLA_FLAGS="([^"]*)"', command.text)]
    assert flags
    for value in flags:
        environment = os.environ | {"XLA_FLAGS": value}
        subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment, check=True, timeout=120)
