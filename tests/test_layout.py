"""The layout of the project: imports point down the layers, and a few packages have one door each."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "agent57_jax"

# From bottom to top. A part is a module of the package, a folder of it, or an entry file beside it. It may import itself and the parts
# of lower layers; parts of one layer never import each other.
LAYERS = (
    ("types",),
    ("config",),
    ("algorithm", "parallel", "heat_map"),
    ("networks", "dashboards"),
    ("novelty", "adam", "folder_lock", "pictures", "paths"),
    ("environments", "actor", "replay", "learner", "schedule", "stopwatch", "checkpoint", "metrics", "console", "video", "healthcheck"),
    ("programs",),
    ("evaluator", "drivers", "memory"),
    ("reporting", "judging"),
    ("trainer", "command_line", "doctor"),
    ("scoreboard", "export", "pack", "watch"),
    ("__main__",),
    ("train", "evaluate"),
)
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
ENTRY_FILES = LAYERS[-1]

# Arrows that point down and are still unwanted.
FORBIDDEN = {
    "algorithm": ("absl", "flax", "ml_collections", f"{PACKAGE}.config"),  # pure functions: no settings, no networks
    "networks": (f"{PACKAGE}.parallel",),
}
# The only module that may import a package.
DOORS = {
    "envpool": f"{PACKAGE}.environments.envpool",
    "orbax": f"{PACKAGE}.checkpoint",
    "tensorstore": f"{PACKAGE}.checkpoint",
    "gymnasium": f"{PACKAGE}.environments.gymnasium_process",
}

# What `types` may not hold: records and protocols need none of it.
LOGIC = (ast.Call, ast.Lambda, ast.comprehension, ast.IfExp, ast.If, ast.For, ast.While, ast.Try, ast.With, ast.Match, ast.Return)


def part_of(module: str) -> str | None:
    """Returns the part that a module belongs to: None for other packages and for the package itself."""
    if module in ENTRY_FILES:
        return module
    head, *rest = module.split(".")
    return rest[0] if head == PACKAGE and rest else None


def imports_of(module: str, tree: ast.Module, is_package: bool) -> Iterator[str]:
    """Yields every module that the source imports, also inside functions, under its absolute name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package
            parents = module.split(".")[: -up or None] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            # `from agent57_jax import actor` names a module, `from agent57_jax.types import Batch` does not: only the first needs the name.
            yield from (f"{base}.{alias.name}" for alias in node.names) if base == PACKAGE else (base,)


def violations(sources: dict[str, str]) -> list[str]:
    """Returns one line for each breach of the layout in {module name or package name + ".__init__": source}."""
    found = []
    for name, source in sources.items():
        module = name.removesuffix(".__init__")
        part = part_of(module)
        if module != PACKAGE and part not in HEIGHT:
            found.append(f"{module} has no layer: add {part or module} to LAYERS")
            continue
        for target in imports_of(module, ast.parse(source, name), is_package=name != module):
            other = part_of(target)
            if part is None and other is not None:
                found.append(f"{module} imports {target}: the package itself imports none of its parts")
            elif other is not None and other not in HEIGHT:
                found.append(f"{module} imports {target}, which has no layer: add {other} to LAYERS")
            elif other is not None and other != part and HEIGHT[other] >= HEIGHT[part]:
                found.append(f"{module} imports {target}: the arrow does not point down")
            elif any(target == taboo or target.startswith(f"{taboo}.") for taboo in FORBIDDEN.get(part, ())):
                found.append(f"{module} imports {target}: {part} does without")
            elif module != DOORS.get(target.split(".")[0], module):
                found.append(f"{module} imports {target}: only {DOORS[target.split('.')[0]]} may")
    return found


