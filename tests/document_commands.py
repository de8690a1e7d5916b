"""The commands in the documents, as markdown-it reads them."""

import pathlib
import re
import shlex
from collections.abc import Iterator

from markdown_it import MarkdownIt

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "benchmarks/README.md", "reproductions/README.md", "reproductions/results/README.md")
SHELL = ("", "sh", "bash", "shell", "console")  # languages of a block; an indented one has none
PROGRAMS = ("python", "python3", "make", "pip", "docker", "sbatch", "gcloud", "kubectl")  # what can be checked without running it


def blocks(text: str) -> Iterator[str]:
    """The shell's code blocks of a page, fenced or indented, with their continued lines joined."""
    for token in MarkdownIt().parse(text):
        if token.type in ("fence", "code_block") and token.info in SHELL:
            yield re.sub(r"\\\n\s*", " ", token.content)


def spans(text: str) -> Iterator[str]:
    """The code spans of a page; a script that is named with its arguments is Python's."""
    for token in MarkdownIt().enable("table").parse(text):
        for child in token.children or ():
            if child.type == "code_inline" and " " in child.content:
                yield re.sub(r"^(train|evaluate)\.py ", r"python \g<0>", child.content)


def words_in(line: str) -> Iterator[list[str]]:
    """The words of each command in a line that begins with one of PROGRAMS, without variables before it and comments behind it."""
    for part in re.split(r"\s(?:\|{1,2}|&&|;)\s", line.removeprefix("$ ")):
        try:
            words = shlex.split(part, comments=True)
        except ValueError:  # prose: an apostrophe opens a quotation
            continue
        while words and (words[0] in ("sudo", "exec") or re.fullmatch(r"[A-Z_]+=.*", words[0])):
            words = words[1:]
        if words and (name := pathlib.PurePath(words[0]).name) in PROGRAMS:
            yield [name, *words[1:]]


def commands_in(text: str) -> list[list[str]]:
    """All commands of a page, as words."""
    lines = [*(line for block in blocks(text) for line in block.splitlines()), *spans(text)]
    return [words for line in lines for words in words_in(line)]


def collect() -> dict[tuple[str, ...], str]:
    """The commands of all documents, each with a page that has it."""
    pages = [page for pattern in PAGES for page in sorted(ROOT.glob(pattern))]
    return {tuple(words): page.relative_to(ROOT).as_posix() for page in pages for words in commands_in(page.read_text())}
