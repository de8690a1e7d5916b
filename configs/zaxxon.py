"""Agent57 on Zaxxon.

python train.py --config=configs/zaxxon.py --workdir=runs/zaxxon

paper: one GPU with 60 GB or more for the full replay; hours and score: not measured yet (a human scores 9,173). laptop: two CPU
cores and 8 GiB, score not measured yet. smoke: about two minutes.
"""

from agent57_jax.config import Settings
from configs import atari


def get_config(profile: str = "paper") -> Settings:
    """Settings of a profile: paper, laptop or smoke."""
    settings = atari.get_config(profile)
    settings.environment.task_id = "Zaxxon-v5"
    return settings
