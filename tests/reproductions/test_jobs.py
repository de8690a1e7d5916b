import dataclasses
import os
import pathlib
import re
import sys

import pytest

from reproductions.jobs import Job, JobError, Supervisor, shares, tail


def job(folder: pathlib.Path, name: str, code: str = "pass", is_done: bool = True, then: Job | None = None) -> Job:
    return Job(name, [sys.executable, "-c", code], folder / f"{name}.log", lambda: is_done, then)


@pytest.mark.parametrize(
    ("cores", "workers", "expected"),
    [
        ([0, 1], 2, [[0], [1]]),
        ([0, 1], 1, [[0, 1]]),
        ([4, 5, 6, 7, 8], 2, [[4, 5], [6, 7]]),  # equal, so that no run is faster for its place
        ([3], 4, [[3]]),
    ],
)
def test_shares_are_equal_and_disjoint(cores: list[int], workers: int, expected: list[list[int]]) -> None:
    assert shares(cores, workers) == expected


def test_jobs_run_on_their_share_and_leave_ours_alone(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = os.sched_getaffinity(0)
    code = "import os; print('cores', sorted(os.sched_getaffinity(0)))"
    with Supervisor(2, tmp_path) as supervisor:
        supervisor.run([job(tmp_path, name, code) for name in "abc"], total=5)
    assert os.sched_getaffinity(0) == own
    allowed = [f"cores {share}" for share in shares(sorted(own), 2)]
    assert all((tmp_path / f"{name}.log").read_text().splitlines()[1] in allowed for name in "abc")
    printed = capsys.readouterr().out
    assert "[3/5] " in printed and "[5/5] " in printed and "[1/5] " not in printed  # two were done before
    assert "c finished in" in printed


def test_a_failure_shows_its_log_and_the_others_go_on(tmp_path: pathlib.Path) -> None:
    jobs = [
        job(tmp_path, "bad", "for i in range(50): print('line', i)\nraise SystemExit(3)"),
        job(tmp_path, "idle", is_done=False),
        job(tmp_path, "good", "print('well')"),
    ]
    with Supervisor(1, tmp_path) as supervisor, pytest.raises(JobError) as caught:
        supervisor.run(jobs)
    message = str(caught.value)
    assert "bad failed (exit code 3)" in message and "line 49" in message and "line 1\n" not in message
    assert "idle failed (it ended before it was done)" in message
    assert "2 of 3" in message and "good" not in message
    assert tail(tmp_path / "good.log").splitlines()[-1] == "    well"


def test_what_follows_a_job_runs_only_where_it_was_done(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = job(tmp_path, "bad", "raise SystemExit(1)", then=job(tmp_path, "never"))
    good = job(tmp_path, "good", then=job(tmp_path, "next"))
    with Supervisor(1, tmp_path) as supervisor, pytest.raises(JobError, match="1 of 5 commands failed"):
        supervisor.run([bad, good, job(tmp_path, "last")])
    assert re.findall(r"^(\w+) starts", capsys.readouterr().out, re.MULTILINE) == ["bad", "good", "next", "last"]


def test_a_job_that_has_enough_is_asked_to_end(tmp_path: pathlib.Path) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('well', flush=True); time.sleep(60)"
    long = job(tmp_path, "long", code)
    long = dataclasses.replace(long, is_done=lambda: seen[-1], has_enough=lambda: seen.append("    well" in tail(long.log)) or seen[-1])
    seen: list[bool] = [False]
    with Supervisor(1, tmp_path) as supervisor:
        supervisor.run([long])
