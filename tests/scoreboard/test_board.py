"""The record, the tables and the program over folders of runs."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agent57_jax.environments import atari57
from agent57_jax.scoreboard import __main__ as program
from agent57_jax.scoreboard import board, markdown, runs, tables
from tests.scoreboard.synthetic import write_run

ROOT = pathlib.Path(__file__).parents[2]


def write_runs(folder: pathlib.Path, *runs_: dict[str, Any]) -> list[pathlib.Path]:
    """Folders run0, run1, ... of runs that `write_run` makes of these arguments."""
    return [write_run(folder / f"run{i}", **how) for i, how in enumerate(runs_)]


def record_of(folder: pathlib.Path, *runs_: dict[str, Any]) -> dict[str, Any]:
    """The record of such runs, or of those that are there."""
    folders = write_runs(folder, *runs_) or sorted(folder.iterdir())
    return json.loads(json.dumps(board.build([runs.read(path) for path in folders], [], folder), allow_nan=False))


def table(record: dict[str, Any], title: str) -> tables.Table:
    return next(found for found in tables.all_tables(record) if found.title.startswith(title))


def column(found: tables.Table, name: str) -> list[tables.Cell]:
    return [row[list(found.columns).index(name)] for row in found.rows]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The program with these arguments: exit code, output, errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scoreboard", *map(str, arguments)])
        code = 0
        try:
            program.main()
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capsys.readouterr()

    return run


def test_seeds_are_averaged_and_compared_over_the_same_games(tmp_path: pathlib.Path) -> None:
    boxing, pong = atari57.SCORES["Boxing-v5"], atari57.SCORES["Pong-v5"]
    span = boxing["human"] - boxing["random"]
    halves = [{"task": "Boxing-v5", "seed": seed, "mean": boxing["random"] + share * span} for seed, share in enumerate((0.2, 0.8))]
    record = record_of(tmp_path, *halves, *({"seed": seed, "mean": pong["human"] + 7.0} for seed in range(2)))
    agent, game = record["agents"][0], record["games"][0]
    above = (pong["human"] + 7.0 - pong["random"]) / (pong["human"] - pong["random"])
    assert agent["games"] == ["Boxing-v5", "Pong-v5"]
    assert agent["table"]["ours"]["mean"] == pytest.approx(100 * (0.5 + above) / 2)
    assert agent["table"]["ours"]["capped_mean"] == pytest.approx(75.0) and agent["table"]["ours"]["above_human"] == 1
    expected = [100 * (row["dqn"] - row["random"]) / (row["human"] - row["random"]) for row in (boxing, pong)]
    assert agent["table"]["DQN"]["mean"] == pytest.approx(np.mean(expected))
    assert game["hns"] == pytest.approx(0.5) and game["seeds"] == 2
    assert game["spread"] == pytest.approx(np.std([0.2, 0.8], ddof=1) * span)
    assert record["published"]["table"]["Agent57"]["above_human"] == 57


def test_intervals_need_seeds_and_come_from_the_games_that_have_them(tmp_path: pathlib.Path) -> None:
    single = record_of(tmp_path / "one", {"mean": 1.0})["agents"][0]["bootstrap"]
    assert single["seeds"] == [1, 1] and "no intervals" in single["note"]
    assert all(found["interval"] is None for found in single["statistics"].values())

    three = [{"seed": seed, "mean": float(seed**2)} for seed in range(3)]
    found = record_of(tmp_path / "three", *three)["agents"][0]["bootstrap"]
    assert found["seeds"] == [3, 3] and all(low < high for low, high in (entry["interval"] for entry in found["statistics"].values()))

    agent = record_of(tmp_path / "mixed", *three, {"task": "Boxing-v5", "mean": 1.0})["agents"][0]
    found = agent["bootstrap"]
    assert found["seeds"] == [1, 3] and "1 of 2 games have a single seed" in found["note"] and "weighs the same" in found["note"]
    assert all(low < high for low, high in (entry["interval"] for entry in found["statistics"].values()))
    for key in ("mean", "median", "capped_mean"):  # of all seeds, as above it on the page
        assert found["statistics"][key]["value"] == pytest.approx(agent["table"]["ours"][key])


def test_agents_with_other_settings_are_not_averaged(tmp_path: pathlib.Path) -> None:
    other = {"seed": 1, "mean": 21.0, "policy__beta_max": 0.0, "logging__period_seconds": 3.0, "total_steps": 8}
    record = record_of(tmp_path, {"mean": 1.0}, {"task": "Boxing-v5", "mean": 2.0}, other)
    assert [(agent["name"], agent["games"]) for agent in record["agents"]] == [
        ("ours 1", ["Boxing-v5", "Pong-v5"]),
        ("ours 2", ["Pong-v5"]),
    ]
    assert [entry["mean"] for entry in record["games"]] == [2.0, 1.0, 21.0]
    assert [agent["settings"] for agent in record["agents"]] == ["policy.beta_max 0.3", "policy.beta_max 0.0"]  # what they differ in


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [
        ({"mean": 1.0}, {"mean": 3.0}, 0),  # the first of equals
        ({"lines": 0}, {"mean": 15.0}, 1),  # stopped at once, then done
        ({"mean": 15.0, "lines": 5}, {"lines": 20}, 0),  # an evaluation before a score from training of more frames
        ({"lines": 0}, {"lines": 5}, 1),
        ({"mean": 1.0, "lines": 5}, {"mean": 15.0, "lines": 20}, 1),  # the most frames
        ({"mean": 15.0, "lines": 20}, {"mean": 1.0, "lines": 5}, 0),
    ],
)
def test_of_one_seed_twice_the_run_that_tells_most_counts(
    tmp_path: pathlib.Path, first: dict[str, Any], second: dict[str, Any], counts: int
) -> None:
    record = record_of(tmp_path, first, second)
    assert record["games"][0]["mean"] == record["runs"][counts]["score"] is not None and record["games"][0]["runs"] == 1
    left_out = f"left out of all means: {tmp_path / f'run{counts}'} has the same task, settings and seed"
    assert [left_out in run["notes"] for run in record["runs"]] == [counts == 1, counts == 0]


def test_runs_without_a_score_are_listed_and_not_averaged(tmp_path: pathlib.Path) -> None:
    *_, empty = write_runs(tmp_path, {"mean": 1.0}, {"seed": 1})
    (empty / "metrics.jsonl").write_text("")
    record = record_of(tmp_path)
    assert column(table(record, "Games"), "seeds")[0].text == "1 (1 not evaluated)" and record["games"][0]["mean"] == 1.0
    assert "not evaluated yet" in column(table(record, "Runs"), "notes")[1].text
    # Without any score there is no table of ours.
    shutil.rmtree(tmp_path / "run0")
    titles = [found.title for found in tables.all_tables(record_of(tmp_path))]
    assert titles == ["Published agents over all 57 games", "Games", "Runs"]


def test_other_tasks_have_a_list_of_their_own(tmp_path: pathlib.Path) -> None:
    """Only EnvPool's games are scored against the human."""
    record = record_of(
        tmp_path,
        {"mean": 1.0, "novelty__memory_capacity": 7},
        {"task": "LunarLander-v3", "mean": 200.0},
        {"seed": 1, "mean": 21.0, "environment__kind": "gymnasium"},
    )
    assert [(entry["task"], entry["agent"]) for entry in record["others"]] == [("LunarLander-v3", "ours"), ("Pong-v5 (gymnasium)", "ours")]
    assert [(entry["game"], entry["mean"]) for entry in record["games"]] == [("Pong-v5", 1.0)] and record["agents"][0]["name"] == "ours"
    assert "our HNS" not in table(record, "Other tasks").columns


