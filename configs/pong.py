"""Agent57 on Pong.

python train.py --config=configs/pong.py --workdir=runs/pong

paper: one GPU; the full replay alone takes 36 GB; hours and score: not measured yet (a human scores 14.6). laptop: two CPU
cores and 8 GiB; not measured yet. smoke: about a minute.
"""

from agent57_jax.config import Settings
from configs import atari


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, laptop or smoke) and an agent of the family, as in "laptop,ngu"."""
    settings = atari.get_config(argument)
    settings.environment.task_id = "Pong-v5"
    return settings
