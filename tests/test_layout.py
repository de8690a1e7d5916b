"""The layout of the project: imports point down the layers, and a few packages have one door each."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "agent57_jax"

# From bottom to top. A part is a module of the package, a folder of it, a module of a room ("agent.actor"), or an entry file beside it.
# It may import itself and the parts of lower layers; parts of one layer never import each other.
LAYERS = (
    ("types",),
    ("config",),
    ("algorithm", "parallel", "paths", "presets"),
    ("networks",),
    ("environments",),
    ("monitoring.heat_map", "monitoring.metric_lines", "monitoring.pictures"),
    ("monitoring.console", "monitoring.dashboards", "monitoring.video"),
    ("monitoring.metrics",),
    ("agent.adam", "agent.novelty", "agent.value_loss"),
    ("agent.actor", "agent.learner", "agent.replay"),
    ("agent.programs",),
    ("training.checkpoint", "training.folder_lock", "training.run_folder", "training.schedule", "training.shutdown", "training.stopwatch"),
    ("training.assembly", "training.drivers", "training.evaluator", "training.memory"),
    ("training.reporting",),
    ("training.judging", "training.trainer"),
    ("interface",),
    ("commands.command_line", "commands.healthcheck"),
    ("commands.doctor", "commands.export", "commands.pack", "commands.watch"),
    ("commands.evaluate", "commands.train"),
    ("scoreboard",),
    ("__main__",),
    ("train", "evaluate"),
)
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
ROOMS = sorted({part.split(".")[0] for part in HEIGHT if "." in part})
ENTRY_FILES = LAYERS[-1]

# Arrows that point down and are still unwanted, of a part or of a whole room.
FORBIDDEN = {
    "algorithm": ("absl", "flax", "ml_collections", f"{PACKAGE}.config"),  # pure functions: no settings, no networks
    "networks": (f"{PACKAGE}.parallel",),
    "monitoring": tuple(f"{PACKAGE}.{name}" for name in ("algorithm", "networks", "environments")),  # shows numbers and frames
    "agent": tuple(f"{PACKAGE}.{name}" for name in ("environments", "monitoring")),  # the loop brings them together
    "training.checkpoint": (f"{PACKAGE}.agent",),
    "commands.command_line": tuple(f"{PACKAGE}.{name}" for name in ("agent", "monitoring", "training")),  # runs before JAX starts
}
# What a package itself may import: that of the whole project has the names of the interface, for type checkers; it imports them late.
SHOWN = {PACKAGE: {"config", "interface", "presets", "training", "types"}}
# The only module that may import a package.
DOORS = {
    "envpool": f"{PACKAGE}.environments.envpool",
    "orbax": f"{PACKAGE}.training.checkpoint",
    "tensorstore": f"{PACKAGE}.training.checkpoint",
    "gymnasium": f"{PACKAGE}.environments.gymnasium_process",
}

# What `types` may not hold: records and protocols need none of it.
LOGIC = (ast.Call, ast.Lambda, ast.comprehension, ast.IfExp, ast.If, ast.For, ast.While, ast.Try, ast.With, ast.Match, ast.Return)


def part_of(module: str) -> str | None:
    """Returns the part that a module belongs to: None for other packages, for the package itself and for a room itself."""
    if module in ENTRY_FILES:
        return module
    head, *rest = module.split(".")
    if head != PACKAGE or not rest or rest in [[room] for room in ROOMS]:
        return None
    return ".".join(rest[: 1 + (rest[0] in ROOMS)])


def imports_of(module: str, tree: ast.Module, is_package: bool) -> Iterator[str]:
    """Yields every module that the source imports, also inside functions, under its absolute name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package
            parents = module.split(".")[: -up or None] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            # `from agent57_jax import config` names a module, `from agent57_jax.types import Batch` does not.
            names_modules = base in (PACKAGE, *(f"{PACKAGE}.{room}" for room in ROOMS))
            yield from (f"{base}.{alias.name}" for alias in node.names) if names_modules else (base,)


def violations(sources: dict[str, str]) -> list[str]:
    """Returns one line for each breach of the layout in {module name or package name + ".__init__": source}."""
    found = []
    for name, source in sources.items():
        module = name.removesuffix(".__init__")
        part = part_of(module)
        if part is not None and part not in HEIGHT:
            found.append(f"{module} has no layer: add {part} to LAYERS")
            continue
        forbidden = [taboo for place in {part, (part or "").split(".")[0]} for taboo in FORBIDDEN.get(place, ())]
        for target in imports_of(module, ast.parse(source, name), is_package=name != module):
            other = part_of(target)
            if part is None and other is not None:
                if other.split(".")[0] not in SHOWN.get(module, ()):
                    found.append(f"{module} imports {target}: a package itself imports none of its parts")
            elif other is not None and other not in HEIGHT:
                found.append(f"{module} imports {target}, which has no layer: add {other} to LAYERS")
            elif other is not None and other != part and HEIGHT[other] >= HEIGHT[part]:
                found.append(f"{module} imports {target}: the arrow does not point down")
            elif any(target == taboo or target.startswith(f"{taboo}.") for taboo in forbidden):
                found.append(f"{module} imports {target}: {part} does without")
            elif module != DOORS.get(target.split(".")[0], module):
                found.append(f"{module} imports {target}: only {DOORS[target.split('.')[0]]} may")
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
    nodes = list(ast.walk(ast.parse((ROOT / PACKAGE / "types.py").read_text())))
    assert not [ast.unparse(node) for node in nodes if isinstance(node, LOGIC)]
    lines = [line for node in nodes if isinstance(node, ast.FunctionDef) for line in node.body]
    assert not [ast.unparse(line) for line in lines if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))]


@pytest.mark.parametrize("name", ENTRY_FILES)
def test_entry_files_are_wiring_only(name):
    file = ROOT / f"{name}.py"
    assert len(file.read_text().splitlines()) < 10


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("types", "import agent57_jax.config"),
        ("algorithm.retrace", "from agent57_jax.config import Settings"),
        ("algorithm.retrace", "import flax.linen as nn"),
        ("networks.torsos", "def late():\n    from agent57_jax.agent import actor"),
        ("networks.torsos", "from ..training.trainer import run"),
        ("networks.__init__", "from ..training import trainer"),
        ("agent.actor", "from .replay import append"),
        ("environments.random_coin", "import agent57_jax.agent.actor as actor"),
        ("environments.gymnasium", "from envpool.python import protocol"),
        ("training.checkpoint", "from agent57_jax.agent.replay import Replay"),
        ("training.trainer", "import train"),
        ("__init__", "from agent57_jax.agent.actor import Actor"),
        ("agent.helpers", "import jax"),
        ("training.trainer", "from agent57_jax.helpers import everything"),
    ],
)
def test_checker_sees_an_unwanted_import(module, source):
    assert len(violations({f"{PACKAGE}.{module}": source})) == 1


def test_every_layer_names_a_part_once():
    assert len(HEIGHT) == sum(map(len, LAYERS))
    for room in ROOMS:  # one room lies wholly above or below another
        own = {height for part, height in HEIGHT.items() if part.startswith(f"{room}.")}
        assert {part.split(".")[0] for height in range(min(own), max(own) + 1) for part in LAYERS[height]} == {room}
    assert not set(HEIGHT) & sys.stdlib_module_names - {"types"}  # a part named like a standard module would hide it from its neighbours