def test_budgets_of_training_stand_with_the_scores(tmp_path: pathlib.Path) -> None:
    alike = [{"seed": seed, "mean": 1.0, "lines": lines} for seed, lines in enumerate((20, 22))]
    record = record_of(tmp_path / "alike", *alike)
    note = table(record, "Table 1").note
    assert "Ours trained 800 k to 880 k frames a run" in note and "NOT" not in note and "total_steps" not in note
    assert record["agents"][0]["frames"] == [800_000, 880_000]
    assert "Ours trained 800 k to 880 k frames a run" in markdown.render(record) and "90 billion frames" in markdown.render(record)

    record = record_of(tmp_path / "unlike", *alike, {"seed": 3, "mean": 1.0, "lines": 23, "total_steps": 10**9})
    note = table(record, "Table 1").note
    assert "NOT COMPARABLE: seeds of Pong-v5 differ by more than 10% in frames." in note
    assert "1 run of ours has not reached total_steps." in note
    assert column(table(record, "Games"), "frames trained")[0].text == "800 k to 920 k (UNEQUAL) (1 unfinished)"
    assert "trained 230,000 of 1,000,000,000 steps" in column(table(record, "Runs"), "notes")[2].text


def test_a_heat_map_has_all_arms_of_the_bandit(tmp_path: pathlib.Path) -> None:
    told, untold = record_of(tmp_path, *({"mean": 1.0, "arms": 4, "policy__num_policies": number} for number in (32, "many")))["runs"]
    assert {len(column) for column in told["bandit"]["share"]} == {32} and told["bandit"]["return"][0][4:] == [None] * 28
    assert {len(column) for column in untold["bandit"]["share"]} == {4}


