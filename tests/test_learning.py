"""Whole trainings, small enough for every change: what they learn fails when a part of the algorithm is broken.

tests/mutations.py breaks the parts one at a time and shows which test sees it.
"""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from agent57_jax import config
from agent57_jax.config import Chooser, DiscountLadder, EnvironmentKind, Settings, Transform
from agent57_jax.networks.q_network import QInputs
from agent57_jax.training import judging
from agent57_jax.training.trainer import Trainer
from configs.profiles import small_evaluator


def small(kind: EnvironmentKind) -> Settings:
    """A grid world and networks in which a few thousand updates take seconds."""
    settings = Settings()
    settings.seed = 1
    settings.num_devices = 1
    settings.environment.kind = kind
    settings.environment.num_envs, settings.environment.num_groups = 16, 1
    settings.network.conv_kernels, settings.network.conv_strides = (3,), (1,)
    settings.network.conv_features = (16,)
    settings.network.torso_size = settings.network.lstm_size = settings.network.head_size = 32
    settings.novelty.embedding_size = 16
    settings.novelty.inverse_hidden_size = settings.novelty.distillation_size = 32
    settings.novelty.statistics_horizon = 1e5
    settings.replay.capacity = "20_000"
    settings.replay.trace, settings.replay.period = 8, 4
    settings.replay.min_sequences = 200
    settings.learner.batch_size = 32
    settings.learner.learning_rate = 1e-3
    settings.learner.novelty_learning_rate = 1e-3
    settings.learner.adam_epsilon = 1e-6
    settings.learner.target_period_updates = 50
    settings.evaluation.num_envs = 8
    small_evaluator(settings)
    settings.evaluation.period_acts = 2  # an episode of the evaluator is to be short beside the training
    settings.logging.period_seconds = 1.0
    settings.logging.tensorboard = False
    settings.checkpoint.save_replay = False
    return settings


class Trained(NamedTuple):
    """A finished run."""

    trainer: Trainer
    folder: pathlib.Path
    lines: list[dict[str, Any]]  # of metrics

    def late_mean(self, key: str) -> float:
        """Mean of a metric over the last third of the lines that have it."""
        values = [line[key] for line in self.lines if key in line]
        return float(np.mean(values[-max(1, len(values) // 3) :]))


def train(settings: Settings, folder: pathlib.Path) -> Trained:
    """Trains to the end."""
    trainer = Trainer(config.finalise(settings), folder, lambda: False)
    trainer.run()
    return Trained(trainer, folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])


def coin() -> Settings:
    """Agent57 in a room of 4 x 4 cells: everything takes part."""
    settings = small(EnvironmentKind.RANDOM_COIN)
    settings.environment.grid_size = 4
    settings.environment.max_episode_steps = 40
    settings.policy.num_policies = 4
    # Neighbouring cells differ by gamma squared: nearer to 1, one more update can send the greedy policy in circles between two of them.
    settings.policy.gamma_0, settings.policy.gamma_1, settings.policy.gamma_2 = 0.9, 0.88, 0.85
    settings.bandit.group_size = 4
    settings.novelty.memory_capacity = 40
    settings.replay.samples_per_insert = 16.0
    settings.total_steps = 40_000
    return settings


def maze() -> Settings:
    """NGU without any other reward in mazes of 7 x 7 cells."""
    settings = small(EnvironmentKind.DISCO_MAZE)
    settings.environment.grid_size = 7
    settings.environment.max_episode_steps = 50
    settings.policy.num_policies = 1
    settings.policy.beta_max = 0.5
    settings.policy.discounts = DiscountLadder.NGU
    settings.policy.gamma_0 = settings.policy.gamma_1 = settings.policy.gamma_2 = 0.9
    settings.policy.separate_networks = False
    settings.bandit.chooser = Chooser.FIXED
    settings.novelty.kernel_epsilon = 0.01
    settings.novelty.memory_capacity = 50
    settings.network.conv_strides = (2,)
    settings.learner.transform = Transform.IDENTITY
    settings.replay.samples_per_insert = 16.0
    settings.evaluation.epsilon = 0.0
    settings.total_steps = 60_000
    return settings


def spread_over_policies(trained: Trained) -> np.ndarray:
    """How far the values [V] of one image differ between the policies of the family."""
    network, learner = trained.trainer.parts.actor.q_network, trained.trainer.learner
    num_policies = network.num_policies
    image = np.zeros((num_policies, 1, 4, 4, 3), np.uint8)
    image[..., 0] = image[:, :, 1, 1, 1] = image[:, :, 3, 3, 2] = 255
    zeros = np.zeros((num_policies, 1), np.float32)
    inputs = QInputs(image, zeros.astype(np.int32), zeros, zeros, np.arange(num_policies)[:, None], np.ones((num_policies, 1), bool))
    values = network.unroll(learner.parameters.q, network.initial_state(num_policies), inputs)[0]
    return np.ptp(np.asarray(values), axis=1).max(axis=(1, 2))


# One test a training, not one an expectation: test processes that share a module would each train.


def test_agent57_learns_a_room(tmp_path: pathlib.Path) -> None:
    trained = train(coin(), tmp_path)
    assert judging.evaluate(tmp_path, episodes=200, seed=0)["mean"] >= 0.9
    # Policy 0 is the exploitative one; its actors explore with up to epsilon 0.4. At first it finds the coin in half of its episodes.
    assert trained.late_mean("arm/return_0") >= 0.9
    assert trained.late_mean("evaluation/return") >= 0.8
    # h(1) = 0.415 at the coin and less before it; values that go on behind the end of an episode exceed it.
    assert 0.1 < trained.late_mean("learner/value_extrinsic") < 0.415
    assert trained.late_mean("novelty/inverse_accuracy") > 0.85
    assert trained.late_mean("novelty/intrinsic_reward") > 0
    extrinsic, intrinsic = spread_over_policies(trained)
    assert extrinsic > 0.01 and intrinsic > 0.1
    priorities = jax.device_get(trained.trainer.replay.priority)
    drawable = priorities[priorities > 0]
    assert np.unique(drawable).size > drawable.size // 2, "priorities do not come back from the learner"


def test_novelty_alone_makes_an_agent_explore_mazes(tmp_path: pathlib.Path) -> None:
    trained = train(maze(), tmp_path)
    # At first the agent visits a tenth of the maze before it runs into a wall.
    assert trained.late_mean("evaluation/visited_fraction") >= 0.35
    assert trained.late_mean("novelty/inverse_accuracy") > 0.85
