"""Trains or evaluates one agent of Stable-Baselines3 or sb3-contrib on a task of the learning benchmark.

    python -m benchmarks.peers --task=LunarLander-v3 --agent=ppo --workdir=FOLDER --minutes=20 [--seed=S]
    python -m benchmarks.peers --task=LunarLander-v3 --agent=ppo --workdir=FOLDER --evaluate=100

`python -m benchmarks.learning` starts it. The folder is like one of train.py: metrics.jsonl, checkpoints/, evaluation.json. SIGTERM saves
and ends the run, and the same command resumes it. `seconds` does not include evaluations during training.

Learning rates and clip ranges that decay do so over the budget. Exploration falls over the zoo's share of the budget or of the zoo's own
number of steps, whichever ends first.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
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
from agent57_jax.training import judging
from agent57_jax.training.shutdown import Shutdown
from benchmarks import peer_environments, peer_settings
from benchmarks.learning_tasks import PEERS, POINTS, TASKS, Budget, Run
from benchmarks.peer_settings import Linear
from reproductions import atari57, common, folders, records

ALGORITHMS: dict[str, Any] = {"ppo": PPO, "dqn": DQN, "qrdqn": QRDQN, "recurrent_ppo": RecurrentPPO}
EPISODES = 10  # greedy episodes of an evaluation during training
SAVE_SECONDS = 60.0
PACKAGES = ("stable_baselines3", "sb3_contrib", "torch", "gymnasium", "envpool", "numpy")


class Clock:
    """Training time without pauses."""

    def __init__(self, before: float) -> None:
        """`before`: seconds of earlier starts."""
        self._since = time.monotonic() - before

    def seconds(self) -> float:
        """The time of all starts."""
        return time.monotonic() - self._since

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time of a with-block."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - start


@dataclasses.dataclass
class Counters:
    """The counters of a checkpoint, named as in train.py."""

    frames: int = 0
    steps: int = 0
    updates: int = 0
    episodes: int = 0
    seconds: float = 0.0
    starts: int = 0
    greedy_episodes: int = 0
    calls: int = 0  # DQN's own counter, which times the copies to its target
    epochs: int = 0  # the model's own counter of updates


class Training:
    """One peer in one folder."""

    def __init__(self, run: Run, workdir: pathlib.Path) -> None:
        self.run, self.workdir = run, workdir
        config = TASKS[run.task].config
        self.peer = peer_settings.of(run.task, config, run.agent)
        self.is_atari = peer_settings.is_atari(config)
        self.environment_settings = common.settings_of(run.training).environment
        self.counters = Counters()
        self.checkpoint = folders.latest_checkpoint(workdir)
        self._folder = workdir / "checkpoints" / str(self.checkpoint)
        if self.checkpoint is not None:
            self.counters = Counters(**records.read_json(self._folder / "meta" / "metadata")["content"]["counters"])
        self.clock = Clock(self.counters.seconds)

    def share(self) -> float:
        """The used share of the budget."""
        return self.run.budget.share(self.clock.seconds(), self.counters.steps)

    def environments(self, stream: str, count: int, skip: int | None = None, normalizer: Any = None) -> Any:
        """The environments of a stream. By default, each start of a run has its own seeds."""
        skip = (self.counters.starts - 1) * count if skip is None else skip
        return peer_environments.make(self.environment_settings, count, self.run.seed, stream, skip, self.peer, self.is_atari, normalizer)

    def model(self, environments: Any, is_judged: bool = False) -> Any:
        """The agent, restored from the last checkpoint if there is one.

        Args:
          is_judged: it no longer learns and needs no replay.
        """

        def argument(value: Any) -> Any:
            return (lambda _: max(0.0, 1.0 - self.share()) * value.start) if isinstance(value, Linear) else value

        arguments = {name: argument(value) for name, value in self.peer.arguments.items()}
        if "policy_kwargs" in arguments:
            own = dict(arguments["policy_kwargs"])  # a copy: the model changes it
            arguments["policy_kwargs"] = own | (
                {"activation_fn": getattr(torch.nn, own["activation_fn"])} if "activation_fn" in own else {}
            )
        if is_judged and "buffer_size" in arguments:
            arguments["buffer_size"] = environments.num_envs
        seed = self.run.seed + 10_000 * self.counters.starts
        model = ALGORITHMS[self.run.agent](self.peer.policy, environments, seed=seed, device="auto", **arguments)
        if isinstance(model, OffPolicyAlgorithm):
            start, end, fraction = model.exploration_initial_eps, model.exploration_final_eps, model.exploration_fraction

            def exploration(_: float) -> float:
                progress = max(self.share(), model.num_timesteps / self.peer.zoo_steps)
                return float(start + min(1.0, progress / fraction) * (end - start))

            model.exploration_schedule = exploration
        if self.checkpoint is not None:
            self._restore(model, with_replay=not is_judged)
        return model

    def _restore(self, model: Any, with_replay: bool) -> None:
        model.set_parameters(torch.load(self._folder / "model.pt", weights_only=False), device=model.device)
        model.num_timesteps, model._n_updates = self.counters.steps, self.counters.epochs
        if (normalizer := model.get_vec_normalize_env()) is not None:
            saved = type(normalizer).load(str(self._folder / "normalize.pkl"), normalizer.venv)
            normalizer.ret_rms = saved.ret_rms
            if normalizer.norm_obs:
                normalizer.obs_rms = saved.obs_rms
        if isinstance(model, OffPolicyAlgorithm):
            model._n_calls = self.counters.calls
            if with_replay and (self._folder / "replay.pkl").exists():
                model.load_replay_buffer(self._folder / "replay.pkl")

    def save(self, model: Any, with_replay: bool) -> None:
        """Writes the next checkpoint atomically and removes the previous one."""
        number = (self.checkpoint or 0) + 1
        folder, temporary = (self.workdir / "checkpoints" / name for name in (str(number), f"{number}.tmp"))
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / "meta").mkdir(parents=True)
        torch.save(model.get_parameters(), temporary / "model.pt")
        if (normalizer := model.get_vec_normalize_env()) is not None:
            normalizer.save(str(temporary / "normalize.pkl"))
        if with_replay and isinstance(model, OffPolicyAlgorithm):
            model.save_replay_buffer(temporary / "replay.pkl")
        (temporary / "meta" / "metadata").write_text(json.dumps({"content": {"counters": dataclasses.asdict(self.counters)}}))
        temporary.rename(folder)
        if self.checkpoint is not None:
            shutil.rmtree(self.workdir / "checkpoints" / str(self.checkpoint))
        self.checkpoint = number

    def count(self, model: Any) -> None:
        """Updates the counters from the model. An update is one optimiser step."""
        counters = self.counters
        counters.steps = model.num_timesteps
        counters.frames = counters.steps * (self.environment_settings.action_repeat_frames if self.is_atari else 1)
        counters.epochs = counters.updates = model._n_updates
        if isinstance(model, OffPolicyAlgorithm):
            counters.calls = model._n_calls
        else:  # it counts epochs
            counters.updates *= -(-model.n_steps * model.n_envs // model.batch_size)

    def train(self) -> None:
        """Trains until the budget of steps is used up, or until SIGTERM."""
        shutdown = Shutdown()
        self.counters.starts += 1
        records.write_json(self.workdir / "peer.json", self.description())
        environments = self.environments("training", self.peer.num_envs)
        model = self.model(environments)
        resumed = self.counters.steps if self.checkpoint is not None else None
        metrics = MetricsWriter(self.workdir, resumed, tensorboard=False)
        self.clock = Clock(self.counters.seconds)
        reporter = Reporter(self, metrics, shutdown)
        try:
            model.learn(10**12, callback=reporter, reset_num_timesteps=resumed is None)
            reporter.report()
            self.save(model, with_replay=True)
        finally:
            metrics.close()
            environments.close()
            reporter.close()

    def evaluate(self, episodes: int) -> None:
        """Plays greedy episodes with the last checkpoint, as agent57_jax/training/judging.py does, and writes evaluation.json."""
        if self.checkpoint is None:
            raise folders.ReproductionError(f"{self.workdir} has no complete checkpoint yet")
        quota = judging.quotas(episodes)
        environments = self.environments("judging", len(quota), skip=0)
        model = self.model(environments, is_judged=True)
        played = list(play(model, model.get_env(), quota, Shutdown()))
        environments.close()
        returns = [episode["r"] for episode in played]
        result = {
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
        }
        records.write_json(self.workdir / "evaluation.json", result)
        print(f"{self.run.task}: mean return {result['mean']:.2f} over {len(returns)} greedy episodes")

    def description(self) -> dict[str, Any]:
        """The agent with its hyperparameters and versions."""
        peer = self.peer
        return {
            "algorithm": ALGORITHMS[self.run.agent].__name__,
            "source": peer.source,
            "policy": peer.policy,
            "num_envs": peer.num_envs,
            "normalize": dict(peer.normalize),
            "arguments": {name: list(value) if isinstance(value, Linear) else value for name, value in peer.arguments.items()},
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "threads": torch.get_num_threads(),
        }


class Reporter(BaseCallback):
    """Writes metrics, evaluations and checkpoints, and ends a run that should stop."""

    def __init__(self, training: Training, metrics: MetricsWriter, shutdown: Shutdown) -> None:
        super().__init__()
        self._training, self._metrics, self._shutdown = training, metrics, shutdown
        self._episodes: list[dict[str, Any]] = []  # since the last line
        self._evaluated: list[float] = []
        self._last_report: float | None = None
        self._last_save = training.clock.seconds()
        self._next_point = int(training.share() * POINTS) + 1
        self._environments: Any = None

    def _on_step(self) -> bool:
        training, budget = self._training, self._training.run.budget
        self._episodes += [info["episode"] for info in self.locals["infos"] if "episode" in info]
        now = training.clock.seconds()
        training.counters.steps = self.num_timesteps
        is_over = budget.steps is not None and self.num_timesteps >= budget.steps
        if self._last_report is not None and training.share() * POINTS >= self._next_point and not self._shutdown.requested:
            self._next_point = int(training.share() * POINTS) + 1
            with training.clock.paused():
                self._evaluate()
            self.report()
        elif self._last_report is None or now - self._last_report >= budget.report_seconds:
            self.report()
        if now - self._last_save >= SAVE_SECONDS:
            self.report()  # a checkpoint must not be newer than the metrics
            self._last_save = now
            training.save(self.model, with_replay=False)
        return not (self._shutdown.requested or is_over)

    def report(self) -> None:
        """Writes a line about the time since the last one."""
        counters = self._training.counters
        self._training.count(self.model)
        counters.episodes += len(self._episodes)
        counters.greedy_episodes += len(self._evaluated)
        counters.seconds = self._last_report = self._training.clock.seconds()
        values: dict[str, float] = {}
        if self._episodes:
            values["episode/return"] = float(np.mean([episode["r"] for episode in self._episodes]))
            values["episode/length"] = float(np.mean([episode["l"] for episode in self._episodes]))
        if self._evaluated:
            values |= {"evaluation/return": float(np.mean(self._evaluated)), "evaluation/episodes": float(counters.greedy_episodes)}
        self._episodes, self._evaluated = [], []
        self._metrics.write({name: getattr(counters, name) for name in ("frames", "steps", "updates", "episodes", "seconds")}, values)

    def _evaluate(self) -> None:
        quota = judging.quotas(EPISODES)
        if self._environments is None:
            own = self._training.environments("evaluation", len(quota), normalizer=self.model.get_vec_normalize_env())
            self._environments = type(self.model)._wrap_env(own, verbose=0, monitor_wrapper=False)
        played = [episode["r"] for episode in play(self.model, self._environments, quota, self._shutdown)]
        # Short episodes end first, so an interrupted evaluation is a biased sample.
        self._evaluated = [] if self._shutdown.requested else played

    def close(self) -> None:
        """Closes the environments of the evaluation."""
        if self._environments is not None:
            self._environments.close()


def play(model: Any, environments: Any, quota: np.ndarray, shutdown: Shutdown) -> Iterator[dict[str, Any]]:
    """Greedy episodes, `quota[e]` of them in environment e: return "r" and length "l" of each. A signal ends it."""
    left = quota.copy()
    observations, state, starts = environments.reset(), None, np.ones(len(quota), bool)
    while left.any() and not shutdown.requested:
        actions, state = model.predict(observations, state=state, episode_start=starts, deterministic=True)
        observations, _, starts, infos = environments.step(actions)
        for i in np.flatnonzero(starts & (left > 0)):
            left[i] -= 1
            yield infos[i]["episode"]


def main() -> None:
    """Does what the command line asks."""
    parser = command_line.Parser(prog="python -m benchmarks.peers", allow_abbrev=False)
    parser.add_argument("--task", choices=list(TASKS), required=True)
    parser.add_argument("--agent", choices=PEERS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=paths.path, required=True)
    parser.add_argument("--profile", default="laptop", help="of the task's config, for its environment")
    amount: argparse._MutuallyExclusiveGroup = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--minutes", type=float, help="the budget, which shapes schedules; SIGTERM ends the run")
    amount.add_argument("--steps", type=int, help="environment steps to train for")
    amount.add_argument("--evaluate", type=int, help="greedy episodes to play instead of training")
    options, rest = parser.parse_known_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    budget = Budget(1.0 if options.evaluate is not None else options.minutes, options.steps)
    overrides = atari57.read_overrides(rest)
    training = Training(
        Run(options.task, options.agent, options.seed, budget, options.workdir, options.profile, overrides), options.workdir
    )
    if options.evaluate is not None:
        training.evaluate(options.evaluate)
    else:
        training.train()


if __name__ == "__main__":
    main()
