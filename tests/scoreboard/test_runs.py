"""Folders of runs, whole and damaged."""

import json
import os
import pathlib
from typing import Any

import pytest

from agent57_jax.config import SettingsError
from agent57_jax.scoreboard import runs
from tests.scoreboard.synthetic import write_run

COIN = {"game": "random_coin"}


def write_lines(folder: pathlib.Path, lines: list[Any], end: str = "\n") -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text + end)


def line(frames: float, **values: float | None) -> dict[str, Any]:
    named = {key.replace("__", "/"): value for key, value in values.items()}
    return {"frames": frames, "episodes": frames, "seconds": 36 * frames, **named}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (
            {"seed": 3, "mean": 12.5},
            {"task": "Pong-v5", "seed": 3, "score": 12.5, "source": "evaluation", "episodes": 2, "frames": 800_000, "is_unfinished": False},
        ),
        (
            {"mean": 1.0, "evaluation": {"frames_trained": 4_000}},
            {"frames": 4_000, "notes": ["evaluated at 4,000 frames; trained on since then"]},
        ),
        (
            {"mean": 1.0, "lines": 5, "total_steps": 200_000},
            {"is_unfinished": True, "notes": ["trained 50,000 of 200,000 steps"]},
        ),
        (
            {"mean": 1.0, "environment__repeat_action_probability": 0.25},
            {
                "follows_protocol": False,
                "notes": ["not the protocol: environment.repeat_action_probability 0.25 instead of 0.0"],
            },
        ),
        # A grid world has the name of its kind, and another adapter's game of the same name is another task. Neither has a protocol.
        ({"mean": 1.0, "environment__kind": "random_coin", "evaluation__epsilon": 0.5, "evaluation": COIN}, {"task": "random_coin"}),
        (
            {"mean": 1.0, "environment__kind": "gymnasium", "environment__noop_max": 0},
            {"task": "Pong-v5 (gymnasium)", "source": "evaluation"},
        ),
        ({"task": "CartPole-v1", "mean": 1.0, "environment__kind": "gymnasium"}, {"task": "CartPole-v1"}),
    ],
)
def test_what_a_folder_tells(tmp_path: pathlib.Path, how: dict[str, Any], expected: dict[str, Any]) -> None:
    run = runs.read(write_run(tmp_path / "a", **how))
    expected = {"follows_protocol": True, "notes": [], **expected}
    assert {name: getattr(run, name) for name in expected} == expected
    count = how.get("lines", 20)
    assert len(run.history.bins) == count and run.history.hours == pytest.approx(0.01 * count)


def test_without_an_evaluation_the_last_greedy_episodes_stand_in(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a")
    lines = [(100, -21.0, 50.0), (200, 1.0, 60.0), (300, None, None), (400, 4.0, 80.0)]
    write_lines(folder, [line(frames, evaluation__return=mean, evaluation__episodes=count) for frames, mean, count in lines])
    run = runs.read(folder)
    assert (run.score, run.source, run.episodes, run.frames) == (pytest.approx((10 * 1 + 20 * 4) / 30), "training", 30, 400)
    assert any("no evaluation" in note for note in run.notes)


def test_nothing_to_judge_is_not_evaluated_yet(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "metrics.jsonl").unlink()
    run = runs.read(folder)
    assert (run.score, run.source, run.frames) == (None, "none", 0)
    assert run.notes == ["no metrics.jsonl", "not evaluated yet"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        "null",
        '{"mean": 3}',
        '{"game": "Pong-v5", "episodes": 2, "mean": NaN, "frames_trained": 5}',
        '{"game": "Boxing-v5", "episodes": 2, "mean": 3.0, "frames_trained": 5}',
        '{"game": "Pong-v5", "episodes": [], "mean": 3, "frames_trained": 5}',
        '{"game": "Pong-v5", "episodes": 1e999, "mean": 3, "frames_trained": 5}',
        '{"game": ["Pong-v5"], "episodes": 2, "mean": 3, "frames_trained": 5}',
    ],
)
def test_a_damaged_evaluation_is_a_note(tmp_path: pathlib.Path, text: str) -> None:
    folder = write_run(tmp_path / "a", mean=1.0)
    (folder / "evaluation.json").write_text(text)
    run = runs.read(folder)
    assert run.source == "training" and any(note.startswith("evaluation.json is ") for note in run.notes)


