"""Agent57 on Random Coin (Agent57 §4.2): an empty room, a coin, 200 steps.

python train.py --config=configs/random_coin.py --workdir=runs/random_coin

paper: the 15x15 room for 150 M steps; hours and score: not measured yet. laptop: a 9x9 room on two CPU cores. smoke: a 5x5 room, about
a minute.
"""

from agent57_jax.config import EnvironmentKind, Settings
from configs.profiles import grid_network, one_box, parse, small_evaluator, small_grid_network


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, box, laptop or smoke) and an agent, as in "laptop,ngu"."""
    profile, agent = parse(argument)
    settings = Settings()
    settings.environment.kind = EnvironmentKind.RANDOM_COIN
    settings.environment.num_groups = 1
    settings.environment.max_episode_steps = 200
    grid_network(settings)
    settings.novelty.memory_capacity = 200  # the length of an episode
    settings.replay.capacity = "5_000_000"
    settings.total_steps = 150_000_000
    if profile in ("laptop", "smoke"):
        settings.environment.grid_size = 9
        settings.environment.num_envs = 32
        small_grid_network(settings)
        settings.policy.num_policies = 8
        # The time limit truncates, and the agent bootstraps: only the discount rewards speed.
        settings.policy.gamma_0 = 0.95
        settings.policy.gamma_1 = 0.93
        settings.policy.gamma_2 = 0.9
        settings.bandit.group_size = 4
        settings.replay.capacity = "200_000"
        settings.replay.trace = 20
        settings.replay.period = 10
        settings.replay.min_sequences = 400
        settings.replay.samples_per_insert = 16.0
        settings.learner.batch_size = 32
        settings.learner.learning_rate = 1e-3
        settings.learner.adam_epsilon = 1e-6  # values below 1 make small gradients
        settings.learner.target_period_updates = 50
        # At every act: otherwise parameters change during an episode, and short episodes end first.
        settings.evaluation.num_envs = 4
        settings.evaluation.period_acts = 1
        small_evaluator(settings)
        settings.total_steps = 2_000_000
    if profile == "smoke":
        settings.environment.grid_size = 5
        settings.replay.min_sequences = 64
        settings.logging.period_seconds = 5.0
        settings.total_steps = 20_000
    if profile == "box":
        one_box(settings)
    agent(settings)
    return settings
