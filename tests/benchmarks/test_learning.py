"""The learning benchmark: curves, thresholds, statistics, its report, and how its runs are stopped and resumed."""

import json
import pathlib
import sys
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from agent57_jax.config import flatten, to_dict
from benchmarks import learning, learning_curves, learning_report, learning_runs
from benchmarks.learning_tasks import ABLATIONS, AGENTS, TASKS, Budget, Run
from reproductions import common, folders, records

MINUTES = Budget(minutes=10.0)  # points of 15 s


def line(seconds: float, steps: int, greedy: tuple[float, int] | None = None, training: tuple[float, int] | None = None) -> dict[str, Any]:
    """A line of metrics; means come with the number of all episodes so far."""
    found: dict[str, Any] = {"frames": steps, "steps": steps, "updates": steps // 10, "episodes": 0, "seconds": seconds}
    if greedy is not None:
        found |= {"evaluation/return": greedy[0], "evaluation/episodes": greedy[1]}
    if training is not None:
        found |= {"episode/return": training[0], "episodes": training[1]}
    return found


def curve(*returns: float) -> list[learning_curves.Point]:
    return [learning_curves.Point(10.0 * (i + 1), 100 * (i + 1), i, value, 5, None) for i, value in enumerate(returns)]


# Curves ------------------------------------------------------------------------------------------------------------------------------


def test_a_point_has_the_mean_of_its_episodes_and_closes_at_its_end() -> None:
    lines = [
        line(5.0, 100, greedy=(1.0, 1), training=(10.0, 4)),
        line(14.0, 200, greedy=(4.0, 5)),  # four more
        line(16.0, 300, training=(20.0, 5)),
        line(31.0, 400, greedy=(7.0, 10)),
    ]
    first, second = learning_curves.points(lines, [], MINUTES)
    assert first == learning_curves.Point(16.0, 300, 30, (1.0 + 4 * 4.0) / 5, 5, (4 * 10.0 + 20.0) / 5)
    assert second == learning_curves.Point(31.0, 400, 40, 7.0, 5, None)


def test_a_point_with_few_episodes_stays_open() -> None:
    lines = [line(20.0, 100, greedy=(0.0, 4)), line(40.0, 200, greedy=(5.0, 5)), line(50.0, 300, greedy=(9.0, 12))]
    found = learning_curves.points(lines, [], MINUTES)
    assert [(point.seconds, point.greedy_return) for point in found] == [(40.0, 1.0), (50.0, 9.0)]
    assert [point.episodes for point in learning_curves.points(lines[:1], [], MINUTES)] == [4]  # there is no other
    assert learning_curves.points([line(20.0, 100)], [], MINUTES) == []


def test_a_budget_of_steps_spaces_points_by_steps() -> None:
    lines = [line(1.0, 9, greedy=(1.0, 5)), line(2.0, 10, greedy=(3.0, 10)), line(3.0, 20, greedy=(5.0, 15))]
    assert [point.greedy_return for point in learning_curves.points(lines, [], Budget(steps=400))] == [2.0, 5.0]


def test_the_clock_adds_what_each_start_took_before_its_loop() -> None:
    starts = [{"after_seconds": 0.0, "setup_seconds": 7.0}, {"after_seconds": 30.0, "setup_seconds": 5.0}]
    assert [learning_curves.clock(seconds, starts) for seconds in (1.0, 30.0, 30.5)] == [8.0, 37.0, 42.5]


def test_a_threshold_is_reached_by_the_mean_of_three_points() -> None:
    points = curve(0, 9, 0, 6, 6)
    assert [learning_curves.first_reached(points, threshold) for threshold in (5.5, 5.0, 3.0)] == [None, points[3], points[2]]
    assert learning_curves.first_reached(curve(9, 9), 4.0) is None


def test_a_seed_that_never_got_there_is_later_than_all_others() -> None:
    assert learning_curves.spread([3.0, None, 1.0]) == (3.0, 1.0, 3.0, 2, 3)
    assert learning_curves.spread([3.0, None, None]) == (None, 3.0, 3.0, 1, 3)
    assert learning_curves.spread([3.0, 1.0]) == (2.0, 1.0, 3.0, 2, 2)
    assert learning_curves.spread([]) == (None, None, None, 0, 0)


# Tasks and runs ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_rising_thresholds_and_settings(name: str, tmp_path: pathlib.Path) -> None:
    assert list(TASKS[name].thresholds) == sorted(TASKS[name].thresholds) and TASKS[name].minutes > 0
    settings = common.settings_of(Run(name, "agent57", 3, MINUTES, tmp_path).training)
    assert settings.environment.task_id == name
    assert settings.seed == 3 and settings.total_steps < 10_000_000  # what two cores do within the time
    few = Run(name, "agent57", 3, Budget(steps=5_000), tmp_path)
    assert common.settings_of(few.training).total_steps == 5_000


@pytest.mark.parametrize(
    ("task", "empty"),
    [("CartPole-v1", ["agent57_without_cross_mixture"]), ("MiniGrid-DoorKey-8x8-v0", ["agent57_with_cross_mixture"])],
)
def test_an_ablation_differs_from_its_agent_in_its_part_alone(task: str, empty: list[str], tmp_path: pathlib.Path) -> None:
    def settings_of(agent: str) -> dict[str, Any]:
        return flatten(to_dict(common.settings_of(Run(task, agent, 0, MINUTES, tmp_path).training)))

    assert len(set(AGENTS)) == len(AGENTS)
    changes_nothing = []
    for name, (agent, part) in ABLATIONS.items():
        own, whole = settings_of(name), settings_of(agent)
        changed = {setting for setting in own if own[setting] != whole[setting]}
        assert changed <= set(part), name
        run = Run(task, name, 0, MINUTES, tmp_path)
        if changed:
            learning.check_settings(run)
        else:
            changes_nothing.append(name)
            with pytest.raises(folders.ReproductionError, match=f"^{name} is the same as {agent} on {task}: leave it out"):
                learning.check_settings(run)
    assert changes_nothing == empty


def test_seeds_are_outermost(tmp_path: pathlib.Path) -> None:
    words = ["--tasks", "LunarLander-v3", "Boxing-v5", "--agents", "agent57", "ppo", "--seeds", "0", "1", f"--runs={tmp_path}"]
    options, overrides = learning.parse([*words, "--config.policy.num_policies=2"])
    runs = learning.plan(options, overrides)
    assert [run.name for run in runs[:5]] == [
        "LunarLander-v3/agent57/seed0",
        "LunarLander-v3/ppo/seed0",
        "Boxing-v5/agent57/seed0",
        "Boxing-v5/ppo/seed0",
        "LunarLander-v3/agent57/seed1",
    ]
    assert [run.budget.minutes for run in runs[:4]] == [20, 20, 120, 120] and runs[0].folder == tmp_path / runs[0].name
    assert common.settings_of(runs[0].training).policy.num_policies == 2


@pytest.mark.parametrize(
    "words", [["--minutes=0"], ["--steps=0"], ["--seeds", "-1"], ["--episodes=0"], ["--minutes=1", "--steps=1"], ["x"]]
)
def test_mistakes_end_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        learning.parse(["--tasks", "LunarLander-v3", "--agents", "ppo", *words])
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1


# Stopping and resuming, with a training that only writes files ------------------------------------------------------------------------


def save(folder: pathlib.Path, number: int, steps: int, seconds: float) -> None:
    counters = {"steps": steps, "seconds": seconds}
    records.write_json(folder / "checkpoints" / str(number) / "meta" / "metadata", {"content": {"counters": counters}})


def write_metrics(folder: pathlib.Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """A new file in the place of the old one, as a start leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "new").write_text("".join(json.dumps(one) + "\n" for one in lines))
    (folder / "new").replace(folder / "metrics.jsonl")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that a watch sees."""
    now = [1_000.0]
    monkeypatch.setattr(learning_runs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def start(run: Run, clock: list[float], score: float = 0.0, stop_when_solved: bool = False) -> bool:
    """One start: half a second before the loop, then a line of metrics each tenth until it has had enough. Whether it is done."""
    watch = learning_runs.Watch(run, stop_when_solved, {"date": "today"})
    assert not watch.has_enough() and not watch.is_done()  # it would have failed if it ended now
    steps, seconds = folders.saved_steps(run.folder), learning_runs.saved_seconds(run.folder)
    write_metrics(run.folder, [one for one in folders.read_metrics(run.folder) if one["steps"] <= steps])
    clock[0] += 0.5
    while not watch.has_enough() and steps < 100_000:
        clock[0], steps, seconds = clock[0] + 0.1, steps + 100, seconds + 0.1
        with (run.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line(seconds, steps, greedy=(score, steps // 20))) + "\n")
    save(run.folder, steps, steps, seconds)
    return watch.is_done()


def run_of(folder: pathlib.Path, seconds: float) -> Run:
    return Run("LunarLander-v3", "ppo", 0, Budget(minutes=seconds / 60), folder)


def test_a_run_ends_with_its_budget_and_goes_on_with_a_larger_one(tmp_path: pathlib.Path, clock: list[float]) -> None:
    run, longer = run_of(tmp_path, 1.5), run_of(tmp_path, 4.0)
    assert start(run, clock)
    state = learning_runs.read_state(run.folder)
    first = {"after_seconds": 0.0, "setup_seconds": pytest.approx(0.5)}
    assert state["ended"] == "budget" and state["date"] == "today" and state["starts"] == [first]
    assert learning_runs.is_trained(run, False) and not learning_runs.is_trained(longer, False)
    saved = learning_runs.saved_seconds(run.folder)
    assert start(longer, clock)
    second = {"after_seconds": pytest.approx(saved), "setup_seconds": pytest.approx(0.5)}
    assert learning_runs.read_state(run.folder)["starts"] == [first, second]
    assert 4.0 <= learning_runs.saved_seconds(run.folder) + 0.5 + 0.5 < 4.2


def test_a_run_may_end_when_it_is_solved(tmp_path: pathlib.Path, clock: list[float]) -> None:
    run = run_of(tmp_path, 60.0)
    assert start(run, clock, score=300.0, stop_when_solved=True)
    assert learning_runs.read_state(run.folder)["ended"] == "solved"
    assert learning_runs.is_trained(run, True) and not learning_runs.is_trained(run, False)


def test_what_a_kill_has_lost_is_not_counted(tmp_path: pathlib.Path, clock: list[float]) -> None:
    run = run_of(tmp_path, 600.0)
    starts = [{"after_seconds": 0.0, "setup_seconds": 7.0}, {"after_seconds": 30.0, "setup_seconds": 5.0}]
    save(run.folder, 1, 300, 30.0)
    records.write_json(run.folder / learning_runs.STATE, {"starts": starts, "ended": None})
    write_metrics(run.folder, [line(seconds, int(10 * seconds)) for seconds in (10.0, 30.0, 700.0)])
    assert not learning_runs.is_trained(run, False)  # 700 s are in the metrics, but no checkpoint has them
    watch = learning_runs.Watch(run, False, {})
    assert not watch.has_enough()  # the file is still that of the start before
    write_metrics(run.folder, [line(seconds, int(10 * seconds)) for seconds in (10.0, 30.0, 31.0)])
    clock[0] += 1.2
    assert not watch.has_enough()
    assert learning_runs.read_state(run.folder)["starts"] == [starts[0], {"after_seconds": 30.0, "setup_seconds": pytest.approx(0.2)}]


def test_finished_runs_are_not_run_again(tmp_path: pathlib.Path) -> None:
    options, _ = learning.parse(
        ["--tasks", "LunarLander-v3", "--agents", "ppo", "dqn", "--seeds", "0", "--minutes=1", f"--runs={tmp_path}"]
    )
    trained, new = learning.plan(options, {})
    make_run(trained, seconds=61.0, score=100.0)
    said: list[str] = []
    jobs, failures = learning.jobs_of([trained, new], options, {}, said.append)
    assert [job.name for job in jobs] == [new.name] and not failures
    assert said == [f"{trained.name}: trained and evaluated already", f"{new.name}: to be trained"]
    assert jobs[0].command[:3] == [sys.executable, "-m", "benchmarks.peers"] and jobs[0].then is not None

    (trained.folder / "evaluation.json").unlink()
    jobs, _ = learning.jobs_of([trained], options, {}, said.append)
    assert [job.name for job in jobs] == [f"evaluation of {trained.name}"] and "--evaluate=100" in jobs[0].command
    (trained.folder / "metrics.jsonl").write_text("what is this\n")
    jobs, failures = learning.jobs_of([trained], options, {}, said.append)
    assert not jobs and len(failures) == 1 and "not a line of metrics" in failures[0]


# The report --------------------------------------------------------------------------------------------------------------------------


def make_run(run: Run, seconds: float, score: float, returns: float = 0.0, ended: str | None = "budget") -> None:
    """Files of a run as it would have left them."""
    write_metrics(run.folder, [line(seconds * (i + 1) / 10, 100 * (i + 1), (returns, 10 * (i + 1)), (1.0, i + 1)) for i in range(10)])
    save(run.folder, 7, 1_000, seconds)
    evaluation = {"episodes": 100, "seed": run.seed, "checkpoint": 7, "mean": score, "median": score, "arm": 2, "returns": [score] * 100}
    records.write_json(run.folder / "evaluation.json", evaluation)
    machine = {"cpu": "Some CPU", "cores": 2}
    state = {"machine": machine, "budget": {"minutes": 1.0, "steps": None}, "ended": ended}
    records.write_json(run.folder / learning_runs.STATE, {**state, "starts": [{"after_seconds": 0.0, "setup_seconds": 0.5}]})


@pytest.fixture
def found(tmp_path: pathlib.Path) -> dict[str, Any]:
    """The record of two agents, one of which reached the first threshold on two of three seeds, and of a run that has not begun."""
    words = ["--tasks", "LunarLander-v3", "--agents", "agent57", "ppo", "--seeds", "0", "1", "2", "--minutes=1", f"--runs={tmp_path}"]
    options, _ = learning.parse(words)
    runs = learning.plan(options, {})
    for run in runs:
        if run.agent == "agent57":
            make_run(run, 60.0 + run.seed, score=10.0 * run.seed, returns=5.0 if run.seed else -5.0)
        elif run.seed == 0:
            make_run(run, 60.0, score=250.0, returns=250.0, ended="solved")
    return learning_report.record(runs, 100, {"date": "today", "git": None, "machine": None}, "a command")


def test_the_record_has_curves_thresholds_and_statistics(found: dict[str, Any]) -> None:
    agents = found["tasks"]["LunarLander-v3"]["agents"]
    assert list(agents) == ["agent57", "ppo"] and [run["seed"] for run in agents["agent57"]["runs"]] == [0, 1, 2]
    over = agents["agent57"]["over_seeds"]
    assert over["score"] == {"median": 10.0, "lowest": 0.0, "highest": 20.0, "seeds": 3, "of": 3}
    assert over["reached"]["0"]["steps"] == {"median": 300, "lowest": 300, "highest": 300, "seeds": 2, "of": 3}
    assert over["reached"]["200"]["seconds"]["median"] is None
    (run,) = agents["ppo"]["runs"]
    assert run["ended"] == "solved" and run["seconds"] == 60.5 and run["arm"] == 2
    assert run["curve"]["seconds"][:2] == [6.5, 12.5] and run["curve"]["greedy_return"] == [250.0] * 10


def test_the_table_shows_what_failed_too(found: dict[str, Any]) -> None:
    text = learning_report.table(found)
    assert text.startswith(learning_report.BEGIN) and text.endswith(learning_report.END)
    ours, peer = text.splitlines()[3:5]
    assert "| 10 (0..20) | 200: not reached | 0, 1, 2 |" in ours and "2 cores, Some CPU" in ours
    assert "| 250 | 200: 0.3 min | 0 (1 ended when solved) |" in peer
    assert peer.endswith(" --seeds 0 --minutes=1 --stop_when_solved` |")
    assert ours.endswith("`python -m benchmarks.learning --tasks LunarLander-v3 --agents agent57 --seeds 0 1 2 --minutes=1` |")


@pytest.fixture
def unpictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take seconds."""
    monkeypatch.setattr(learning_report, "draw", lambda name, task, path: None)


@pytest.mark.usefixtures("unpictured")
def test_runs_without_folders_stay_in_the_record(found: dict[str, Any], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    learning_report.write(tmp_path / "learning", found, None)
    task = found["tasks"]["LunarLander-v3"]
    ours, peer = task["agents"]["agent57"], task["agents"]["ppo"]
    anew = {**ours["runs"][1], "score": 99.0, "budget": {"minutes": 2.0, "steps": None}}
    begun = {**ours["runs"][2], "score": None}
    other = {**peer, "overrides": {"total_steps": 7}}
    later = {**found, "tasks": {"LunarLander-v3": {**task, "agents": {"ppo": other, "agent57": {**ours, "runs": [anew, begun]}}}}}
    text = learning_report.write(tmp_path / "learning", later, None)
    agents = json.loads((tmp_path / "learning.json").read_text())["tasks"]["LunarLander-v3"]["agents"]
    assert list(agents) == ["agent57", "ppo"]
    assert [(run["seed"], run["score"]) for run in agents["agent57"]["runs"]] == [(0, 0.0), (1, 99.0), (2, 20.0)]
    assert agents["agent57"]["over_seeds"]["score"]["median"] == 20.0
    assert agents["agent57"]["over_seeds"]["reached"] == ours["over_seeds"]["reached"]
    assert agents["ppo"]["overrides"] == {"total_steps": 7} and "ppo: earlier runs with other settings" in capsys.readouterr().out
    assert "| 0, 1, 2 (seed 1 with --minutes=2) |" in text


@pytest.mark.usefixtures("unpictured")
def test_records_of_other_protocols_are_not_mixed(found: dict[str, Any], tmp_path: pathlib.Path) -> None:
    learning_report.write(tmp_path / "learning", found, None)
    path = tmp_path / "learning.json"
    path.write_text(path.read_text().replace('"ppo"', '"an_agent_that_is_gone"'))
    learning_report.write(tmp_path / "learning", {**found, "tasks": {}}, None)
    assert list(json.loads(path.read_text())["tasks"]["LunarLander-v3"]["agents"]) == ["agent57"]
    with pytest.raises(folders.ReproductionError, match="scores over 100 episodes, not 10: set another --out"):
        learning_report.earlier_record(tmp_path / "learning", 10)


def test_the_report_is_written_into_a_document(found: dict[str, Any], tmp_path: pathlib.Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{learning_report.BEGIN}\nold\n{learning_report.END}\nafter\n")
    text = learning_report.write(tmp_path / "results" / "learning", found, page)
    assert page.read_text() == f"before\n{text}\nafter\n"
    assert json.loads((tmp_path / "results" / "learning.json").read_text())["tasks"]
    assert (tmp_path / "results" / "learning_LunarLander-v3.png").read_bytes().startswith(b"\x89PNG")
    page.write_text("nothing\n")
    with pytest.raises(folders.ReproductionError):
        learning_report.write_into(page, text)


@pytest.mark.slow
def test_a_real_run_is_trained_stopped_resumed_and_judged(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION"):  # a run of its own has one device
        monkeypatch.delenv(name, raising=False)
    words = ["learning", "--tasks", "LunarLander-v3", "--agents", "r2d2_retrace", "--seeds", "0", "--profile=smoke", "--episodes=2"]
    words += [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'learning'}"]
    monkeypatch.setattr(sys, "argv", [*words, "--minutes=0.7"])
    learning.main()
    run = json.loads((tmp_path / "learning.json").read_text())["tasks"]["LunarLander-v3"]["agents"]["r2d2_retrace"]["runs"][0]
    assert run["ended"] == "budget" and len(run["returns"]) == 2 and run["seconds"] >= 42
    monkeypatch.setattr(sys, "argv", [*words, f"--minutes={run['seconds'] / 60 + 0.4}"])
    learning.main()
    again = json.loads((tmp_path / "learning.json").read_text())["tasks"]["LunarLander-v3"]["agents"]["r2d2_retrace"]["runs"][0]
    assert len(again["starts"]) == 2 and again["steps"] > run["steps"] and again["seconds"] >= run["seconds"] + 23
