"""What benchmarks print and write."""

import json
import pathlib

from absl import flags

from agent57_jax import config
from agent57_jax.config import Settings
from benchmarks import measure, plan, reports, throughput
from reproductions import records


def test_columns_are_aligned() -> None:
    lines = [("part", "rate"), ("act", "1,234"), ("an update", "5")]
    assert reports.aligned(lines) == "part       rate\nact        1,234\nan update  5"
    assert reports.aligned(lines, to_the_right=True) == "     part   rate\n      act  1,234\nan update      5"


def test_a_record_says_with_what_it_was_measured(tmp_path: pathlib.Path) -> None:
    records.write_json(tmp_path / "record.json", reports.record("throughput", {"rows": [1 / 3]}, Settings()))
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["benchmark"] == "throughput" and record["command"].startswith("python -m benchmarks.throughput")
    assert {"date", "git"} <= record.keys() and record["machine"]["cores"] >= 1 and record["machine"]["device"] == "cpu"
    assert record["rows"] == [0.333333] and record["settings"]["network"]["lstm_size"] == 512


def test_shares_are_of_the_roof_that_is_named() -> None:
    rate = measure.Rate(2.0e9, 1.0e9, 3.0e9, 3)
    row = throughput.Row("learner", "update", "FLOP", rate, 4.0e9, "matrix products")
    machine = throughput.Row("machine", "copy", "byte", measure.Rate(12.34, 1.0, 1234.0, 3), None, "")
    lines = throughput.table([row, machine])
    assert lines[1] == ("learner", "update", "2 G", "1 G to 3 G", "FLOP", "50% of 4 G (matrix products)")
    assert lines[2] == ("machine", "copy", "12.3", "1 to 1,234", "byte", "")


def test_the_plan_is_arithmetic_on_its_sizes() -> None:
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["plan", "--steps_per_core=2000", "--cores=64", "--pcie=1e9", "--link=4e9", "--arithmetic=1e12", "--acts=100"])
    settings = Settings()
    settings.learner.batch_size = 512
    amounts = {"learner": 50, "parameters": 20, "gradients": 16, "frames_per_step": 4, "activations": 30, "state": 40}
    sizes = plan.Sizes(observation=7_056, memories=1_000, recurrent=100, **amounts)
    load = plan.Load(gpus=8, steps=1_000.0, updates=4.0)
    found = {need.resource.strip(): need for need in plan.needs(config.finalise(settings), load, sizes, act_flops=5e6, update_flops=8e9)}
    flags.FLAGS.unparse_flags()
    wanted = {
        "emulators": 4.0,
        "acts": 1_000 / (256 / 2 / 8),
        "PCIe, upwards": 7_076 * 1_000,
        "GPU arithmetic": 5e6 * 1_000 + 8e9 * 4 / 8,
        "links between GPUs": 2 * 7 / 8 * 16 * 4,
        "episodic memories, full": 1_000 * 1_000,
    }
    assert {name: found[name].needed for name in wanted} == wanted and found["emulators"].share == 4 / 64
    parts = [need.needed for need in found.values() if need.resource.startswith("  ")]
    assert found["GPU memory, traffic"].needed == sum(parts) and len(parts) == 7
