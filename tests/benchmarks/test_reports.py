"""What benchmarks print and write."""

import json
import pathlib

from agent57_jax.config import Settings
from benchmarks import measure, reports, throughput
from reproductions import records


def test_columns_are_aligned() -> None:
    lines = [("part", "rate"), ("act", "1,234"), ("an update", "5")]
    assert reports.aligned(lines) == "part       rate\nact        1,234\nan update  5"
    assert reports.aligned(lines, to_the_right=True) == "     part   rate\n      act  1,234\nan update      5"


def test_a_record_says_with_what_it_was_measured(tmp_path: pathlib.Path) -> None:
    records.write_json(tmp_path / "record.json", reports.record("throughput", {"rows": [1 / 3]}, Settings()))
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["benchmark"] == "throughput"
    assert record["command"].startswith("python -m benchmarks.throughput")
    assert {"date", "git", "machine", "settings"} <= record.keys()
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["device"] == "cpu"
    assert record["rows"] == [0.333333]
    assert record["settings"]["network"]["lstm_size"] == 512


def test_shares_are_of_the_roof_that_is_named() -> None:
    rate = measure.Rate(2.0e9, 1.0e9, 3.0e9, 3)
    row = throughput.Row("learner", "update", "FLOP", rate, 4.0e9, "matrix products")
    machine = throughput.Row("machine", "copy", "byte", measure.Rate(12.34, 1.0, 1234.0, 3), None, "")
    lines = throughput.table([row, machine])
    assert lines[1] == ("learner", "update", "2 G", "1 G to 3 G", "FLOP", "50% of 4 G (matrix products)")
    assert lines[2] == ("machine", "copy", "12.3", "1 to 1,234", "byte", "")