@pytest.mark.parametrize("how", [{"environment__max_episode_steps": 300}, {}])
def test_what_is_not_comparable_says_so_where_the_figure_stands(tmp_path: pathlib.Path, how: dict[str, Any]) -> None:
    record = record_of(tmp_path, {"mean": 1.0, **how})
    note, source = table(record, "Table 1").note, column(table(record, "Games"), "score from")[0].text
    assert ("NOT COMPARABLE: 1 run of ours does not follow the protocol" in note) == bool(how) == ("NOT" in note)
    assert source == ("evaluation, NOT the protocol" if how else "evaluation")


def test_markdown_cannot_be_broken_by_names(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "a|b\n<script>`", mean=1.0)
    text = markdown.render(record_of(tmp_path))
    row = next(line for line in text.splitlines() if "&lt;script>" in line)
    assert "a\\|b" in row and "\\`" in row and row.count(" | ") == 8


def test_the_program_writes_three_files(tmp_path: pathlib.Path, judge: Any) -> None:
    write_run(tmp_path / "runs" / "good", mean=14.6)
    damaged = write_run(tmp_path / "runs" / "odd", seed=1)
    (damaged / "config.json").write_text("{")
    code, said, errors = judge(tmp_path / "runs", tmp_path / "runs" / "good", f"--out={tmp_path / 'board'}")
    assert (code, errors) == (0, "")
    text = (tmp_path / "board" / "scoreboard.md").read_text()
    assert text in said and "Folders that could not be read" in text and "is damaged" in text
    record = json.loads((tmp_path / "board" / "scoreboard.json").read_text())
    assert len(record["runs"]) == 1 and record["games"][0]["hns"] == 1.0  # once, though it was named twice
    assert (tmp_path / "board" / "scoreboard.html").read_text().startswith("<!DOCTYPE html>")


def test_a_folder_that_cannot_be_looked_into_is_listed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, judge: Any) -> None:
    write_run(tmp_path / "runs" / "good", mean=14.6)
    locked = tmp_path / "runs" / "lost+found"
    locked.mkdir()
    look = pathlib.Path.iterdir

    def refuse(path: pathlib.Path) -> Any:
        if path == locked:  # tests may run as root, who may look everywhere
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(pathlib.Path, "iterdir", refuse)
    code, said, _ = judge(tmp_path / "runs", f"--out={tmp_path / 'board'}")
    record = json.loads((tmp_path / "board" / "scoreboard.json").read_text())
    assert code == 0 and len(record["runs"]) == 1 and record["unreadable"][0]["folder"] == str(locked)
    assert "Permission denied" in said
    code, _, errors = judge(locked)  # named by the user, and nothing to show
    assert code != 0 and "Permission denied" in errors


def test_a_terminal_without_the_sign_gets_the_text(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "agent57_jax.scoreboard", str(write_run(tmp_path / "a", mean=1.0)), f"--out={tmp_path}"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, env=ascii_only, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and not done.stderr and "? seeds" in done.stdout
    assert "± seeds" in (tmp_path / "scoreboard.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "RUNS"),
        (["empty"], "holds no run"),
        (["nowhere"], "nowhere"),
        (["bad"], "no run could be read"),
        ([".", "--colour"], "--colour"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, judge: Any, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (write_run(tmp_path / "bad") / "config.json").write_text("{}")
    code, _, errors = judge(*arguments)
    assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1 and message in errors
