"""Agent57 on any of the 57 Atari games.

python train.py --config=configs/atari.py --config.environment.task_id=Pong-v5 --workdir=runs/pong

paper: the numbers of the Agent57 paper; one GPU; the full replay alone takes 36 GB ("auto" fits a smaller one). Hours and score:
not measured yet. laptop: the same algorithm sized for a CPU with two cores and 8 GiB. smoke: about a minute, to see that all works.
"""

from agent57_jax.config import Settings
from configs.profiles import parse, small_evaluator


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, laptop or smoke) and an agent of the family, as in "laptop,ngu"."""
    profile, agent = parse(argument)
    settings = Settings()
    if profile in ("laptop", "smoke"):
        laptop(settings)
    if profile == "smoke":
        smoke(settings)
    agent(settings)
    return settings


def laptop(settings: Settings) -> None:
    """The same algorithm for two CPU cores: fewer and smaller everything, no part left out."""
    settings.environment.num_envs = 32
    settings.network.conv_features = (16, 32, 32)
    settings.network.torso_size = 128
    settings.network.lstm_size = 128
    settings.network.head_size = 128
    settings.policy.num_policies = 8
    settings.bandit.group_size = 4  # 32 actors of a short run would each see too few episodes for a bandit of their own
    settings.novelty.memory_capacity = 5_000
    settings.replay.capacity = "200_000"
    settings.replay.trace = 40
    settings.replay.period = 20
    settings.replay.min_sequences = 400
    settings.learner.batch_size = 16
    settings.learner.target_period_updates = 400
    settings.evaluation.num_envs = 4
    small_evaluator(settings)
    settings.evaluation.period_acts = 4
    settings.checkpoint.period_seconds = 300.0
    settings.total_steps = 50_000_000


def smoke(settings: Settings) -> None:
    """The laptop's sizes, cut to what about a minute allows."""
    settings.environment.num_envs = 16
    settings.environment.max_episode_steps = 300
    settings.bandit.group_size = 2
    settings.replay.capacity = "20_000"
    settings.replay.min_sequences = 64
    settings.learner.target_period_updates = 50
    settings.checkpoint.period_seconds = 30.0
    settings.logging.period_seconds = 5.0
    settings.total_steps = 8_000
