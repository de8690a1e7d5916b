"""Agent57 on Zaxxon.

python train.py --config=configs/zaxxon.py --workdir=runs/zaxxon

paper: one GPU; the full replay alone takes 36 GB; hours and score: not measured yet (a human scores 9,173). laptop: two CPU
cores and 8 GiB, score not measured yet. smoke: about a minute.
"""

from agent57_jax.config import Settings
from configs import atari


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, box, laptop or smoke) and an agent of the family, as in "laptop,ngu"."""
    settings = atari.get_config(argument)
    settings.environment.task_id = "Zaxxon-v5"
    return settings
