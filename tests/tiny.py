"""Settings so small that a whole run takes seconds."""

from collections.abc import Callable

from agent57_jax.config import Embedding, EnvironmentKind, IntrinsicReward, Settings


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
