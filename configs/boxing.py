"""Agent57 on Boxing.

python train.py --config=configs/boxing.py --workdir=runs/boxing

paper: one GPU; the full replay alone takes 36 GB; hours and score: not measured yet (a human scores 12.1). laptop: two CPU
cores and 8 GiB; -0.9 after a million steps, about an hour (one seed, reproductions/results). smoke: about a minute.
"""

from agent57_jax.config import Settings
from configs import atari


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, laptop or smoke) and an agent of the family, as in "laptop,ngu"."""
    settings = atari.get_config(argument)
    settings.environment.task_id = "Boxing-v5"
    return settings
