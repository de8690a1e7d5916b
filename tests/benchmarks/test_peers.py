"""The peers of the learning benchmark: their environments, and a run that is stopped and resumed."""

import json
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from agent57_jax.types import FIRST, LAST, MID, EnvironmentSpec, TimeStep
from benchmarks import peer_settings
from benchmarks.learning_tasks import PEERS, TASKS
from reproductions import common, folders

VERSIONS = "this environment has no peers: pip install -r requirements-peers.txt"


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_settings_for_every_peer(task: str) -> None:
    found = [peer_settings.of(task, TASKS[task].config, agent) for agent in PEERS]
    assert all(peer.source and (peer.num_envs == 1) == (agent in ("dqn", "qrdqn")) for peer, agent in zip(found, PEERS, strict=True))


class Scripted:
    """One environment whose episodes have given lengths; observation = 1000 * number + 10 * episode + step, reward = 2 - action."""

    def __init__(self, number: int, lengths: list[int], is_truncated: list[bool]) -> None:
        self.spec, self.num_envs = EnvironmentSpec((2,), np.dtype(np.float32), 5, tuple("abcde"), 1), 1
        self._script = [
            (1000 * number + 10 * episode + step, step, LAST if step == length else MID if step else FIRST, float(step < length or cut))
            for episode, (length, cut) in enumerate(zip(lengths, is_truncated, strict=True))
            for step in range(length + 1)
        ]
        self._at, self._reward, self._return = 0, 0.0, 0.0
        self.actions: list[int] = []

    def reset(self) -> None: ...

    def send(self, actions: np.ndarray) -> None:
        self._at += 1
        if self._script[self._at][2] == FIRST:
            self._reward = self._return = 0.0
            return
        self.actions.append(int(actions[0]))
        self._reward = 2.0 - float(actions[0])
        self._return += self._reward

    def recv(self) -> TimeStep:
        value, step, step_type, discount = self._script[self._at]
        observation = np.full((1, 2), value, np.float32)
        reward, discounts, returns = (np.array([number], np.float32) for number in (self._reward, discount, self._return))
        return TimeStep(observation, reward, discounts, np.array([step_type]), returns, np.array([step], np.int32), {})

    def close(self) -> None: ...


def vec_env(clip_rewards: bool = False) -> Any:
    pytest.importorskip("stable_baselines3", reason=VERSIONS)
    from benchmarks.peer_environments import HostVecEnv

    return HostVecEnv([Scripted(0, [2, 3], [False, True]), Scripted(1, [3, 3], [True, False])], clip_rewards)


def test_an_episode_that_ends_starts_anew_in_the_same_step_and_others_go_on() -> None:
    environments = vec_env()
    assert environments.reset()[:, 0].tolist() == [0, 1000]
    observations, rewards, dones, infos = environments.step(np.array([1, 4]))
    assert observations[:, 0].tolist() == [1, 1001] and rewards.tolist() == [1, -2] and not dones.any()
    observations, rewards, dones, infos = environments.step(np.array([0, 0]))
    assert observations[:, 0].tolist() == [10, 1002] and rewards.tolist() == [2, 2] and dones.tolist() == [True, False]
    assert infos[0]["terminal_observation"].tolist() == [2, 2] and infos[0]["TimeLimit.truncated"] is False
    assert infos[0]["episode"] == {"r": 3.0, "l": 2, "t": 0.0} and "episode" not in infos[1]
    observations, rewards, dones, infos = environments.step(np.array([3, 1]))
    assert observations[:, 0].tolist() == [11, 1010] and dones.tolist() == [False, True]
    assert infos[1]["terminal_observation"].tolist() == [1003, 1003] and infos[1]["TimeLimit.truncated"] is True
    assert [adapter.actions for adapter in environments._adapters] == [[1, 0, 3], [4, 0, 1]]  # none was lost


def test_clipped_rewards_leave_returns_raw() -> None:
    environments = vec_env(clip_rewards=True)
    environments.reset()
    assert environments.step(np.array([4, 2]))[1].tolist() == [-1, 0]
    assert environments.step(np.array([0, 0]))[3][0]["episode"]["r"] == 0.0


def start(folder: pathlib.Path, agent: str, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.peers", "--task=LunarLander-v3", f"--agent={agent}", f"--workdir={folder}", *words]
    return subprocess.Popen(command, cwd=common.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("agent", PEERS)
def test_a_peer_trains_stops_goes_on_and_is_judged(agent: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("stable_baselines3", reason=VERSIONS)
    pytest.importorskip("sb3_contrib", reason=VERSIONS)
    steps = []
    for _ in range(2):
        before = len(folders.read_metrics(tmp_path))
        process = start(tmp_path, agent, "--minutes=0.5")
        deadline = time.monotonic() + 120
        while len(folders.read_metrics(tmp_path)) < before + 8 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        lines = folders.read_metrics(tmp_path)
        steps.append(lines[-1]["steps"])
        assert folders.saved_steps(tmp_path) == steps[-1] and any("evaluation/return" in one for one in lines)
        assert [one["seconds"] for one in lines] == sorted(one["seconds"] for one in lines)
    assert steps[1] > steps[0] > 0
    output, _ = start(tmp_path, agent, "--evaluate=3").communicate(timeout=120)
    assert json.loads((tmp_path / "evaluation.json").read_text())["episodes"] == 3, output
