"""The documents say what is so: names that exist, tables that are complete and current, a site that builds."""

import ast
import importlib
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml

from agent57_jax import config, presets
from agent57_jax.monitoring.console import Console
from agent57_jax.training import memory, run_folder
from docs import describe_settings, site
from tests import document_commands, test_layout

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "agent57_jax"


# README.md, CONTRIBUTING.md ---------------------------------------------------------------------------------------------------------


def test_the_output_on_the_page_of_training_is_what_a_run_prints() -> None:
    sample = (ROOT / "docs/training.md").read_text().split("## Output")[1].split("\n## ")[0]

    def shape(line: str) -> str:
        return re.sub(r"[\d.:]+[kM%]?(?:[dhms]\d*)*", "#", line)

    console = Console(10**9, "", is_shown=False)
    seconds = {"throughput/frames_per_second": 1908.9, "throughput/updates_per_second": 0, "throughput/steps_per_second": 477.0}
    first = seconds | {"replay/fill": 0.04, "novelty/alpha": 2.03}
    printed = []
    for seen in (first, first | {"loss/extrinsic": 0.5, "loss/intrinsic": 1566.9}):
        counters = {"frames": 4 * 7888, "steps": 7888, "updates": 0, "episodes": 0, "seconds": 25.0 + len(printed)}
        console.update(counters, seen)
        printed.append(console.plain_line(counters))
    shown = re.findall(r"(?m)^    (\d\d:\d\d:\d\d [\d.]+%.*)", sample)
    assert [shape(line) for line in shown] == [shape(line) for line in printed]
    rows = re.findall(r"(?m)^      (\w.*?) +\d+\.\d{3}$", sample)
    assert "replay" in rows and all(f'"{row}' in pathlib.Path(memory.__file__).read_text() for row in rows)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/configuration.md"])
def test_it_is_said_where_python_has_the_packages_before_it_is_called(page: str) -> None:
    lines = [line.strip() for block in document_commands.blocks((ROOT / page).read_text()) for line in block.splitlines()]
    first = next(i for i, line in enumerate(lines) if re.match(r"(\w+=\S+ )?(python|pytest|ruff|mypy) ", line))
    assert any(line.startswith("source .venv/bin/activate") for line in lines[:first])


def test_make_docs_writes_all_that_is_generated() -> None:
    done = subprocess.run(["make", "-n", "-o", ".venv/ready-cpu", "docs"], cwd=ROOT, capture_output=True, text=True, check=True)
    order = [done.stdout.index(f"-m {module}") for module in ("agent57_jax.monitoring.metrics", "mkdocs")]
    assert order == sorted(order) and "-m docs.describe_settings" in done.stdout


