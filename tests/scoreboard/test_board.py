"""The record, the tables and the program over folders of runs."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from agent57_jax.environments import atari57
from agent57_jax.scoreboard import __main__ as program
from agent57_jax.scoreboard import board, markdown, runs, tables
from tests.scoreboard.synthetic import write_run

ROOT = pathlib.Path(__file__).parents[2]


def record_of(*folders: pathlib.Path) -> dict[str, Any]:
    record = board.build([runs.read(folder) for folder in folders], [], folders[0].parent)
    return json.loads(json.dumps(record, allow_nan=False))


def table(record: dict[str, Any], title: str) -> tables.Table:
    return next(found for found in tables.all_tables(record) if found.title.startswith(title))


def column(found: tables.Table, name: str) -> list[tables.Cell]:
    return [row[list(found.columns).index(name)] for row in found.rows]


def judge(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent57_jax.scoreboard", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_seeds_are_averaged_and_compared_over_the_same_games(tmp_path: pathlib.Path) -> None:
    random, human = atari57.SCORES["Boxing-v5"]["random"], atari57.SCORES["Boxing-v5"]["human"]
    halves = [
        write_run(tmp_path / f"b{seed}", "Boxing-v5", seed, mean=random + share * (human - random)) for seed, share in enumerate((0.2, 0.8))
    ]
    pong = atari57.SCORES["Pong-v5"]
    record = record_of(*halves, *(write_run(tmp_path / f"p{seed}", "Pong-v5", seed, mean=pong["human"] + 7.0) for seed in range(2)))
    agent = record["agents"][0]
    above = (pong["human"] + 7.0 - pong["random"]) / (pong["human"] - pong["random"])
    assert agent["games"] == ["Boxing-v5", "Pong-v5"]
    assert agent["table"]["ours"]["mean"] == pytest.approx(100 * (0.5 + above) / 2)
    assert agent["table"]["ours"]["capped_mean"] == pytest.approx(75.0) and agent["table"]["ours"]["above_human"] == 1
    expected = [100 * (atari57.SCORES[game]["dqn"] - atari57.SCORES[game]["random"]) for game in agent["games"]]
    expected = [
        value / (atari57.SCORES[game]["human"] - atari57.SCORES[game]["random"])
        for game, value in zip(agent["games"], expected, strict=True)
    ]
    assert agent["table"]["DQN"]["mean"] == pytest.approx(np.mean(expected))
    boxing = record["games"][0]
    assert boxing["hns"] == pytest.approx(0.5) and boxing["seeds"] == 2
    assert boxing["spread"] == pytest.approx(np.std([0.2, 0.8], ddof=1) * (human - random))
    assert record["published"]["table"]["Agent57"]["above_human"] == 57


def test_intervals_need_seeds(tmp_path: pathlib.Path) -> None:
    single = record_of(write_run(tmp_path / "a", "Pong-v5", 0, mean=1.0))["agents"][0]["bootstrap"]
    assert single["seeds"] == [1, 1] and "no intervals" in single["note"]
    assert all(found["interval"] is None for found in single["statistics"].values())
    three = record_of(*(write_run(tmp_path / f"b{seed}", "Pong-v5", seed, mean=float(seed)) for seed in range(3)))["agents"][0]["bootstrap"]
    low, high = three["statistics"]["iqm"]["interval"]
    assert three["seeds"] == [3, 3] and low < three["statistics"]["iqm"]["value"] < high


def test_one_game_with_one_seed_takes_no_intervals_from_the_others(tmp_path: pathlib.Path) -> None:
    folders = [write_run(tmp_path / f"p{seed}", "Pong-v5", seed, mean=float(seed**2)) for seed in range(3)]
    record = record_of(*folders, write_run(tmp_path / "b", "Boxing-v5", 0, mean=1.0))
    agent = record["agents"][0]
    found = agent["bootstrap"]
    assert found["seeds"] == [1, 3] and "1 of 2 games have a single seed" in found["note"] and "weighs the same" in found["note"]
    for low, high in (entry["interval"] for entry in found["statistics"].values()):
        assert low < high
    for key in ("mean", "median", "capped_mean"):  # of all seeds, as above it on the page
        assert found["statistics"][key]["value"] == pytest.approx(agent["table"]["ours"][key])
    hns = [100 * board._hns("Pong-v5", 5 / 3), 100 * board._hns("Boxing-v5", 1.0)]
    assert found["statistics"]["mean"]["value"] == pytest.approx(np.mean(hns))


def test_agents_with_other_settings_are_not_averaged(tmp_path: pathlib.Path) -> None:
    record = record_of(
        write_run(tmp_path / "a", "Pong-v5", 0, mean=1.0),
        write_run(tmp_path / "b", "Pong-v5", 1, mean=21.0, policy__separate_networks=False),
    )
    assert [agent["name"] for agent in record["agents"]] == ["ours 1", "ours 2"]
    assert [entry["mean"] for entry in record["games"]] == [1.0, 21.0]
    assert record["agents"][1]["settings"] == "policy.separate_networks False"


def test_the_same_seed_twice_counts_once(tmp_path: pathlib.Path) -> None:
    record = record_of(write_run(tmp_path / "a", "Pong-v5", 0, mean=1.0), write_run(tmp_path / "b", "Pong-v5", 0, mean=3.0))
    assert record["games"][0]["mean"] == 1.0 and record["games"][0]["seeds"] == 1
    assert "left out" in record["runs"][1]["notes"][-1] and record["runs"][0]["notes"] == []


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [
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
    folders = [write_run(tmp_path / name, "Pong-v5", 0, **how) for name, how in (("a_first", first), ("b_second", second))]
    record = record_of(*folders)
    assert record["games"][0]["mean"] == record["runs"][counts]["score"] is not None and record["games"][0]["runs"] == 1
    left_out = f"left out of all means: {folders[counts]} has the same task, settings and seed"
    assert [left_out in run["notes"] for run in record["runs"]] == [counts == 1, counts == 0]


def test_runs_without_a_score_are_listed_and_not_averaged(tmp_path: pathlib.Path) -> None:
    empty = write_run(tmp_path / "b", "Pong-v5", 1)
    (empty / "metrics.jsonl").write_text("")
    record = record_of(write_run(tmp_path / "a", "Pong-v5", 0, mean=1.0), empty)
    games = table(record, "Games")
    assert column(games, "seeds")[0].text == "1 (1 not evaluated)" and record["games"][0]["mean"] == 1.0
    assert "not evaluated yet" in column(table(record, "Runs"), "notes")[1].text


def test_nothing_evaluated_makes_no_table_of_ours(tmp_path: pathlib.Path) -> None:
    empty = write_run(tmp_path / "b", "Pong-v5", 1)
    (empty / "metrics.jsonl").write_text("")
    titles = [found.title for found in tables.all_tables(record_of(empty))]
    assert titles == ["Published agents over all 57 games", "Games", "Runs"]


def test_other_tasks_have_a_list_of_their_own(tmp_path: pathlib.Path) -> None:
    record = record_of(
        write_run(tmp_path / "a", "LunarLander-v3", 0, mean=200.0),
        write_run(tmp_path / "b", "Pong-v5", 0, mean=1.0, novelty__memory_capacity=7),
    )
    assert [entry["task"] for entry in record["others"]] == ["LunarLander-v3"] and record["others"][0]["agent"] == "ours"
    assert [entry["game"] for entry in record["games"]] == ["Pong-v5"]
    assert "our HNS" not in table(record, "Other tasks").columns


def test_budgets_of_training_stand_with_the_scores(tmp_path: pathlib.Path) -> None:
    alike = [write_run(tmp_path / f"p{seed}", "Pong-v5", seed, mean=1.0, lines=lines) for seed, lines in enumerate((20, 22))]
    record = record_of(*alike)
    note = table(record, "Table 1").note
    assert "Ours trained 800 k to 880 k frames a run" in note and "NOT" not in note and "total_steps" not in note
    assert record["agents"][0]["frames"] == [800_000, 880_000]
    assert "Ours trained 800 k to 880 k frames a run" in markdown.render(record) and "90 billion frames" in markdown.render(record)

    record = record_of(*alike, write_run(tmp_path / "p3", "Pong-v5", 3, mean=1.0, lines=23, total_steps=10**9))
    note = table(record, "Table 1").note
    assert "NOT COMPARABLE: seeds of Pong-v5 differ by more than 10% in frames." in note
    assert "1 run of ours has not reached total_steps." in note
    assert column(table(record, "Games"), "frames trained")[0].text == "800 k to 920 k (UNEQUAL) (1 unfinished)"
    assert "trained 230,000 of 1,000,000,000 steps" in column(table(record, "Runs"), "notes")[2].text


def test_only_envpools_games_are_scored_against_the_human(tmp_path: pathlib.Path) -> None:
    record = record_of(
        write_run(tmp_path / "a", "Pong-v5", 0, mean=1.0),
        write_run(tmp_path / "b", "Pong-v5", 1, mean=21.0, environment__kind="gymnasium"),
    )
    assert record["games"][0]["mean"] == 1.0 and record["agents"][0]["name"] == "ours"
    assert [entry["task"] for entry in record["others"]] == ["Pong-v5 (gymnasium)"]


def test_a_heat_map_has_all_arms_of_the_bandit(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a", "Pong-v5", 0, mean=1.0, arms=4, policy__num_policies=32)
    bandit = record_of(folder)["runs"][0]["bandit"]
    assert {len(column) for column in bandit["share"]} == {32} and bandit["return"][0][4:] == [None] * 28
    few = write_run(tmp_path / "b", "Pong-v5", 0, mean=1.0, arms=4, policy__num_policies="many")
    assert {len(column) for column in record_of(few)["runs"][0]["bandit"]["share"]} == {4}


def test_what_is_not_comparable_says_so_where_the_figure_stands(tmp_path: pathlib.Path) -> None:
    record = record_of(write_run(tmp_path / "a", "Pong-v5", 0, mean=1.0, environment__max_episode_steps=300))
    assert "NOT COMPARABLE: 1 run of ours does not follow the protocol" in table(record, "Table 1").note
    assert column(table(record, "Games"), "score from")[0].text == "evaluation, NOT the protocol"
    clean = record_of(write_run(tmp_path / "b", "Pong-v5", 0, mean=1.0))
    assert "NOT" not in table(clean, "Table 1").note + column(table(clean, "Games"), "score from")[0].text


def test_markdown_cannot_be_broken_by_names(tmp_path: pathlib.Path) -> None:
    text = markdown.render(record_of(write_run(tmp_path / "a|b\n<script>`", "Pong-v5", 0, mean=1.0)))
    row = next(line for line in text.splitlines() if "&lt;script>" in line)
    assert "a\\|b" in row and "\\`" in row and row.count(" | ") == 8


def test_the_program_writes_three_files(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "runs" / "good", "Pong-v5", 0, mean=14.6)
    damaged = write_run(tmp_path / "runs" / "odd", "Pong-v5", 1)
    (damaged / "config.json").write_text("{")
    done = judge(tmp_path / "runs", tmp_path / "runs" / "good", f"--out={tmp_path / 'board'}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    text = (tmp_path / "board" / "scoreboard.md").read_text()
    assert text in done.stdout and "Folders that could not be read" in text and "is damaged" in text
    record = json.loads((tmp_path / "board" / "scoreboard.json").read_text())
    assert len(record["runs"]) == 1 and record["games"][0]["hns"] == 1.0  # once, though it was named twice
    assert (tmp_path / "board" / "scoreboard.html").read_text().startswith("<!DOCTYPE html>")


def test_a_folder_that_cannot_be_looked_into_is_listed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs" / "good", "Pong-v5", 0, mean=14.6)
    locked = tmp_path / "runs" / "lost+found"
    locked.mkdir()
    look = pathlib.Path.iterdir

    def refuse(path: pathlib.Path) -> Any:
        if path == locked:  # tests may run as root, who may look everywhere
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(pathlib.Path, "iterdir", refuse)
    monkeypatch.setattr(sys, "argv", ["scoreboard", str(tmp_path / "runs"), f"--out={tmp_path / 'board'}"])
    program.main()
    record = json.loads((tmp_path / "board" / "scoreboard.json").read_text())
    assert len(record["runs"]) == 1 and record["unreadable"][0]["folder"] == str(locked)
    assert "Permission denied" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["scoreboard", str(locked)])  # named by the user, and nothing to show
    with pytest.raises(SystemExit):
        program.main()
    assert "Permission denied" in capsys.readouterr().err


def test_a_terminal_without_the_sign_gets_the_text(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "agent57_jax.scoreboard", str(write_run(tmp_path / "a", "Pong-v5", 0, mean=1.0))]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*command, f"--out={tmp_path}"], cwd=ROOT, env=ascii_only, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and not done.stderr and "? seeds" in done.stdout
    assert "± seeds" in (tmp_path / "scoreboard.md").read_text(encoding="utf-8")


def test_mistakes_end_in_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "bad", "Pong-v5")
    (tmp_path / "bad" / "config.json").write_text("{}")
    for arguments, message in [
        ((), "RUNS"),
        ((tmp_path / "empty",), "holds no run"),
        ((tmp_path / "nowhere",), "nowhere"),
        ((tmp_path / "bad",), "no run could be read"),
        ((tmp_path, "--colour"), "--colour"),
    ]:
        done = judge(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert message in done.stderr
