"""Agent57 on Boxing.

python train.py --config=configs/boxing.py --workdir=runs/boxing

paper: one GPU; the full replay alone takes 36 GB; hours and score: not measured yet (a human scores 12.1). laptop: two CPU
cores and 8 GiB; 86 and 80 over 100 greedy episodes after 60 and 70 minutes of one core, 1.35 and 1.44 million steps (seeds 0 and 1; random
play has 0.1). smoke: about a minute.
"""

from agent57_jax.config import Settings
from configs import atari


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, box, laptop or smoke) and an agent of the family, as in "laptop,ngu"."""
    settings = atari.get_config(argument)
    settings.environment.task_id = "Boxing-v5"
    return settings
