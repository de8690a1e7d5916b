"""R2D2 with a bandit over discounts on Shifting Corridor, whose best discount changes.

python train.py --config=configs/shifting_corridor.py:laptop --workdir=runs/shifting_corridor

The papers have no such task. It shows the effect of the meta-controller: no intrinsic reward, eight discounts in one network. Action values
do not depend on the phase, so only the bandit's choice changes with it: arms 0 to 2 are best under the long limit, arms 4 to 7 under the
short one.
"""

from agent57_jax.config import DiscountLadder, EnvironmentKind, IntrinsicReward, Settings, Torso
from configs.profiles import one_box, parse, small_evaluator, unnamed


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, box, laptop or smoke); an agent, as in "laptop,ngu", replaces this task's agent."""
    profile, agent = parse(argument)
    settings = Settings()
    settings.environment.kind = EnvironmentKind.SHIFTING_CORRIDOR
    settings.environment.num_groups = 1
    settings.environment.grid_size = 12
    settings.environment.max_episode_steps = 60
    settings.environment.phase_steps = 2_000
    settings.network.torso = Torso.DENSE
    settings.network.dense_features = (64,)
    settings.network.torso_size = 64
    settings.network.lstm_size = 32
    settings.network.head_size = 64
    settings.policy.num_policies = 8
    settings.policy.gamma_0 = 0.98
    settings.policy.gamma_1 = 0.98  # the time limit truncates, and the agent bootstraps: only the discount rewards speed
    settings.policy.gamma_2 = 0.5
    settings.bandit.group_size = 8  # makes a window of 160 episodes a small part of a phase
    settings.novelty.memory_capacity = 60  # the length of an episode
    settings.replay.capacity = "1_000_000"
    settings.replay.trace = 20
    settings.replay.period = 10
    settings.replay.min_sequences = 1_000
    settings.learner.learning_rate = 5e-4
    settings.learner.target_period_updates = 100
    settings.total_steps = 20_000_000
    if profile in ("laptop", "smoke"):
        settings.environment.num_envs = 32
        settings.replay.capacity = "200_000"
        settings.replay.min_sequences = 400
        settings.replay.samples_per_insert = 4.0
        settings.learner.batch_size = 32
        settings.evaluation.num_envs = 4
        small_evaluator(settings)
        settings.total_steps = 1_500_000
    if profile == "smoke":
        settings.environment.phase_steps = 60
        settings.replay.min_sequences = 64
        settings.logging.period_seconds = 5.0
        settings.total_steps = 20_000
    if profile == "box":
        one_box(settings)
    if agent is not unnamed:
        agent(settings)
    else:
        _bandit_over_discounts(settings)
    return settings


def _bandit_over_discounts(settings: Settings) -> None:
    """R2D2 (bandit) with NGU's discounts, which are evenly spaced even if they are few."""
    settings.novelty.reward = IntrinsicReward.NONE
    settings.policy.separate_networks = False
    settings.policy.beta_max = 0.0
    settings.policy.discounts = DiscountLadder.NGU
