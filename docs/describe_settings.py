"""Writes docs/configuration.md: a head written by hand, and tables of all settings as agent57_jax/config/settings.py declares them.

    python -m docs.describe_settings            # `make docs` does this, and builds the site

A field's description is the comment behind it, or the lines of comment above it.
"""

import argparse
import ast
import enum
import pathlib
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from agent57_jax import config
from agent57_jax.training import run_folder
from configs import atari, profiles

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "configuration.md"
HEAD = ROOT / "docs" / "configuration_head.md"  # no page of its own
SOURCE = ROOT / "agent57_jax" / "config" / "settings.py"


class Field(NamedTuple):
    """One setting, or one value of an enumeration."""

    name: str
    type: str  # as it is annotated
    comment: str  # empty where there is none


def comment_at(lines: list[str], first: int, last: int) -> str:
    """The comment behind line `last` of a statement, or the block of comments that ends above line `first`; lines count from 1."""
    behind = re.search(r"  # (.*)$", lines[last - 1])
    if behind:
        return behind.group(1)
    above = []
    while first >= 2 and lines[first - 2].strip().startswith("# "):
        above.insert(0, lines[first - 2].strip().removeprefix("# "))
        first -= 1
    return " ".join(above)


def declarations(source: str) -> dict[str, list[Field]]:
    """The fields and enumeration values of every class in a module's source."""
    lines = source.splitlines()
    found: dict[str, list[Field]] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = found[node.name] = []
        for statement in node.body:
            comment = comment_at(lines, statement.lineno, statement.end_lineno or statement.lineno)
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                fields.append(Field(statement.target.id, ast.unparse(statement.annotation), comment))
            elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                fields.append(Field(statement.targets[0].id, "", comment))
    return found


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, bool) or value is None:
        return f"`{value}`"
    if isinstance(value, int) and value >= 10_000:
        return f"`{value:_}`"
    return f"`({','.join(map(str, value))})`" if isinstance(value, (tuple, list)) else f"`{value}`"


def described(field: Field, value: Any, declared: Mapping[str, list[Field]]) -> str:
    """A field's comment, followed by the values that it may have if it is a choice."""
    if not isinstance(value, enum.Enum):
        return field.comment
    comments = {one.name: one.comment for one in declared[type(value).__name__]}
    choices = [f"`{member.value}`" + (f" ({comments[member.name]})" if comments[member.name] else "") for member in type(value)]
    return "; ".join(filter(None, [field.comment, f"one of {', '.join(choices)}"]))


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Lines of a Markdown table and the empty line behind it."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    yield ""


def sections(declared: Mapping[str, list[Field]]) -> Iterator[str]:
    """The tables of all settings."""
    root = config.Settings()
    parts = {name: value for name, value in vars(root).items() if isinstance(value, config.Section)}
    for prefix, section in [("", root), *parts.items()]:
        title, _, more = (type(section).__doc__ or "").partition("\n\n")
        yield from (f"### {prefix or 'The run'}", "", " ".join(title.split()), "", *filter(None, [textwrap.dedent(more)]))
        rows = []
        for field in declared[type(section).__name__]:
            value = getattr(section, field.name)
            if field.name not in parts or prefix:
                name = f"{prefix}.{field.name}".lstrip(".")
                rows.append([f"`{name}`", f"`{field.type}`", shown(value), described(field, value, declared)])
        yield from table(["setting", "type", "default", "description"], rows)


def differences(arguments: list[str]) -> Iterator[str]:
    """A table of the settings in which the Atari configs of these profiles or agents differ."""
    flat = {argument: config.flatten(config.to_dict(atari.get_config(argument))) for argument in arguments}
    names = [name for name in flat[arguments[0]] if len({str(values[name]) for values in flat.values()}) > 1]
    first = flat[arguments[0]]
    cells = [[shown(values[name]) if values is first or values[name] != first[name] else "" for values in flat.values()] for name in names]
    yield from table(["setting", *arguments], [[f"`{name}`", *row] for name, row in zip(names, cells, strict=True)])


def free_settings() -> str:
    """What a resumed run may change, as its trainer has it."""
    names = [f"`{name}*`" if name.endswith(".") else f"`{name}`" for name in run_folder.FREE_SETTINGS]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def page() -> str:
    """The whole page."""
    lines = [
        HEAD.read_text().rstrip().replace("FREE_SETTINGS", free_settings()),
        "",
        "## What profiles change",
        "",
        "Values on Atari; an empty cell has the value of the first column. Other tasks differ in sizes: see their files in `configs/`.",
        "",
        *differences(list(profiles.PROFILES)),
        "## What agents change",
        "",
        "Values at the paper's sizes on Atari; an empty cell has the value of the first column.",
        "",
        *differences(["agent57", *(name for name in reversed(profiles.AGENTS) if name != "agent57")]),
        "## All settings",
        "",
        *sections(declarations(SOURCE.read_text())),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description="Write docs/configuration.md from the settings.").parse_args()
    PAGE.write_text(page())
