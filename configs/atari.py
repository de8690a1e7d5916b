"""Agent57 on any of the 57 Atari games.

python train.py --config=configs/atari.py --config.environment.task_id=Pong-v5 --workdir=runs/pong

paper: the numbers of the Agent57 paper; one GPU; the full replay alone takes 36 GB ("auto" fits a smaller one). Hours and score:
not measured yet. laptop: rules and sizes for two CPU cores and 8 GiB. smoke: about a minute, to see that everything works.
"""

from collections.abc import Callable

from agent57_jax.config import Settings
from configs.profiles import one_box, parse, small_budget


def get_config(argument: str = "paper", task_id: str = "Zaxxon-v5", small: Callable[[Settings], None] | None = None) -> Settings:
    """Settings of a profile (paper, box, laptop or smoke) and an agent, as in "laptop,ngu"; `small`: a game's changes to small profiles."""
    profile, agent = parse(argument)
    settings = Settings()
    settings.environment.task_id = task_id
    if profile in ("laptop", "smoke"):
        laptop(settings)
        if small is not None:
            small(settings)
    if profile == "smoke":
        smoke(settings)
    if profile == "box":
        box(settings)
    agent(settings)
    return settings


def box(settings: Settings) -> None:
    """The same algorithm for one GPU and 200 M frames, with discounts as far-sighted as so many updates can learn."""
    one_box(settings)
    settings.policy.gamma_0 = 0.9997
    settings.policy.gamma_2 = 0.97
    settings.learner.learning_rate = 2e-4


def laptop(settings: Settings) -> None:
    """The whole algorithm with smaller sizes, for two CPU cores."""
    small_budget(settings)
    settings.environment.frame_size = 42
    settings.network.conv_features = (16, 32, 32)
    settings.network.conv_kernels = (6, 3, 3)
    settings.network.conv_strides = (3, 2, 1)
    settings.network.torso_size = 128
    settings.network.lstm_size = 128
    settings.network.head_size = 128
    settings.learner.learning_rate = 3e-4
    settings.novelty.memory_capacity = 5_000
    settings.total_steps = 2_000_000


def smoke(settings: Settings) -> None:
    """The laptop's sizes, reduced to about a minute."""
    settings.environment.num_envs = 16
    settings.environment.max_episode_steps = 300
    settings.bandit.group_size = 2
    settings.replay.capacity = "20_000"
    settings.replay.min_sequences = 64
    settings.learner.target_period_updates = 50
    settings.checkpoint.period_seconds = 30.0
    settings.logging.period_seconds = 5.0
    settings.total_steps = 8_000