@pytest.mark.parametrize(("version", "says"), [((3, 10), "is needed"), ((3, 11), ""), ((3, 12), ""), ((3, 13), "is not tested")])
def test_make_refuses_an_old_python_and_warns_of_a_new_one(
    version: tuple[int, int], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.run(["make", "-n", "-B", "train"], cwd=ROOT, capture_output=True, text=True, check=True)
    checks = [words[2] for line in done.stdout.splitlines() if line.startswith("python3 -c") and (words := shlex.split(line))]
    assert len(checks) == 2
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    said = ""
    for check in checks:
        try:
            exec(check, {})
        except SystemExit as end:
            said += str(end.code or "")
    said += capsys.readouterr().out
    assert says in said and said.count("\n") == ("not" in says) and bool(said) == bool(says)


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
    assert all(f"| `{name}` |" in describe_settings.PAGE.read_text() for name in presets.setting_names(root))


def test_what_a_resumed_run_may_change_is_what_its_trainer_lets_it() -> None:
    sentence = describe_settings.PAGE.read_text().split("another one may change")[1].split("Anything else")[0]
    assert re.findall(r"`([^`*]+)\*?`", sentence) == list(run_folder.FREE_SETTINGS)


# docs/algorithm.md ------------------------------------------------------------------------------------------------------------------


LINK = re.compile(r"\[`([^`]+)`\]\(([^)#]+\.py)\)")


def defines(file: pathlib.Path, name: str) -> bool:
    """Whether a module has a function, class, method, attribute or constant; the inner ones are Class.name."""
    owner: Any = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    *classes, last = name.split(".")
    for part in classes:
        owner = getattr(owner, part, None)
    return hasattr(owner, last) or last in getattr(owner, "__annotations__", ())


def unknown_names(text: str) -> list[str]:
    """Names of code on the page that nothing has: linked ones must be defined in their file, others be settings, files or folders."""
    settings = set(presets.setting_names(config.Settings()))
    found = []
    for name, target in LINK.findall(text):
        file = (ROOT / "docs" / target).resolve()
        if not file.is_file() or not defines(file, name):
            found.append(f"{name} in {target}")
    for name in re.findall(r"`([^`\n]+)`", re.sub(r"\[`[^`]+`\]\([^)]+\)", "", text)):
        if name not in settings and not (ROOT / name).exists():
            found.append(name)
    return found


def test_the_page_of_the_algorithm_has_all_of_its_files_and_only_names_that_exist() -> None:
    text = (ROOT / "docs/algorithm.md").read_text()
    assert len(LINK.findall(text)) > 40 and not unknown_names(text)
    for file in (PACKAGE / "algorithm").glob("[a-z]*.py"):
        assert f"../agent57_jax/algorithm/{file.name}" in text


def test_names_that_nothing_has_are_seen() -> None:
    links = ("agent/actor.py", "Actor.acts"), ("algorithm/value_transform.py", "squosh"), ("nowhere.py", "squash")
    text = " ".join(f"[`{name}`](../agent57_jax/{file})" for file, name in links)
    assert len(unknown_names(f"{text} `replay.perod`")) == 4


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
    assert of_start == [("Programs.init_*", "agent/programs.py")]
    in_code = {
        (name, file.relative_to(PACKAGE).as_posix()): donates
        for file in PACKAGE.rglob("*.py")
        if file.name != "doctor.py"  # which tries the devices and trains nothing
        for name, donates in programs_in(file.read_text()).items()
        if not name.startswith("Programs.init_")
    }
    assert ("Programs.act", "agent/programs.py") in in_code
    assert {place: donates for place, donates in listed.items() if place not in of_start} == in_code


def test_the_table_of_modules_is_complete() -> None:
    table = (ROOT / "docs/architecture.md").read_text().split("## The jitted programs")[0]
    rows = "".join(first + second for first, second in re.findall(r"(?m)^\|([^|]*)\|([^|]*)\|", table))
    folders = [PACKAGE, *(PACKAGE / room for room in test_layout.ROOMS)]
    parts = [
        path for folder in folders for path in folder.iterdir() if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py")
    ]
    assert not [path.name for path in parts if f"`{path.stem}{'/' * path.is_dir()}`" not in rows]


# The site, and the files beside it --------------------------------------------------------------------------------------------------


def test_the_site_builds_without_warnings_and_fetches_nothing(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    shown = (tmp_path / "agent57_jax/algorithm/retrace.py.html").read_text()  # what a page links to
    assert "transformed_trace_targets" in re.sub(r"<[^>]*>", "", shown)
    assert "retrace.py.html" in (tmp_path / "docs/algorithm.html").read_text()
    index = (tmp_path / "index.html").read_text()
    for page in (ROOT / "docs").glob("*.md"):  # a page that nothing leads to is not read
        assert f'href="docs/{page.stem}.html"' in index or page.name == "configuration_head.md"
    for page in tmp_path.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r"<(?:script|img|iframe)[^>]* src=\"(?:https?:)?//|<link[^>]* href=\"(?:https?:)?//", text), page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", sheet.read_text()), sheet


def test_lists_are_nested_as_the_site_wants_it() -> None:
    fence = "\n\n```yaml\na:\n  - b\n```\n  c"
    page = "1. one\n   goes on\n\n       code\n\n   more\n2. two\n\ntext\n\n- a\n  b\n- c\n\n  | t |"
    wanted = "1. one\n    goes on\n\n        code\n\n    more\n\n2. two\n\ntext\n\n- a\n    b\n- c\n\n    | t |"
    assert site.nested(page + fence) == wanted + fence


def test_the_citation_is_valid_and_of_this_version() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["title"], citation["version"], citation["license"]) == (project["name"], project["version"], project["license"])
