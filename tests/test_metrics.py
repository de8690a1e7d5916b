"""metrics.jsonl and TensorBoard hold declared keys only, and after a resume exactly what the run stands on."""

import contextlib
import json
import math
import os
import re

import numpy as np
import pytest

from agent57_jax.config import SettingsError
from agent57_jax.monitoring import metrics
from agent57_jax.monitoring.metrics import MetricsWriter, check_key, declared


def counters(steps):
    return {"frames": 4 * steps, "steps": steps, "updates": steps // 8, "episodes": steps // 100, "seconds": steps / 50}


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def steps_of(workdir):
    return [line["steps"] for line in lines(workdir)]


def write_run(workdir, steps, resume_steps=None, tensorboard=False, values=None):
    """A run that ends after some lines, or because one of them cannot be written."""
    with contextlib.closing(MetricsWriter(workdir, resume_steps, tensorboard)) as writer:
        for step in steps:
            writer.write(counters(step), values or {"loss/extrinsic": step / 2})


def test_every_key_is_declared_once_with_a_sentence_and_a_unit():
    keys = [metric.key for metric in declared()]
    assert len(keys) == len(set(keys))
    for metric in declared():
        counter = metric in metrics.COUNTERS
        assert re.fullmatch(r"[a-z]+" if counter else r"[a-z_]+/[a-z_]+(_\{policy\}|_\{action\})?", metric.key)
        assert metric.sentence.endswith(".") and metric.sentence[0].isupper() and metric.unit
    for key in ("loss/extrinsic", "arm/pulls_0", "arm/return_31", "action/ratio_UPRIGHTFIRE", "action/ratio_move left"):
        check_key(key)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("loss/extrinsik", "loss/extrinsic"),
        ("evaluation/retrun", "evaluation/return"),
        ("arm/pulls_", "arm/pulls_{policy}"),
        ("arm/pulls_{policy}", "arm/pulls_{policy}"),
    ],
)
def test_undeclared_key_names_the_nearest(tmp_path, key, nearest):
    with pytest.raises(KeyError, match=re.escape(f"no metric '{key}' is declared in metrics.py; the nearest is '{nearest}'")):
        write_run(tmp_path, [1], values={"loss/extrinsic": 1.0, key: 1.0})
    assert lines(tmp_path) == []


def test_line_has_all_counters_and_no_others(tmp_path):
    writer = MetricsWriter(tmp_path, None, tensorboard=False)
    with pytest.raises(KeyError, match="missing or unknown: acts, seconds"):
        writer.write({key: value for key, value in counters(1).items() if key != "seconds"} | {"acts": 3}, {})
    writer.close()


def test_lines_are_flat_json_and_readable_at_once(tmp_path):
    values = {"loss/extrinsic": np.float32(0.25), "arm/pulls_3": np.int64(4), "loss/intrinsic": math.nan, "replay/max_priority": math.inf}
    writer = MetricsWriter(tmp_path / "new" / "run", None, tensorboard=False)
    writer.write(counters(2**40), values)
    line = {"loss/extrinsic": 0.25, "arm/pulls_3": 4.0, "loss/intrinsic": None, "replay/max_priority": None}
    assert lines(tmp_path / "new" / "run") == [counters(2**40) | line]
    writer.close()


def test_resume_drops_what_was_written_after_the_checkpoint(tmp_path):
    write_run(tmp_path, [10, 20, 30, 40], resume_steps=5)  # of which there is no file yet
    write_run(tmp_path, [25, 35], resume_steps=20)
    assert steps_of(tmp_path) == [10, 20, 25, 35]
    write_run(tmp_path, [45], resume_steps=40)
    assert steps_of(tmp_path) == [10, 20, 25, 35, 45]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_resume_drops_a_line_that_is_cut_off(tmp_path, cut):
    write_run(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    write_run(tmp_path, [30], resume_steps=25)
    assert steps_of(tmp_path) == [10, 30]


def test_kill_while_dropping_keeps_the_old_file(tmp_path, monkeypatch):
    write_run(tmp_path, [10, 20, 30])
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsWriter(tmp_path, 10, tensorboard=False)
    monkeypatch.undo()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    write_run(tmp_path, [15], resume_steps=10)
    assert steps_of(tmp_path) == [10, 15]


def test_new_run_keeps_the_files_of_an_earlier_one_aside(tmp_path):
    for steps in (1, 2, 3):
        write_run(tmp_path, [steps], tensorboard=True)
    names = "metrics.jsonl.1", "metrics.jsonl.2", "metrics.jsonl"
    assert [json.loads((tmp_path / name).read_text())["steps"] for name in names] == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.glob("tensorboard*")) == ["tensorboard", "tensorboard.1", "tensorboard.2"]


@pytest.mark.parametrize("text", ["not json\n", "[]\n", '{"frames": 3}\n', "\0" * 40 + "\n"])
def test_a_damaged_line_is_an_error_and_stays(tmp_path, text):
    write_run(tmp_path, [10])
    path = tmp_path / "metrics.jsonl"
    before = path.read_text() + text + path.read_text()
    path.write_text(before)
    with pytest.raises(
        SettingsError, match=rf"^line 2 of {path} is not a line of metrics; fix or remove the line, or move the file away: "
    ):
        MetricsWriter(tmp_path, 10, tensorboard=False)
    assert path.read_text() == before
