"""The Dockerfile as its instructions, and what .dockerignore lets into the image."""

import pathlib
import re
import subprocess
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]


class Instruction(NamedTuple):
    """One instruction, with continued lines joined and comments removed; RUN keeps its text for the shell."""

    name: str
    value: str


def read() -> list[Instruction]:
    """The instructions of the Dockerfile, which has one stage and no here-documents."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [Instruction(*statement.split(None, 1)) for statement in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()]


def pairs(value: str) -> dict[str, str]:
    """NAME=VALUE NAME="VALUE" ... of ENV and LABEL."""
    return {name: quoted or bare for name, quoted, bare in re.findall(r'([\w.]+)=(?:"([^"]*)"|(\S+))', value)}


def is_ignored(name: str) -> bool:
    """Whether .dockerignore keeps a file out, a path relative to the project; the last pattern that fits it or a folder above it wins."""
    ignored = False
    file = pathlib.PurePosixPath(name)
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            parts = re.split(r"(\*\*/|\*)", pattern.removeprefix("!"))
            expression = "".join({"**/": "(?:.*/)?", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
            if any(re.fullmatch(expression, str(path)) for path in (file, *file.parents)):
                ignored = not pattern.startswith("!")
    return ignored


def context() -> list[str]:
    """The files that `COPY . .` copies."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if not is_ignored(name)]
