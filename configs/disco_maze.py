"""NGU's Random Disco Maze (NGU §4.1): no reward, a new maze every episode, walls that change colour at every step.

python train.py --config=configs/disco_maze.py --workdir=runs/disco_maze

One policy with beta 0.5, as in the paper. paper: 21x21; hours and explored share: not measured yet. laptop: 11x11 on two CPU cores.
smoke: about a minute.
"""

from agent57_jax.config import Chooser, DiscountLadder, EnvironmentKind, Settings, Transform
from configs.profiles import check


def get_config(profile: str = "paper") -> Settings:
    """Settings of a profile: paper, laptop or smoke."""
    check(profile)
    settings = Settings()
    settings.environment.kind = EnvironmentKind.DISCO_MAZE
    settings.environment.num_groups = 1
    settings.environment.grid_size = 21
    settings.environment.max_episode_steps = 5_000  # Choice: as long as the memory of the paper
    settings.network.conv_features = (16, 32)
    settings.network.conv_kernels = (3, 3)
    settings.network.conv_strides = (1, 1)
    settings.policy.num_policies = 1
    settings.policy.beta_max = 0.5
    settings.policy.discounts = DiscountLadder.NGU
    settings.policy.separate_networks = False
    settings.bandit.chooser = Chooser.FIXED
    settings.novelty.memory_capacity = 5_000
    settings.novelty.kernel_epsilon = 0.01
    settings.replay.trace = 50
    settings.replay.period = 50
    settings.learner.learning_rate = 1e-3
    settings.learner.novelty_learning_rate = 1e-3
    settings.learner.trace_lambda = 0.97
    settings.learner.transform = Transform.IDENTITY
    settings.learner.target_period_updates = 100
    settings.evaluation.epsilon = 0.0
    settings.replay.capacity = "2_000_000"
    settings.total_steps = 100_000_000
    if profile in ("laptop", "smoke"):
        settings.environment.grid_size = 11
        settings.environment.max_episode_steps = 500
        settings.environment.num_envs = 32
        settings.network.torso_size = 64
        settings.network.lstm_size = 64
        settings.network.head_size = 64
        settings.novelty.memory_capacity = 500
        settings.replay.capacity = "200_000"
        settings.replay.min_sequences = 200
        settings.learner.batch_size = 16
        settings.evaluation.num_envs = 4
        settings.total_steps = 2_000_000
    if profile == "smoke":
        settings.replay.min_sequences = 64
        settings.logging.period_seconds = 5.0
        settings.total_steps = 20_000
    return settings
