"""The Dockerfile as its instructions, and what .dockerignore lets into the image."""

import json
import pathlib
import re
import string
import subprocess
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]


class Instruction(NamedTuple):
    """One instruction, with continued lines joined and comments removed; RUN keeps its text for the shell."""

    name: str
    value: str

    def exec_form(self) -> list[str]:
        """The words of a JSON array; ValueError for shell form."""
        words = json.loads(self.value)
        if not isinstance(words, list):
            raise ValueError(f"{self.name} {self.value} is no array")
        return words


def read(path: pathlib.Path = ROOT / "Dockerfile") -> list[Instruction]:
    """The instructions of a Dockerfile with one stage and no here-documents."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = []
    for statement in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, value = statement.split(None, 1)
        found.append(Instruction(name, value))
    return found


def pairs(value: str) -> dict[str, str]:
    """NAME=VALUE NAME="VALUE" ... of ENV and LABEL."""
    return {name: quoted or bare for name, quoted, bare in re.findall(r'([\w.]+)=(?:"([^"]*)"|(\S+))', value)}


def expand(value: str, variables: dict[str, str]) -> str:
    """Replaces ${NAME} as ARG and ENV have it; KeyError for a name that neither has."""
    return string.Template(value).substitute(variables)


def is_ignored(name: str, path: pathlib.Path = ROOT / ".dockerignore") -> bool:
    """Whether .dockerignore keeps a file out, a path relative to the project; the last pattern that fits it or a folder above it wins."""
    ignored = False
    file = pathlib.PurePosixPath(name)
    for line in path.read_text().splitlines():
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
