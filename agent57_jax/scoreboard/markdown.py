"""The record as Markdown."""

from collections.abc import Mapping
from typing import Any

from agent57_jax.scoreboard.tables import Table, all_tables


def render(record: Mapping[str, Any]) -> str:
    """The text of scoreboard.md."""
    protocol = "\n".join(f"- {_escaped(line)}" for line in record["protocol"])
    return "\n\n".join(["# Scoreboard", f"Made {record['made']}.", *map(_table, all_tables(record)), f"## Protocol\n\n{protocol}"]) + "\n"


def _table(table: Table) -> str:
    lines = [
        [_escaped(name) for name in table.columns],
        ["--:" if is_number else "---" for is_number in table.numeric()],
        *([_escaped(cell.text) for cell in row] for row in table.rows),
    ]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(filter(None, [f"## {_escaped(table.title)}", _escaped(table.note), body]))


def _escaped(text: str) -> str:
    """Text in which names of files cannot end a cell or begin a tag."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
