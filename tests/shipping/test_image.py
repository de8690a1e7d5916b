"""What can be seen of the image without building it."""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from agent57_jax import __main__ as words
from tests.shipping import dockerfile

ROOT = dockerfile.ROOT
INSTRUCTIONS = dockerfile.read()
LOCKS = ("requirements-cpu.lock", "requirements-cuda.lock")
NAMES = [instruction.name for instruction in INSTRUCTIONS]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def values(name: str) -> list[str]:
    return [instruction.value for instruction in INSTRUCTIONS if instruction.name == name]


def pins(lock: str) -> dict[str, str]:
    """Package -> version; ValueError for a line that is neither pin nor hash."""
    found = {}
    for line in (ROOT / lock).read_text().splitlines():
        if line.startswith(("#", "    --hash=sha256:")):
            continue
        match = re.fullmatch(r"([\w.-]+)==([\w.]+)(?: ; .*?)?( \\)?", line)
        if not match:
            raise ValueError(f"{lock}: {line}")
        found[match[1]] = match[2]
    return found


def test_the_image_has_the_python_of_the_project_and_says_which_version_it_is() -> None:
    (base,) = values("FROM")
    assert re.fullmatch(r"python:3\.1[12]-slim-[a-z]+", base)
    assert f">={base.partition(':')[2].partition('-')[0]}" == PROJECT["requires-python"]
    labels = dockerfile.pairs(values("LABEL")[0])
    said = [labels[f"org.opencontainers.image.{key}"] for key in ("title", "description", "version", "licenses")]
    assert said == [PROJECT[key] for key in ("name", "description", "version", "license")]


def test_commands_are_words_and_no_shell_stands_before_python() -> None:
    """In shell form they would be no JSON."""
    assert json.loads(values("ENTRYPOINT")[-1])[:2] == ["python", "-m"] and isinstance(json.loads(values("CMD")[-1]), list)
    assert json.loads(values("HEALTHCHECK")[0].partition("CMD ")[2])[:2] == ["python", "-m"]


def test_the_user_is_a_number_and_not_root_and_the_cache_of_programs_lies_in_the_volume() -> None:
    assert NAMES.index("USER") < NAMES.index("ENTRYPOINT")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", values("USER")[-1])
    assert "RUN" not in NAMES[NAMES.index("USER") :]  # it may not install
    (volume,) = values("VOLUME")
    assert dockerfile.pairs(values("ENV")[0])["JAX_COMPILATION_CACHE_DIR"].startswith(f"{volume}/")


def test_what_is_copied_is_there_and_nothing_that_changes_often_stands_before_the_packages() -> None:
    lock, everything = values("COPY")
    assert (lock, everything) == ("${LOCK} ./", ". .")
    (default,) = (dockerfile.pairs(value)["LOCK"] for value in values("ARG"))
    assert default in LOCKS
    for name in LOCKS:
        assert (ROOT / name).exists() and not dockerfile.is_ignored(name)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_exact_has_hashes_and_the_tested_versions(lock: str) -> None:
    found, tested, text = pins(lock), pins("requirements.lock"), (ROOT / lock).read_text()
    assert all(re.search(rf"^{re.escape(name)}==.*\\\n    --hash=sha256:[0-9a-f]{{64}}", text, re.M) for name in found)
    different = {name: version for name, version in found.items() if tested.get(name, version) != version}
    assert not different
    assert {"jax", "envpool", "wandb", "imageio-ffmpeg", "gymnasium", "tensorboard"} <= set(found)
    assert not {"pytest", "ruff", "mypy"} & set(found)
    assert ("jax-cuda13-plugin" in found) == ("cuda" in lock)


def test_the_image_holds_the_program_and_little_else() -> None:
    copied = dockerfile.context()
    listed = subprocess.run(["git", "ls-files", "agent57_jax", "configs"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"train.py", "evaluate.py", "LICENSE", *listed.stdout.split()} <= set(copied)
    heads = {pathlib.PurePosixPath(name).parts[0] for name in copied}
    assert not heads & {"tests", "docs", ".git", ".ci", "deploy", "runs", ".venv"}
    assert sum((ROOT / name).stat().st_size for name in copied) < 10e6
    compiled = [f"agent57_jax/{folder}__pycache__/lstm.cpython-311.pyc" for folder in ("", "networks/")]
    for name in (*compiled, "runs/zaxxon/metrics.jsonl", ".git/config", "train.py.orig"):  # git does not list these
        assert dockerfile.is_ignored(name)


@pytest.mark.parametrize("word", words.WORDS)
def test_every_word_starts_something_that_the_image_has(word: str) -> None:
    target, copied = words.WORDS[word][0], dockerfile.context()
    package = target.split(".")[0]
    if target.endswith(".py") or package == "agent57_jax":
        file = target if target.endswith(".py") else target.replace(".", "/")
        assert {file, f"{file}.py", f"{file}/__main__.py"} & set(copied)
    else:
        assert all(package in pins(lock) for lock in LOCKS)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent57_jax", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_what_is_not_understood_ends_in_one_line_and_without_a_word_it_says_which_there_are() -> None:
    for argument, hint in (("trian", ". Did you mean train? Commands: train, evaluate, "), ("--config=configs/zaxxon.py", "")):
        done = run(argument)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(f"error: no command '{argument}'{hint}"), done.stderr
    assert run().stdout == run("--help").stdout == f"{words.USAGE}\n"
    assert all(word in words.USAGE for word in words.WORDS)


def test_a_program_behind_a_word_is_the_one_without_it() -> None:
    command = [sys.executable, "train.py", "--help"]
    plain = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60).stdout
    here = str(ROOT / "train.py")
    assert "--coordinator" in plain and run("train", "--help").stdout.replace(here, "train.py") == plain.replace(here, "train.py")
