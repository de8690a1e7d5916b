"""Trains or judges one agent of Stable-Baselines3 or sb3-contrib on a task of the proving ground.

    python -m benchmarks.peers --task=LunarLander-v3 --agent=ppo --workdir=FOLDER --minutes=20 [--seed=S]
    python -m benchmarks.peers --task=LunarLander-v3 --agent=ppo --workdir=FOLDER --evaluate=100

`python -m benchmarks.learning` starts it. The folder is like one of train.py: metrics.jsonl, checkpoints/, evaluation.json. SIGTERM saves
and ends it, and the same command goes on. Its evaluations during training are not in its `seconds`.

What falls over a training, learning rates and clip ranges, falls over the budget. Exploration falls over the zoo's share of the budget
or of the zoo's own number of steps, whichever is over first.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sb3_contrib import QRDQN, RecurrentPPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from agent57_jax import paths
from agent57_jax.commands import command_line
from agent57_jax.monitoring.metrics import MetricsWriter
from benchmarks import peer_environments, peer_settings
from benchmarks.learning_tasks import PEERS, POINTS, TASKS, Budget, Run
from benchmarks.peer_settings import Linear, Peer
from reproductions import atari57, common, folders, records

ALGORITHMS: dict[str, Any] = {"ppo": PPO, "dqn": DQN, "qrdqn": QRDQN, "recurrent_ppo": RecurrentPPO}
EPISODES = 10  # greedy episodes of an evaluation during training
SAVE_SECONDS = 60.0


class Stop:
    """SIGTERM or SIGINT arrived."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, *_: Any) -> None:
        self.requested = True


class Clock:
    """Time of a training, without its pauses."""

    def __init__(self, before: float) -> None:
        """`before`: seconds of earlier starts."""
        self._since = time.monotonic() - before

    def seconds(self) -> float:
        """Of all starts together."""
        return time.monotonic() - self._since

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in here takes no time."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - start


@dataclasses.dataclass
class Counters:
    """What a checkpoint counts; the names are those of train.py."""

    frames: int = 0
    steps: int = 0
    updates: int = 0
    episodes: int = 0
    seconds: float = 0.0
    starts: int = 0
    greedy_episodes: int = 0
    calls: int = 0  # of DQN's own, which time its target's copies
    epochs: int = 0  # of Stable-Baselines3's own