def test_an_evaluation_of_more_frames_than_the_run_has_is_of_another_run(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a", mean=1.0, lines=5, evaluation={"frames_trained": 800_000})
    run = runs.read(folder)
    assert (run.source, run.frames) == ("training", 200_000)
    assert "evaluation.json is of 800,000 frames, but the run has 200,000: it is of another run" in run.notes
    (folder / "metrics.jsonl").write_text("")  # only just begun
    assert runs.read(folder).score is None
    # Where the last lines are missing, the evaluation may well be the run's own.
    for text in ("nonsense\n", None):
        (folder / "metrics.jsonl").unlink()
        if text is not None:
            (folder / "metrics.jsonl").write_text(text)
        assert runs.read(folder).source == "evaluation"


def test_a_checkpoint_ahead_of_the_metrics_is_the_runs_own(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a", mean=1.0, lines=5, evaluation={"frames_trained": 230_000})
    meta = folder / "checkpoints" / "7" / "meta" / "metadata"
    meta.parent.mkdir(parents=True)
    for text, source in (("{", "training"), ('{"content": {"counters": {"frames": 230000}}}', "evaluation")):
        meta.write_text(text)
        assert runs.read(folder).source == source


def test_videos_are_in_the_order_of_their_numbers(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a", mean=1.0)
    names = ["of mine.mp4", "999999_steps9_return1.mp4", "1000000_steps10_return2.mp4"]
    (folder / "videos").mkdir()
    for age, name in enumerate(names):
        (folder / "videos" / name).write_bytes(b"x")
        os.utime(folder / "videos" / name, (1e9 - age, 1e9 - age))  # as a copy leaves them
    assert [path.name for path in runs.read(folder).videos] == names


def test_damaged_lines_are_counted_and_left_out(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a", mean=1.0)
    null = line(50, episode__return=None, evaluation__return=None)
    odd = {"frames": 60, "episode/return": "high", "evaluation/return": 1e308}
    odd |= {"arm/pulls_x": 3.0, "arm/pulls_1": "many", "arm/pulls_999999999": 1.0}
    write_lines(folder, [line(40, episode__return=1.0), "{half a", "[]", '{"frames": "many"}', null, odd, '{"frames": 99'], end="")
    run = runs.read(folder)
    assert "metrics.jsonl has 3 damaged lines" in run.notes
    assert run.history.frames == 60  # the last line is still being written
    assert [bin_.returns["training"] for bin_ in run.history.bins] == [40.0, 0.0, 0.0]  # weighted by the 40 episodes of its line
    assert not any(bin_.pulls for bin_ in run.history.bins)


def test_many_lines_are_merged_without_losing_any(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a", mean=1.0)
    count = 7 * runs.MAX_BINS + 13
    lines = [line(i + 1, episode__return=float(i), arm__pulls_2=2.0, arm__return_2=float(i)) for i in range(count)]
    write_lines(folder, lines)
    bins = runs.read(folder).history.bins
    assert runs.MAX_BINS / 2 <= len(bins) <= runs.MAX_BINS
    assert [bin_.frames for bin_ in bins] == sorted({bin_.frames for bin_ in bins}) and bins[-1].frames == count
    assert sum(bin_.returns["training"] for bin_ in bins) == sum(range(count)) == sum(bin_.arm_returns[2] for bin_ in bins) / 2
    assert sum(bin_.episodes["training"] for bin_ in bins) == count == sum(bin_.pulls[2] for bin_ in bins) / 2
    assert len({bin_.episodes["training"] for bin_ in bins[:-1]}) == 1  # as many lines each, but for the last, which goes on
    # Neighbours only: each bin has the mean of the lines between its border and the one before.
    assert bins[0].returns["training"] / bins[0].episodes["training"] == pytest.approx((bins[0].frames - 1) / 2)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seed": 0, "environment": {"kind": "envpool"}}', "\0"])
def test_settings_that_say_nothing_are_an_error(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SettingsError):
        runs.read(tmp_path)


def test_runs_are_found_in_folders_of_folders_and_once(tmp_path: pathlib.Path) -> None:
    a, b = write_run(tmp_path / "x" / "a", "Pong-v5"), write_run(tmp_path / "b", "Pong-v5")
    write_run(a / "checkpoints" / "inner", "Pong-v5")  # what lies in a run is no other run
    (tmp_path / "x" / "back").symlink_to(tmp_path)
    unreadable: list[tuple[pathlib.Path, str]] = []
    assert list(runs.find(tmp_path, unreadable)) == [b, a]
    assert list(runs.find(a, unreadable)) == [a] and unreadable == []
