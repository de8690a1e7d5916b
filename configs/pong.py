"""Agent57 on Pong.

python train.py --config=configs/pong.py --workdir=runs/pong

paper: one GPU; the full replay alone takes 36 GB; hours and score: not measured yet (a human scores 14.6). laptop: two CPU
cores and 8 GiB; 17.4 over 100 greedy episodes after 61 minutes of one core, 1.47 of its 2 million steps (seed 0). smoke: about a minute.
"""

from agent57_jax.config import Settings
from configs import atari
from configs.profiles import rare_rewards


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, box, laptop or smoke) and an agent of the family, as in "laptop,ngu"."""
    settings = atari.get_config(argument, laptop)
    settings.environment.task_id = "Pong-v5"
    return settings


def laptop(settings: Settings) -> None:
    """A point comes every hundred steps, and the intrinsic loss is a hundred times the extrinsic one."""
    rare_rewards(settings)
    settings.learner.intrinsic_loss_weight = 0.01