def logic_in(source: str) -> list[str]:
    """Returns one line for each statement of a module of records that does something."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, LOGIC):
            found.append(f"line {getattr(node, 'lineno', '?')}: {type(node).__name__}")
        elif isinstance(node, ast.FunctionDef) and not all(
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) for statement in node.body
        ):
            found.append(f"line {node.lineno}: {node.name} has a body")
    return found


def read_sources() -> dict[str, str]:
    """Returns the modules of the project as `violations` takes them."""
    files = [*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / f"{name}.py" for name in ENTRY_FILES)]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): file.read_text() for file in sorted(files) if file.exists()}


def test_imports_point_down():
    sources = read_sources()
    assert f"{PACKAGE}.types" in sources
    assert not violations(sources), "\n".join(["", *violations(sources)])


def test_types_hold_no_logic():
    assert not logic_in((ROOT / PACKAGE / "types.py").read_text())


@pytest.mark.parametrize("name", ENTRY_FILES)
def test_entry_files_are_wiring_only(name):
    file = ROOT / f"{name}.py"
    assert not file.exists() or len(file.read_text().splitlines()) < 100


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("agent57_jax.types", "import agent57_jax.config"),
        ("agent57_jax.algorithm.retrace", "from agent57_jax.networks.torsos import Torso"),
        ("agent57_jax.algorithm.retrace", "from agent57_jax.config import Settings"),
        ("agent57_jax.algorithm.retrace", "from agent57_jax import parallel"),
        ("agent57_jax.algorithm.retrace", "import flax.linen as nn"),
        ("agent57_jax.parallel", "from agent57_jax.algorithm import retrace"),
        ("agent57_jax.networks.torsos", "from agent57_jax import parallel"),
        ("agent57_jax.networks.torsos", "def late():\n    from agent57_jax import actor"),
        ("agent57_jax.networks.torsos", "from ..trainer import run"),
        ("agent57_jax.networks.__init__", "from ..trainer import run"),
        ("agent57_jax.actor", "from .replay import append"),
        ("agent57_jax.actor", "from . import learner"),
        ("agent57_jax.learner", "from agent57_jax import types, metrics"),
        ("agent57_jax.environments.random_coin", "import agent57_jax.actor as actor"),
        ("agent57_jax.environments.gymnasium", "from envpool.python import protocol"),
        ("agent57_jax.checkpoint", "from agent57_jax.replay import Replay"),
        ("agent57_jax.programs", "from agent57_jax import evaluator"),
        ("agent57_jax.trainer", "import orbax.checkpoint as ocp"),
        ("agent57_jax.trainer", "import train"),
        ("agent57_jax.__init__", "from agent57_jax.types import Batch"),
        ("agent57_jax.helpers", "import jax"),
        ("agent57_jax.trainer", "from agent57_jax.helpers import everything"),
    ],
)
def test_checker_sees_an_unwanted_import(module, source):
    assert len(violations({module: source})) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("agent57_jax.algorithm.intrinsic_reward", "import jax\nfrom agent57_jax.algorithm import episodic_novelty"),
        ("agent57_jax.environments.envpool", "import envpool\nfrom agent57_jax.types import TimeStep"),
        ("agent57_jax.environments.__init__", "from .envpool import make"),
        ("agent57_jax.replay", "from agent57_jax import config, parallel, types"),
        ("agent57_jax.checkpoint", "import orbax.checkpoint as ocp\nfrom agent57_jax import parallel"),
        ("agent57_jax.evaluator", "from agent57_jax import programs"),
        ("train", "from agent57_jax.trainer import run"),
    ],
)
def test_checker_lets_a_wanted_import_pass(module, source):
    assert violations({module: source}) == []


@pytest.mark.parametrize(
    "source",
    [
        "def half(x):\n    return x / 2",
        "class Batch:\n    def grow(self):\n        self.size += 1",
        "SIZES = [n for n in (1, 2)]",
        "SIZE = max(1, 2)",
    ],
)
def test_checker_sees_logic_in_types(source):
    assert logic_in(source)


def test_every_layer_names_a_part_once():
    assert len(HEIGHT) == sum(map(len, LAYERS))
    assert not set(HEIGHT) & sys.stdlib_module_names - {"types"}  # a part named like a standard module would hide it from its neighbours
