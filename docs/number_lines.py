"""Renews the line numbers in the links of docs/algorithm.md: [`Actor.act`](../agent57_jax/agent/actor.py) gets #L and its line.

python -m docs.number_lines            # `make docs` does this, and builds the site
"""

import argparse
import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "algorithm.md"
LINK = re.compile(r"\[`([^`]+)`\]\(([^)#]+\.py)(?:#L\d+)?\)")


def definitions(source: str) -> dict[str, int]:
    """Lines of the functions, classes, methods, attributes and constants of a module, the inner ones as Class.name."""
    found: dict[str, int] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found[prefix + node.name] = node.lineno
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update({prefix + target.id: target.lineno for target in targets if isinstance(target, ast.Name)})

    visit(ast.parse(source).body, "")
    return found


def numbered(text: str) -> str:
    """A page's text with the lines of today; a name that its file does not define stays without one."""

    def link(match: re.Match[str]) -> str:
        name, target = match.groups()
        file = PAGE.parent / target
        line = definitions(file.read_text()).get(name) if file.is_file() else None
        return f"[`{name}`]({target}{f'#L{line}' if line else ''})"

    return LINK.sub(link, text)


if __name__ == "__main__":
    argparse.ArgumentParser(description="Renew the line numbers in the links of docs/algorithm.md.").parse_args()
    PAGE.write_text(numbered(PAGE.read_text()))
