"""What a command in the documents names is there: files, modules, words of `python -m agent57_jax`, targets of make, flags, settings."""

import ast
import functools
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence

import pytest

from agent57_jax import __main__ as entry
from agent57_jax import presets
from agent57_jax.config import Settings
from tests.document_commands import ROOT, collect, commands_in

COMMANDS = collect()
FILE = re.compile(r"[a-z][\w./-]*\.(?:py|txt|lock|ya?ml|sh|sbatch|toml)|(?:configs|docs|tests|deploy)/[a-z]\S*")  # capitals are filled in
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SETTINGS = {f"config.{name}" for name in presets.setting_names(Settings())}


@functools.cache
def flags_of(module: str) -> frozenset[str]:
    """Names of the flags that a module of the project defines, itself or by what it imports."""
    seen, found, waiting = set(), set(), [module]
    while waiting:
        name = waiting.pop()
        folder = ROOT / name.replace(".", "/")
        file = next((file for file in (folder.with_suffix(".py"), folder / "__main__.py", folder / "__init__.py") if file.exists()), None)
        if file is None or name in seen:
            continue
        seen.add(name)
        source = file.read_text()
        found |= set(re.findall(r'(?:DEFINE_\w+|define_path)\(\s*"(\w+)"|add_argument\(\s*"--(\w+)"', source))
        waiting += re.findall(r'run_module\("([\w.]+)"', source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return frozenset({"help", "config"} | {first or second for first, second in found})


def started(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The module or file that a command starts, None if it is not Python's, and the words behind it."""
    rest = list(words[1:])
    if words[0] == "docker":
        images = [i for i, word in enumerate(words) if re.fullmatch(r"agent57_jax(:\w+)?", word)]
        rest = ["-m", "agent57_jax", *words[images[0] + 1 :]] if words[1] == "run" and images else []
    elif not words[0].startswith("python"):
        return None, rest
    name, rest = (rest[1], rest[2:]) if rest[:1] == ["-m"] else (rest[0], rest[1:]) if rest[:1] and rest[0].endswith(".py") else (None, [])
    if name == "agent57_jax" and rest and rest[0] in entry.WORDS:
        return entry.WORDS[rest[0]][0], rest[1:]
    return name, rest


def problems(words: Sequence[str]) -> list[str]:
    """What a command names and nothing has."""
    named = [part for word in words[1:] for part in word.split("=")]
    missing = [path for path in named if FILE.fullmatch(path) and not (ROOT / path.split(":")[0]).exists()]
    if words[0] == "make":
        missing += [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word) and word not in TARGETS]
    if words[0] == "pip":  # this project is in no index: its own name would be somebody else's package
        missing += [word for word in words if word.startswith("agent57")]
        missing += [extra for word in words if word.startswith(".[") for extra in word[2:-1].split(",") if extra not in EXTRAS]
    name, rest = started(words)
    for config in re.findall(r"--config=configs/([a-z]\w*)\.py(?::([a-z]\S*))?", " ".join(words)):
        try:
            importlib.import_module(f"configs.{config[0]}").get_config(*filter(None, config[1:]))
        except (ImportError, ValueError) as error:
            missing.append(str(error))
    if name is None or name in ("configs/NAME.py", "reproductions.NAME"):
        return missing
    module = name.removesuffix(".py")
    if module == "agent57_jax" and [word for word in rest if re.fullmatch(r"[a-z]+", word)]:
        missing += rest[:1]  # no word of its own
    elif importlib.util.find_spec(module.split(".")[0]) is None or importlib.util.find_spec(module) is None:
        missing.append(name)
    elif (ROOT / module.split(".")[0]).exists() or (ROOT / name).exists():
        flags = [found for word in rest if (found := re.fullmatch(r"\[?--(?:no)?([a-z][a-z0-9_.]*)(?:=.*)?\]?", word))]
        missing += [flag.group(1) for flag in flags if flag.group(1) not in flags_of(module) | SETTINGS]
    return missing


def test_what_commands_name_exists() -> None:
    assert len(COMMANDS) > 80
    assert not {" ".join(words): (page, missing) for words, page in COMMANDS.items() if (missing := problems(words))}


PAGE = """Text with `make test` and `python evaluate.py
--workdir=RUN`, but not `make`, `Don't` or `config.json`.

    A="--b=1 --c" python -m benchmarks.guard | tee log  # a comment

- an item

  ```sh
  mkdir -p runs && \\
      make docs
  ```

| a | table |
|---|---|
| b | `train.py --doctor` |

```python
python = docker
```
"""


def test_commands_are_found_and_nothing_else() -> None:
    assert [" ".join(words) for words in commands_in(PAGE)] == [
        "python -m benchmarks.guard",
        "make docs",
        "make test",
        "python evaluate.py --workdir=RUN",
        "python train.py --doctor",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "python train.py --config=configs/zaxxon.py:huge",
        "python train.py --config=configs/zaxxon.py --config.replay.perod=200",
        "python -m benchmarks.guards",
        "python -m reproductions.random_coin --profiles=cpu",
        "python -m agent57_jax watsh --workdir=runs/zaxxon",
        "docker run --gpus all -v /x:/runs agent57_jax train --configs=configs/zaxxon.py",
        "make trian",
        "pip install -r requirement.txt",
        "pip install '.[videos]'",
        "pip install agent57_jax",
    ],
)
def test_what_does_not_exist_is_seen(line: str) -> None:
    (words,) = commands_in(f"    {line}\n")
    assert problems(words)


@pytest.mark.slow
def test_xla_knows_its_flags() -> None:
    """It ends a program that is given one it does not know."""
    values = [found for page in ROOT.glob("docs/*.md") for found in re.findall(r'XLA_FLAGS="([^"]*)"', page.read_text())]
    assert values
    for value in values:
        subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=os.environ | {"XLA_FLAGS": value}, check=True, timeout=120)
