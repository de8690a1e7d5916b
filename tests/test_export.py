"""The table has a column for every key of any line, and bad input ends in one line."""

import csv
import io
import json
import pathlib
import signal
import subprocess
import sys

import pandas
import pytest

from agent57_jax.commands import export

ROOT = pathlib.Path(__file__).parents[1]
COUNTERS = {"frames": 40, "steps": 10, "updates": 1, "episodes": 0, "seconds": 0.5}
LINES = [
    COUNTERS | {"loss/extrinsic": 0.25},
    COUNTERS | {"steps": 20, "evaluation/return": 3.0, "action/ratio_move, left": 0.5, "loss/extrinsic": None},
    COUNTERS | {"steps": 30, "loss/extrinsic": 1e-9, "evaluation/arm": 2.0},
]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path


def test_columns_are_the_union_with_counters_first(run: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"steps": 40, "fra')  # is being written: left out
    export.main([str(run)])
    assert capsys.readouterr().out == f"wrote 3 rows to {run}/metrics.csv\n"
    table = pandas.read_csv(run / "metrics.csv")
    assert list(table) == [*COUNTERS, "loss/extrinsic", "evaluation/return", "action/ratio_move, left", "evaluation/arm"]
    assert list(table["steps"]) == [10, 20, 30]
    assert table["loss/extrinsic"].isna().tolist() == [False, True, False]
    assert table["loss/extrinsic"][2] == 1e-9
    assert table["evaluation/return"].isna().tolist() == [True, False, True]
    assert sorted(path.name for path in run.iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_a_pattern_chooses_keys_and_a_dash_is_standard_output(run: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    export.main([str(run), "--csv=-", "--keys=evaluation/*"])
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == [*COUNTERS, "evaluation/return", "evaluation/arm"]
    assert rows[2] == ["40", "20", "1", "0", "0.5", "3.0", ""]


def test_a_reader_that_has_had_enough_ends_it_silently(run: pathlib.Path) -> None:
    (run / "metrics.jsonl").write_text((json.dumps(LINES[0]) + "\n") * 20_000)  # more than a pipe holds
    command = [sys.executable, "-m", "agent57_jax", "export", str(run), "--csv=-"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith(b"frames,")
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(30) == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["{run}/nowhere"], "{run}/nowhere holds no run: there is no metrics.jsonl in it"),
        (["{run}", "--cvs=x"], "unrecognized arguments: --cvs=x"),
        (["{run}", "--csv={run}/no/such/folder.csv"], "No such file or directory"),
        (["{run}/damaged"], "line 1 of {run}/damaged/metrics.jsonl"),
    ],
)
def test_bad_input_ends_in_one_line(arguments: list[str], message: str, run: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "damaged").mkdir()
    (run / "damaged/metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(SystemExit) as ended:
        export.main([argument.format(run=run) for argument in arguments])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert message.format(run=run) in printed and printed.startswith("error: ") and printed.count("\n") == 1
    assert not list(run.rglob("*.csv"))
