"""Settings so small that a whole run takes seconds, and what several tests build and compare."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from agent57_jax import config
from agent57_jax.config import Embedding, EnvironmentKind, IntrinsicReward, Settings, Torso


def coin_settings() -> Settings:
    """Random Coin in a 5x5 room with all of the algorithm."""
    settings = Settings()
    settings.environment.kind = EnvironmentKind.RANDOM_COIN
    settings.environment.grid_size = 5
    settings.environment.num_envs = 8
    settings.environment.num_groups = 1
    settings.environment.max_episode_steps = 20
    settings.network.conv_features = (4,)
    settings.network.conv_kernels = (3,)
    settings.network.conv_strides = (1,)
    _small(settings)
    settings.actor.acts_per_dispatch = 4
    return settings


def zaxxon_settings() -> Settings:
    """The real game at small networks: two groups of four environments."""
    settings = Settings()
    settings.environment.num_envs = 8
    settings.environment.num_threads = 1
    settings.environment.max_episode_steps = 30
    settings.network.conv_features = (4, 4, 4)
    _small(settings)
    return settings


def vector_settings() -> Settings:
    """Agent57 on vectors, with dense networks of a few units that the NumPy references can follow."""
    settings = Settings()
    settings.environment.num_envs, settings.environment.num_groups = 8, 1
    settings.network.torso = Torso.DENSE
    settings.network.dense_features = (4,)
    settings.network.torso_size = settings.network.lstm_size = 4
    settings.network.head_size = 5
    settings.novelty.embedding_size = settings.novelty.distillation_size = 4
    settings.novelty.inverse_hidden_size = 5
    settings.policy.beta_max = 0.8
    return settings


def finalised(settings: Settings, changes: dict[str, Any]) -> Settings:
    """The settings with other values, {"section.field": value}."""
    for path, value in changes.items():
        section, name = path.split(".")
        setattr(getattr(settings, section), name, value)
    return config.finalise(settings)


def random_like(shapes: Any, rng: np.random.Generator, scale: float) -> Any:
    """Random float32 numbers in every leaf, also where new parameters would be 0."""
    return jax.tree.map(lambda leaf: rng.normal(0.0, scale, leaf.shape).astype(np.float32), shapes)


def zeros_like(shapes: Any) -> Any:
    """A tree of NumPy zeros."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def assert_equal(found: Any, expected: Any) -> None:
    """Both trees have the same structure and the same numbers, NaN included."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found: Any, expected: Any) -> None:
    """The same up to what rounding in float32 may differ by."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def distillation_alone(settings: Settings) -> None:
    """Random network distillation as the whole intrinsic reward, with which NGU compares itself."""
    settings.novelty.reward = IntrinsicReward.LIFELONG


def random_embedding(settings: Settings) -> None:
    """Episodic novelty in an embedding that nothing trains, the other comparison."""
    settings.novelty.embedding = Embedding.RANDOM


# Beside the family of the config files.
ABLATIONS: dict[str, Callable[[Settings], None]] = {"distillation alone": distillation_alone, "random embedding": random_embedding}


def _small(settings: Settings) -> None:
    settings.network.torso_size = settings.network.lstm_size = settings.network.head_size = 8
    settings.policy.num_policies = 4
    settings.novelty.embedding_size = 4
    settings.novelty.inverse_hidden_size = settings.novelty.distillation_size = 8
    settings.novelty.memory_capacity = 50
    settings.novelty.train_timesteps = 2
    settings.replay.capacity = "800"
    settings.replay.trace = 6
    settings.replay.period = 4
    settings.replay.min_sequences = 16
    settings.learner.batch_size = 8
    settings.learner.target_period_updates = 5
    settings.evaluation.num_envs = 2
    settings.evaluation.greedy_episodes = 2
    settings.logging.period_seconds = 0.5
    settings.video.period_episodes = 0
    settings.num_devices = 1
    settings.total_steps = 800