class Training:
    """One peer in one folder."""

    def __init__(self, run: Run, workdir: pathlib.Path) -> None:
        self.run, self.workdir = run, workdir
        config = TASKS[run.task].config
        self.peer: Peer = peer_settings.of(run.task, config, run.agent)
        self.is_atari = peer_settings.is_atari(config)
        self.environment_settings = common.settings_of(run.training).environment
        self.counters = Counters()
        self.checkpoint = folders.latest_checkpoint(workdir)
        self._folder = workdir / "checkpoints" / str(self.checkpoint)
        if self.checkpoint is not None:
            self.counters = Counters(**records.read_json(self._folder / "meta" / "metadata")["content"]["counters"])

    def environments(self, stream: str, count: int, normalizer: Any = None, skip: int | None = None) -> Any:
        """Those of a stream; every start of a training has seeds of its own."""
        skip = (self.counters.starts - 1) * count if skip is None else skip
        return peer_environments.make(self.environment_settings, count, self.run.seed, stream, skip, self.peer, self.is_atari, normalizer)

    def model(self, environments: Any, share: Callable[[int], float], is_judged: bool = False) -> Any:
        """The agent, with what the last checkpoint has of it.

        Args:
          share: the part of the budget that is used up after so many steps.
          is_judged: it learns no more, and needs no replay.
        """
        algorithm: Any = ALGORITHMS[self.run.agent]

        class Budgeted(algorithm):
            """Schedules fall over the budget."""

            def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
                self._current_progress_remaining = max(0.0, 1.0 - share(num_timesteps))

        arguments: dict[str, Any] = {
            name: _schedule(value) if isinstance(value, Linear) else value for name, value in self.peer.arguments.items()
        }
        if "policy_kwargs" in arguments:
            arguments["policy_kwargs"] = {
                key: getattr(torch.nn, value) if key == "activation_fn" else value for key, value in arguments["policy_kwargs"].items()
            }
        if is_judged and "buffer_size" in arguments:
            arguments["buffer_size"] = environments.num_envs
        model: Any = Budgeted(
            self.peer.policy, environments, seed=self.run.seed + 10_000 * self.counters.starts, device="auto", **arguments
        )
        if isinstance(model, OffPolicyAlgorithm):
            start, end, fraction = model.exploration_initial_eps, model.exploration_final_eps, model.exploration_fraction

            def exploration(_: float) -> float:
                progress = max(share(model.num_timesteps), model.num_timesteps / self.peer.zoo_steps)
                return float(start + min(1.0, progress / fraction) * (end - start))

            model.exploration_schedule = exploration
        if self.checkpoint is not None:
            self._restore(model, with_replay=not is_judged)
        return model

    def _restore(self, model: Any, with_replay: bool) -> None:
        model.set_parameters(torch.load(self._folder / "model.pt", weights_only=False), device=model.device)
        model.num_timesteps, model._n_updates = self.counters.steps, self.counters.epochs
        if (normalizer := model.get_vec_normalize_env()) is not None:
            _load_statistics(normalizer, self._folder)
        if isinstance(model, OffPolicyAlgorithm):
            model._n_calls = self.counters.calls
            if with_replay and (self._folder / "replay.pkl").exists():
                model.load_replay_buffer(self._folder / "replay.pkl")

    def save(self, model: Any, with_replay: bool) -> None:
        """Writes the next checkpoint at one stroke and removes the one before."""
        number = (self.checkpoint or 0) + 1
        folder, temporary = self.workdir / "checkpoints" / str(number), self.workdir / "checkpoints" / f"{number}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / "meta").mkdir(parents=True)
        torch.save(model.get_parameters(), temporary / "model.pt")
        if (normalizer := model.get_vec_normalize_env()) is not None:
            normalizer.save(str(temporary / "normalize.pkl"))
        if with_replay and isinstance(model, OffPolicyAlgorithm):
            model.save_replay_buffer(temporary / "replay.pkl")
        (temporary / "meta" / "metadata").write_text(json.dumps({"content": {"counters": dataclasses.asdict(self.counters)}}))
        os.replace(temporary, folder)
        if self.checkpoint is not None:
            shutil.rmtree(self.workdir / "checkpoints" / str(self.checkpoint))
        self.checkpoint = number

    def count(self, model: Any) -> None:
        """Brings the counters up to what the model has done. An update is a step of the optimiser."""
        counters = self.counters
        counters.steps, counters.frames = model.num_timesteps, model.num_timesteps * self._frames_per_step
        counters.epochs = counters.updates = model._n_updates
        if isinstance(model, OffPolicyAlgorithm):
            counters.calls = model._n_calls
        else:  # it counts epochs
            counters.updates *= -(-model.n_steps * model.n_envs // model.batch_size)

    @property
    def _frames_per_step(self) -> int:
        return self.environment_settings.action_repeat_frames if self.is_atari else 1

    def train(self) -> None:
        """Trains until the budget of steps is used up, or until SIGTERM."""
        stop = Stop()
        self.counters.starts += 1
        self.workdir.mkdir(parents=True, exist_ok=True)
        records.write_json(self.workdir / "peer.json", self.description())
        environments = self.environments("training", self.peer.num_envs)
        clock: Clock | None = None

        def share(steps: int) -> float:
            return self.run.budget.share(clock.seconds() if clock is not None else self.counters.seconds, steps)

        model = self.model(environments, share)
        resumed = self.counters.steps if self.checkpoint is not None else None
        metrics = MetricsWriter(self.workdir, resumed, tensorboard=False, wandb_project=None, settings={})
        clock = Clock(self.counters.seconds)
        reporter = Reporter(self, clock, metrics, stop)
        try:
            model.learn(10**12, callback=reporter, reset_num_timesteps=resumed is None)
            reporter.report()
            with clock.paused():
                self.save(model, with_replay=True)
        finally:
            metrics.close()
            environments.close()
            reporter.close()

    def evaluate(self, episodes: int) -> None:
        """Plays greedy episodes with the last checkpoint, as agent57_jax/training/judging.py does, and writes evaluation.json."""
        from agent57_jax.training import judging

        if self.checkpoint is None:
            raise folders.ReproductionError(f"{self.workdir} holds no complete checkpoint yet")
        quota = judging.quotas(episodes)
        environments = self.environments("judging", len(quota), skip=0)
        model = self.model(environments, lambda steps: 1.0, is_judged=True)
        played = list(play(model, model.get_env(), quota, Stop()))
        environments.close()
        returns = [episode["r"] for episode in played]
        records.write_json(
            self.workdir / "evaluation.json",
            {
                "game": self.run.task,
                "episodes": len(returns),
                "returns": returns,
                "lengths": [episode["l"] for episode in played],
                "mean": float(np.mean(returns)),
                "median": float(np.median(returns)),
                "arm": None,
                "frames_trained": self.counters.frames,
                "updates_trained": self.counters.updates,
                "checkpoint": self.checkpoint,
                "seed": self.run.seed,
            },
        )
        print(f"{self.run.task}: mean return {np.mean(returns):.2f} over {len(returns)} greedy episodes")

    def description(self) -> dict[str, Any]:
        """What trains here, with which numbers and versions."""
        packages = ("stable_baselines3", "sb3_contrib", "torch", "gymnasium", "envpool", "numpy")
        return {
            "algorithm": ALGORITHMS[self.run.agent].__name__,
            "source": self.peer.source,
            "policy": self.peer.policy,
            "num_envs": self.peer.num_envs,
            "normalize": dict(self.peer.normalize),
            "arguments": {name: list(value) if isinstance(value, Linear) else value for name, value in self.peer.arguments.items()},
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "threads": torch.get_num_threads(),
        }


class Reporter(BaseCallback):
    """Lines of metrics, evaluations and checkpoints; ends a training that is to stop."""

    def __init__(self, training: Training, clock: Clock, metrics: MetricsWriter, stop: Stop) -> None:
        super().__init__()
        self._peer_training, self._clock, self._metrics, self._stop = training, clock, metrics, stop
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._evaluated: list[float] = []
        self._last_report: float | None = None
        self._last_save = clock.seconds()
        self._edge = int(self._share() * POINTS) + 1  # the next point
        self._environments: Any = None

    def _share(self) -> float:
        counters = self._peer_training.counters
        return self._peer_training.run.budget.share(self._clock.seconds(), counters.steps)

    def _on_step(self) -> bool:
        training, budget = self._peer_training, self._peer_training.run.budget
        for info in self.locals["infos"]:
            if "episode" in info:
                training.counters.episodes += 1
                self._returns.append(info["episode"]["r"])
                self._lengths.append(info["episode"]["l"])
        now = self._clock.seconds()
        training.counters.steps = self.num_timesteps
        is_over = budget.steps is not None and self.num_timesteps >= budget.steps
        if self._last_report is not None and self._share() * POINTS >= self._edge and not self._stop.requested:
            self._edge = int(self._share() * POINTS) + 1
            with self._clock.paused():
                self._evaluate()
            self.report()
        elif self._last_report is None or now - self._last_report >= budget.report_seconds:
            self.report()
        if now - self._last_save >= SAVE_SECONDS:
            self.report()  # a checkpoint is never behind the metrics
            self._last_save = now
            training.save(self.model, with_replay=False)
        return not (self._stop.requested or is_over)

    def report(self) -> None:
        """Writes a line of what has been since the last one."""
        counters = self._peer_training.counters
        self._peer_training.count(self.model)
        counters.seconds = self._last_report = self._clock.seconds()
        values: dict[str, float] = {}
        if self._returns:
            values |= {"episode/return": float(np.mean(self._returns)), "episode/length": float(np.mean(self._lengths))}
        if self._evaluated:
            counters.greedy_episodes += len(self._evaluated)
            values |= {"evaluation/return": float(np.mean(self._evaluated)), "evaluation/episodes": float(counters.greedy_episodes)}
        self._returns, self._lengths, self._evaluated = [], [], []
        names = ("frames", "steps", "updates", "episodes", "seconds")
        self._metrics.write({name: getattr(counters, name) for name in names}, values)

    def _evaluate(self) -> None:
        from agent57_jax.training import judging

        quota = judging.quotas(EPISODES)
        if self._environments is None:
            normalizer = self.model.get_vec_normalize_env()
            own = self._peer_training.environments("evaluation", len(quota), normalizer)
            self._environments = type(self.model)._wrap_env(own, verbose=0, monitor_wrapper=False)
        played = [episode["r"] for episode in play(self.model, self._environments, quota, self._stop)]
        # Short episodes end first: those of an evaluation that was cut off are no fair sample.
        self._evaluated = [] if self._stop.requested else played

    def close(self) -> None:
        """Ends the emulators of the evaluation."""
        if self._environments is not None:
            self._environments.close()


def play(model: Any, environments: Any, quota: np.ndarray, stop: Stop) -> Iterator[dict[str, Any]]:
    """Greedy episodes, `quota[e]` of them in environment e: return "r" and length "l" of each. A request to stop ends it."""
    left = quota.copy()
    observations, state, starts = environments.reset(), None, np.ones(len(quota), bool)
    while left.any() and not stop.requested:
        actions, state = model.predict(observations, state=state, episode_start=starts, deterministic=True)
        observations, _, starts, infos = environments.step(actions)
        for i in np.flatnonzero(starts):
            if left[i]:
                left[i] -= 1
                yield infos[i]["episode"]


def _schedule(value: Linear) -> Callable[[float], float]:
    return lambda remaining: remaining * value.start


def _load_statistics(normalizer: Any, folder: pathlib.Path) -> None:
    """What a saved VecNormalize had seen, into one that is in use."""
    saved = type(normalizer).load(str(folder / "normalize.pkl"), normalizer.venv)
    normalizer.ret_rms = saved.ret_rms
    if normalizer.norm_obs:
        normalizer.obs_rms = saved.obs_rms


def main() -> None:
    """Does what the command line asks."""
    parser = command_line.Parser(prog="python -m benchmarks.peers", allow_abbrev=False)
    parser.add_argument("--task", choices=list(TASKS), required=True)
    parser.add_argument("--agent", choices=PEERS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=paths.path, required=True)
    parser.add_argument("--profile", default="laptop", help="of the task's config, for its environment")
    amount: argparse._MutuallyExclusiveGroup = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--minutes", type=float, help="the budget, which shapes schedules; SIGTERM ends the training")
    amount.add_argument("--steps", type=int, help="environment steps to train for")
    amount.add_argument("--evaluate", type=int, help="greedy episodes to play instead of training")
    options, rest = parser.parse_known_args()
    minutes = 1.0 if options.evaluate is not None else options.minutes
    budget = Budget(minutes, options.steps)
    overrides = atari57.read_overrides(rest)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    run = Run(options.task, options.agent, options.seed, budget, options.workdir, options.profile, overrides)
    training = Training(run, options.workdir)
    if options.evaluate is not None:
        training.evaluate(options.evaluate)
    else:
        training.train()


if __name__ == "__main__":
    main()
