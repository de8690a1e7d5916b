"""The tasks of the learning benchmark, their budgets and thresholds, and what a run of it is."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from configs import profiles
from reproductions.common import Training

PEERS = ("ppo", "dqn", "qrdqn", "recurrent_ppo")  # of Stable-Baselines3 and sb3-contrib

# The parts of MEME: settings with the part, and without it. A part is switched together with what it depends on: the trust region needs
# normalised TD errors, and the distilled policy needs heads per policy.
PARTS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "online_bootstrap": (
        {"learner.bootstrap": "online", "learner.trust_region": 2.0, "learner.normalise_errors": "priorities"},
        {"learner.bootstrap": "target", "learner.trust_region": 0.0},
    ),
    "soft_watkins": ({"learner.targets": "soft_watkins"}, {"learner.targets": "retrace"}),
    "normalised_errors": (
        {"learner.normalise_errors": "everywhere"},
        {"learner.normalise_errors": "nowhere", "learner.trust_region": 0.0},
    ),
    "cross_mixture": ({"learner.cross_mixture": 0.5}, {"learner.cross_mixture": 0.0}),
    "policy_heads": ({"network.policy_heads": True}, {"network.policy_heads": False, "learner.distil_policy": False}),
    "one_loss": ({"learner.combined_loss": True}, {"learner.combined_loss": False}),
    "distilled_policy": ({"network.policy_heads": True, "learner.distil_policy": True}, {"learner.distil_policy": False}),
}
# Agents with one part more or less, and the settings that make them. Small profiles of Agent57 have soft Watkins already, and the one of
# MiniGrid has cross-mixture.
ABLATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{f"meme_without_{part}": ("meme", without) for part, (_, without) in PARTS.items()},
    **{f"agent57_with_{part}": ("agent57", added) for part, (added, _) in PARTS.items() if part != "soft_watkins"},
    **{f"agent57_without_{part}": ("agent57", PARTS[part][1]) for part in ("soft_watkins", "cross_mixture")},
}
AGENTS = (*profiles.AGENTS, *ABLATIONS, *PEERS)
POINTS = 40  # evaluations over a run's budget


@dataclasses.dataclass(frozen=True)
class Task:
    """One task: where its settings are, how long an agent may train, and what counts as progress."""

    config: str  # a file of configs/
    minutes: float  # wall-clock time of a run
    thresholds: tuple[float, ...]  # greedy returns, rising
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # name of a setting -> value


def _minigrid(task_id: str, limit: int, minutes: float, thresholds: tuple[float, ...], steps: int | None = None) -> Task:
    """`limit` is the task's own: its reward falls with the share of the limit that an episode took.

    `steps` fit the minutes, where the profile's do not.
    """
    overrides = {"environment.task_id": task_id, "environment.max_episode_steps": limit, "novelty.memory_capacity": limit}
    return Task("configs/minigrid.py", minutes, thresholds, overrides | ({} if steps is None else {"total_steps": steps}))


TASKS: Mapping[str, Task] = {
    "CartPole-v1": Task("configs/cartpole.py", 5, (195, 475)),
    "LunarLander-v3": Task("configs/lunar_lander.py", 20, (0, 200)),
    "MiniGrid-DoorKey-8x8-v0": _minigrid("MiniGrid-DoorKey-8x8-v0", 640, 20, (0.5, 0.9)),
    "MiniGrid-MultiRoom-N6-v0": _minigrid("MiniGrid-MultiRoom-N6-v0", 120, 60, (0.05, 0.5), 6_000_000),
    "MiniGrid-KeyCorridorS3R3-v0": _minigrid("MiniGrid-KeyCorridorS3R3-v0", 270, 60, (0.05, 0.5), 6_000_000),
    "Pong-v5": Task("configs/pong.py", 120, (-20, 0, 14.6, 18)),
    "Boxing-v5": Task("configs/boxing.py", 120, (1, 12.1, 60)),
    "CoinrunEasy-v0": Task("configs/coinrun.py", 120, (6.6, 7.5)),
}


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long a run trains: wall-clock time, or environment steps."""

    minutes: float | None = None
    steps: int | None = None

    def share(self, seconds: float, steps: float) -> float:
        """The part that is used up; 1 or more at the end."""
        return seconds / (60 * self.minutes) if self.minutes is not None else steps / float(self.steps or 1)

    @property
    def report_seconds(self) -> float:
        """Time between two lines of metrics: two or more for each point of a curve."""
        return 10.0 if self.minutes is None else min(10.0, max(1.0, 60 * self.minutes / (2 * POINTS)))


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of one agent."""

    task: str
    agent: str
    seed: int
    budget: Budget
    home: pathlib.Path  # of all runs
    profile: str = "laptop"
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what the command line changes of the settings

    @property
    def folder(self) -> pathlib.Path:
        """Where the run lies."""
        return self.home / self.task / self.agent / f"seed{self.seed}"

    @property
    def name(self) -> str:
        """Its name in reports."""
        return f"{self.task}/{self.agent}/seed{self.seed}"

    @property
    def is_peer(self) -> bool:
        """Whether the agent is not ours."""
        return self.agent in PEERS

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Those of the task."""
        return TASKS[self.task].thresholds

    @property
    def training(self) -> Training:
        """What train.py is to do; of a peer only its environment matters."""
        task = TASKS[self.task]
        overrides = {
            **task.overrides,
            # With a time budget the profile's total_steps stays: it fits the time, and the learning-rate schedule depends on it.
            **({} if self.budget.steps is None else {"total_steps": self.budget.steps}),
            "logging.period_seconds": self.budget.report_seconds,
            "video.period_episodes": 0,  # the peers record none either
        }
        agent, part = ABLATIONS.get(self.agent, (self.agent, {}))
        config = f"{task.config}:{self.profile}" if self.is_peer else f"{task.config}:{self.profile},{agent}"
        return Training(self.name, config, {**overrides, **part, **self.overrides}, self.seed)
