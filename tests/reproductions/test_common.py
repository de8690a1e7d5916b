import contextlib
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from agent57_jax import config
from agent57_jax.config import SettingsError
from reproductions import common, folders, records
from reproductions.common import Run, Training
from reproductions.folders import ReproductionError
from reproductions.jobs import Supervisor, shares
from tests.reproductions.fakes import programs

TRAINING = Training("a", "configs/random_coin.py:smoke,ngu", {"policy.beta_max": 0.5, "total_steps": 1000}, seed=3)


@pytest.fixture
def make(program: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the figure of fakes/programs.py."""
    return functools.partial(program, "figure")


def write_run(folder: pathlib.Path, steps: int, saved: int | None, total: int | None = None, **changes: Any) -> None:
    """A folder as train.py leaves it."""
    values = config.to_dict(common.settings_of(TRAINING))
    values["policy"].update(changes)
    values["total_steps"] = total or values["total_steps"]
    values["logging"]["period_seconds"] = 77.0  # changes nothing that matters
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "metrics.jsonl").write_text(json.dumps({"steps": steps, "seconds": 1.0}) + '\n{"steps": 99999')
    if saved is not None:
        records.write_json(folder / "checkpoints" / "2" / "meta" / "metadata", {"content": {"counters": {"steps": saved}}})


def test_a_training_is_a_command_line() -> None:
    overrides = {"novelty.embedding": "random", "network.conv_features": (8, 16), "logging.tensorboard": False}
    training = Training("a", "configs/random_coin.py:smoke,ngu", overrides, seed=3)
    assert common.train_command(training, common.RUNS / "coin" / "cpu" / "a") == [
        sys.executable,
        "train.py",
        "--config=configs/random_coin.py:smoke,ngu",
        "--config.novelty.embedding=random",
        "--config.network.conv_features=(8,16)",
        "--config.logging.tensorboard=false",
        "--config.seed=3",
        "--workdir=runs/reproductions/coin/cpu/a",
    ]
    settings = common.settings_of(Training("a", "configs/random_coin.py:smoke,ngu", {**overrides, "network.conv_features": (8,)}, seed=3))
    assert (settings.seed, settings.environment.grid_size, settings.policy.separate_networks) == (3, 5, False)
    assert settings.novelty.embedding is config.Embedding.RANDOM and settings.network.conv_features == (8,)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("random_coin.py:smoke", {"policy.beta": 1.0}, "beta"),
        ("random_coin.py:smoke", {"polcy.beta_max": 1.0}, "polcy"),
        ("random_coin.py:smoke", {"policy.beta_max": "much"}, "policy.beta_max is 'much'"),
        ("random_coin.py:smoke", {"novelty.embedding": "odd"}, "novelty.embedding is 'odd', but must be one of learnt, random"),
        ("random_coin.py:smal", {}, "smal"),
        ("random_con.py", {}, "random_con"),
    ],
)
def test_settings_that_cannot_work_name_the_run(name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        common.settings_of(Training("this_run", f"configs/{name}", overrides, seed=0))
    assert str(caught.value).startswith("run this_run: ") and message in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "saved", "changes", "expected"),
    [
        (1008, 1008, {}, True),
        (1008, 500, {}, False),  # killed before the last checkpoint was complete
        (500, 500, {}, False),
        (500, None, {}, False),
        (1008, 1008, {"beta_max": 0.3}, r"other settings \(policy.beta_max was 0.3, is 0.5\)"),
        (500, None, {"beta_max": 0.3}, False),  # train.py starts anew in it
        (2000, 2000, {"total": 2000}, "total_steps was 2000, is 1000"),
        (500, 500, {"total": 500}, False),  # goes on
    ],
)
def test_a_run_is_finished_when_its_end_is_saved_and_its_settings_are_ours(
    steps: int, saved: int | None, changes: dict[str, Any], expected: bool | str, tmp_path: pathlib.Path
) -> None:
    settings = common.settings_of(TRAINING)
    assert folders.finished(tmp_path / "a", settings) is False
    write_run(tmp_path / "a", steps, saved, **changes)
    refused = isinstance(expected, str)
    with pytest.raises(ReproductionError, match=expected) if refused else contextlib.nullcontext():
        assert folders.finished(tmp_path / "a", settings) is expected


def test_an_evaluation_is_made_once_for_a_checkpoint(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "EVALUATE", programs.FAKES / "evaluate.py")
    write_run(tmp_path / "a", 1008, 1008)
    made = tmp_path / "a" / "evaluations.txt"
    for episodes, seed, checkpoint, times in ((3, 0, 2, 1), (3, 0, 2, 1), (4, 0, 2, 2), (4, 1, 2, 3), (4, 1, 3, 4)):
        (tmp_path / "a" / "checkpoints" / str(checkpoint)).mkdir(exist_ok=True)
        with Supervisor(1, common.ROOT) as supervisor:
            common.evaluate_all(supervisor, [(tmp_path / "a", seed)], episodes)
        found = folders.evaluation_of(tmp_path / "a", episodes, seed)
        assert found is not None and (found["episodes"], found["seed"], found["checkpoint"]) == (episodes, seed, checkpoint)
        assert len(made.read_text().splitlines()) == times


def test_a_measurement_is_remembered_for_a_checkpoint(tmp_path: pathlib.Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return {"value": len(calls)}

    for episodes, checkpoint, times in ((3, 1, 1), (3, 1, 1), (4, 1, 2), (4, 2, 3)):
        (tmp_path / "checkpoints" / str(checkpoint)).mkdir(parents=True, exist_ok=True)
        assert folders.remembered(tmp_path, "visits", {"episodes": episodes}, compute) == {"value": times}


def test_curves_leave_out_missing_values_and_are_thinned() -> None:
    lines = [{"steps": i, "seconds": 2.0 * i, "x": None if i == 1 else float(i)} for i in range(4)] + [{"steps": 4, "seconds": 8.0}]
    run = Run(TRAINING, True, lines, {})
    assert run.curve("x", over="seconds") == [(0.0, 0.0), (4.0, 2.0), (6.0, 3.0)]
    assert (run.steps, run.seconds) == (4, 8.0)
    assert common.thinned([(float(i), 10.0 * i) for i in range(5)], limit=3) == [(0.5, 5.0), (2.5, 25.0), (4.0, 40.0)]
    assert common.thinned([]) == []
    assert common.late_mean([(float(i), float(i)) for i in range(101)]) == 95.0
    assert common.late_mean([]) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile=gpu"], "invalid choice: 'gpu'"),
        (["--profle=cpu"], "unrecognized arguments: --profle=cpu"),
        (["--workers=0"], "--workers is 0, but must be at least 1"),
        (["--partial"], "no run in"),
        (["--redraw"], "there is no record"),
    ],
)
def test_mistakes_end_in_one_line(arguments: list[str], message: str, make: Callable[..., Any]) -> None:
    done = make(*arguments)
    assert done.code == 2, done.errors
    assert message in done.errors and len(done.errors.splitlines()) == 1 and done.errors.startswith("error: ")


def test_a_figure_is_made_in_pieces(make: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    failed = make(FAKE_FAIL="2")
    assert failed.code == 1 and "seed2 failed (exit code 1)" in failed.errors and "the loss was not finite" in failed.errors
    assert "The same command resumes: python -m reproductions.fake --profile=cpu" in failed.errors
    assert not (tmp_path / "results").exists()

    assert make("--partial").code == 0
    path = tmp_path / "results" / "fake_cpu.json"
    record = json.loads(path.read_text())
    assert record["partial"] is True and list(record["settings"]["runs"]) == ["seed0", "seed1", "seed3"]

    done = make()
    assert done.code == 0, done.errors
    assert "3 of 4 runs are finished already" in done.output and "[4/4] seed2 finished in" in done.output
    assert "holds: all is well: expected 1, measured 1.0" in done.output
    home = tmp_path / "runs" / "fake" / "cpu"
    once, twice = ((home / name / "starts.txt").read_text().splitlines() for name in ("seed0", "seed2"))
    assert len(once) == 1 and len(twice) == 2 and once[0] in map(str, shares(sorted(os.sched_getaffinity(0)), 2))
    assert (tmp_path / "results" / "fake_cpu.png").read_text() == "picture"

    text = path.read_text()
    assert str(tmp_path) not in text and str(common.ROOT) not in text
    record = json.loads(text)
    wanted = {
        "figure": "fake",
        "profile": "cpu",
        "command": "python -m reproductions.fake --profile=cpu",
        "partial": False,
        "seeds": [0, 1, 2, 3],
        "data": {"returns": [1.0] * 4},
        "expectations": {"all is well": {"expected": "1", "measured": 1.0, "holds": True}},
    }
    assert set(record) == {*wanted, "date", "hours", "git", "machine", "sessions", "settings"}
    assert {name: record[name] for name in wanted} == wanted
    assert record["machine"]["device"] == "fake device" and len(record["sessions"]) == 2
    assert record["hours"]["training"] == records.rounded(4 * 6.0 / 3600) and record["hours"]["wall"] > 0
    run, shared = record["settings"]["runs"]["seed2"], record["settings"]["shared"]
    wanted = {
        "config": "configs/random_coin.py:smoke,ngu",
        "overrides": {"policy.beta_max": 0.5},
        "settings": {"seed": 2},
        "finished": True,
    }
    assert {name: run[name] for name in wanted} == wanted
    assert set(shared) | {"seed"} == set(config.flatten(config.to_dict(config.Settings()))) and shared["policy.beta_max"] == 0.5

    (tmp_path / "results" / "fake_cpu.png").unlink()
    assert make("--redraw").code == 0
    assert (tmp_path / "results" / "fake_cpu.png").exists() and path.read_text() == text


def test_a_signal_reaches_the_runs_and_the_same_command_goes_on(
    make: Callable[..., Any], stopped_program: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    """That of all games sends the other signal."""
    home = tmp_path / "runs" / "fake" / "cpu"
    running = [f"seed{i}" for i, _ in enumerate(shares(sorted(os.sched_getaffinity(0)), 2))]

    def start_another() -> None:
        second = make()
        assert second.code == 2 and "another process is at work" in second.errors

    stopped = stopped_program(signal.SIGINT, [home / name / "train.log" for name in running], start_another, "figure")
    assert stopped.code == 128 + signal.SIGINT, stopped.errors
    last = stopped.output.splitlines()[-1]
    assert last == "stopped by SIGINT; the same command resumes: python -m reproductions.fake --profile=cpu"
    assert all(folders.saved_steps(home / name) > 0 for name in running)
    assert not (home / "seed2").exists()
    assert make().code == 0
    assert len((home / "seed0" / "starts.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize("end", ["", '{"steps": 3, "half', "\0\0\0"])
def test_the_last_line_is_read_from_the_end(tmp_path: pathlib.Path, end: str) -> None:
    assert folders.last_metrics(tmp_path) is None
    for lines in (0, 1, 2, 3):
        (tmp_path / "metrics.jsonl").write_text("".join(f'{{"steps": {10 * i}, "return": 0.5}}\n' for i in range(lines)) + end)
        assert folders.last_metrics(tmp_path) == (folders.read_metrics(tmp_path) or [None])[-1]


def test_of_a_large_file_only_the_end_is_read(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.seek(1 << 36)  # 64 GiB that take no room
        file.write(b'\n{"steps": 8}\n')
    assert folders.last_metrics(tmp_path) == {"steps": 8}


def test_damaged_metrics_are_named(tmp_path: pathlib.Path) -> None:
    for text in ("nonsense\n", "[]\n", '{"frames": 3}\n', '{"steps": 1}\n\xff\n'):
        (tmp_path / "metrics.jsonl").write_text(text)
        for read in (folders.last_metrics, folders.read_metrics):
            with pytest.raises(folders.DamageError, match=f"line .*{tmp_path}/metrics.jsonl is not a line of metrics"):
                read(tmp_path)


def test_a_folder_stays_locked_while_a_child_lives(tmp_path: pathlib.Path) -> None:
    with common.locked(tmp_path) as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    try:
        with contextlib.ExitStack() as stack, pytest.raises(ReproductionError, match="another process is at work"):
            stack.enter_context(common.locked(tmp_path))
    finally:
        child.kill()
        child.wait()
    with common.locked(tmp_path):
        pass
