"""The documents say what is so: names that exist, tables that are complete and current, a site that builds."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from agent57_jax import command_line, config
from docs import describe_settings, site

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "agent57_jax"


def definitions(source: str) -> set[str]:
    """Names of functions, classes, methods, attributes and constants in a module, the inner ones as Class.name."""
    found = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    visit(ast.parse(source).body, "")
    return found


# docs/configuration.md --------------------------------------------------------------------------------------------------------------


def test_the_page_of_settings_is_current() -> None:
    assert describe_settings.PAGE.read_text() == describe_settings.page(), "run `make docs`, or python -m docs.describe_settings"


def test_every_setting_is_described() -> None:
    declared = describe_settings.declarations(describe_settings.SOURCE.read_text())
    root = config.Settings()
    for section in (root, *(value for value in vars(root).values() if isinstance(value, config.Section))):
        for field in declared[type(section).__name__]:
            if not isinstance(getattr(section, field.name), config.Section):
                assert field.comment, f"{type(section).__name__}.{field.name} in config.py has no comment"
    assert all(f"| `{name}` |" in describe_settings.PAGE.read_text() for name in command_line.setting_names(root))


def test_comments_are_found_behind_and_above() -> None:
    source = "class A:\n    # over two\n    # lines\n    a: int = 1\n    b: str = 'x'  # behind, with # in it\n    c: int = 2\n"
    fields = describe_settings.declarations(source)["A"]
    assert [field.comment for field in fields] == ["over two lines", "behind, with # in it", ""]


# docs/algorithm.md ------------------------------------------------------------------------------------------------------------------


def unknown_names(text: str) -> list[str]:
    """Names of code on the page that nothing has: linked ones must be defined in their file, others be settings, files or folders."""
    settings = set(command_line.setting_names(config.Settings()))
    found = []
    for name, target in re.findall(r"\[`([^`]+)`\]\(([^)]+\.py)\)", text):
        file = ROOT / "docs" / target
        if not file.is_file() or name not in definitions(file.read_text()):
            found.append(f"{name} in {target}")
    for name in re.findall(r"`([^`\n]+)`", re.sub(r"\[`[^`]+`\]\([^)]+\)", "", text)):
        if name not in settings and not (ROOT / name).exists():
            found.append(name)
    return found


def test_every_name_on_the_page_of_the_algorithm_exists() -> None:
    assert not unknown_names((ROOT / "docs/algorithm.md").read_text())


def test_every_file_of_the_algorithm_is_on_its_page() -> None:
    text = (ROOT / "docs/algorithm.md").read_text()
    for file in (PACKAGE / "algorithm").glob("[a-z]*.py"):
        assert f"../agent57_jax/algorithm/{file.name}" in text


@pytest.mark.parametrize("text", ["[`squosh`](../agent57_jax/algorithm/value_transform.py)", "[`squash`](../nowhere.py)", "`replay.perod`"])
def test_a_name_that_nothing_has_is_seen(text: str) -> None:
    assert len(unknown_names(text)) == 1


# docs/architecture.md ---------------------------------------------------------------------------------------------------------------


def programs_in(source: str) -> dict[str, bool]:
    """What `parallel.sharded` or `jax.jit` makes in a module: whether it donates, as Class.attribute or by the function around it."""
    found = {}

    def calls(node: ast.AST) -> list[str]:
        made = [ast.unparse(call) for call in ast.walk(node) if isinstance(call, ast.Call)]
        return [text for text in made if text.startswith(("parallel.sharded(", "sharded(", "jax.jit("))]

    def visit(node: ast.AST, inside: str, function: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                visit(child, child.name, "")
            elif isinstance(child, ast.FunctionDef):
                if child.name != "sharded":
                    visit(child, inside, child.name)
            elif isinstance(child, (ast.Assign, ast.Return)) and calls(child):
                target = ast.unparse(child.targets[0]) if isinstance(child, ast.Assign) else ""
                name = target.replace("self", inside) if target.startswith("self.") else function
                found[name] = any("donate" in text for text in calls(child))
            else:
                visit(child, inside, function)

    visit(ast.parse(source), "", "")
    return found


def test_the_table_of_programs_is_complete() -> None:
    """Every program is listed, with whether it donates, and none that is not there."""
    table = (ROOT / "docs/architecture.md").read_text().split("## The jitted programs")[1].split("\n## ")[0]
    listed = {}
    for row in re.findall(r"(?m)^\| (`.*) \|$", table):
        names, where, donates, _ = row.split(" | ")
        listed |= {(name, where.strip("`")): donates != "nothing" for name in re.findall(r"`([^`]+)`", names)}
    of_start = [place for place in listed if place[0].endswith("*")]
    assert of_start == [("Programs.init_*", "programs.py")]
    in_code = {
        (name, file.relative_to(PACKAGE).as_posix()): donates
        for file in PACKAGE.rglob("*.py")
        if file.name != "doctor.py"  # which tries the devices and trains nothing
        for name, donates in programs_in(file.read_text()).items()
        if not name.startswith("Programs.init_")
    }
    assert ("Programs.act", "programs.py") in in_code
    assert {place: donates for place, donates in listed.items() if place not in of_start} == in_code


def test_programs_are_found() -> None:
    source = "class A:\n    def f(self):\n        self.x = jax.jit(g, donate_argnums=0)\n        y = sharded(g)(1)\n"
    source += "\ndef h():\n    return jax.jit(g)\n"
    assert programs_in(source) == {"A.x": True, "f": False, "h": False}


def test_the_table_of_modules_is_complete() -> None:
    table = (ROOT / "docs/architecture.md").read_text().split("## The jitted programs")[0]
    rows = "".join(re.findall(r"(?m)^\| (`[^|]*)\|", table))
    parts = [path for path in PACKAGE.iterdir() if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py")]
    assert not [path.name for path in parts if f"`{path.stem}{'/' * path.is_dir()}`" not in rows]


# The site, and the files beside it --------------------------------------------------------------------------------------------------


def test_the_site_builds_without_warnings_and_fetches_nothing(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "agent57_jax/algorithm/retrace.py.html").exists()  # what a page links to
    index = (tmp_path / "index.html").read_text()
    for page in (ROOT / "docs").glob("*.md"):  # a page that nothing leads to is not read
        assert f'href="docs/{page.stem}.html"' in index or page.name == "configuration_head.md"
    for page in tmp_path.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r"<(?:script|img|iframe)[^>]* src=\"(?:https?:)?//|<link[^>]* href=\"(?:https?:)?//", text), page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", sheet.read_text()), sheet


def test_lists_are_nested_as_the_site_wants_it() -> None:
    page = "1. one\n   goes on\n\n       code\n\n   more\n2. two\n\ntext\n\n- a\n  b\n- c\n\n  | t |\n\n```yaml\na:\n  - b\n```\n  c"
    wanted = (
        "1. one\n    goes on\n\n        code\n\n    more\n\n2. two\n\ntext\n\n- a\n    b\n- c\n\n    | t |\n\n```yaml\na:\n  - b\n```\n  c"
    )
    assert site.nested(page) == wanted


def test_the_citation_is_valid_and_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["title"], citation["version"], citation["license"]) == (project["name"], project["version"], project["license"])
    assert citation["authors"] == [{"name": "The agent57_jax developers"}]
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year"} <= set(reference)
        assert all({"family-names", "given-names"} <= set(author) for author in reference["authors"])


def test_the_picture_of_the_data_flow_is_readable_in_light_and_dark() -> None:
    """It has a ground of its own, since a page's theme need not be that of the reader's system."""
    text = (ROOT / "docs/images/dataflow.svg").read_text()
    used = set(re.findall(r'class="(\w+)"', text))
    light, dark = text.split("@media (prefers-color-scheme: dark)")
    for name in used:
        assert f".{name} {{" in light and f".{name} {{" in dark, name
    assert 'class="ground" width="960" height="470"' in text
