"""docs/metrics.md: its table is that of today, and what it says of adding a metric is all that it takes."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

from agent57_jax.monitoring import metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "metrics.md"

# What a run would report, from shapes alone.
SHAPES = """
import sys
import jax
from agent57_jax import config, parallel
from agent57_jax.agent import programs
from agent57_jax.monitoring import metrics
from agent57_jax.training import memory
from agent57_jax.environments import factory
from tests import tiny
settings = config.finalise(tiny.coin_settings())
parts = programs.build(settings, factory.make_jax_environment(settings.environment).spec)
made = programs.Programs(parts, parallel.make_mesh(1), memory.make_replay(parts, 800))
assert "learner/largest_td_error" in jax.eval_shape(made.init_update_metrics).total
metrics.check_key("learner/largest_td_error")
assert any("largest_td_error" in pattern for pattern in metrics.layout()["values"]["TD errors"])
assert programs.__file__.startswith(sys.argv[1])
"""


def test_the_table_is_current(tmp_path: pathlib.Path) -> None:
    copy = shutil.copy(PAGE, tmp_path / "metrics.md")
    metrics.document(copy)
    assert copy.read_text() == PAGE.read_text(), "run: python -m agent57_jax.monitoring.metrics"
    for metric in metrics.declared():
        assert f"| `{metric.key}` | {metric.sentence} | {metric.unit} |" in PAGE.read_text()


def test_a_metric_is_one_declaration_and_one_line(tmp_path: pathlib.Path) -> None:
    """The page's example, in a copy of the package."""
    declaration, measurement = re.findall(r"```python\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
    for name in ("agent57_jax", "configs", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, line, before in (
        ("monitoring/metrics.py", f"    {declaration},\n", '    Metric("learner/td_error_intrinsic"'),
        ("agent/value_loss.py", f"        {measurement}\n", "        loss = jnp.sum(losses)\n"),
    ):
        path = tmp_path / "agent57_jax" / name
        text = path.read_text()
        assert text.count(before) == 1
        path.write_text(text.replace(before, line + before))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "XLA_FLAGS": ""}
    command = [sys.executable, "-c", SHAPES, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
