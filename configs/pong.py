"""Agent57 on Pong.

python train.py --config=configs/pong.py --workdir=runs/pong

paper: one GPU; the full replay alone takes 36 GB; hours and score: not measured yet (a human scores 14.6). laptop: two CPU
cores and 8 GiB; 19.1 and 19.9 over 100 greedy episodes after 2 million steps, 76 and 113 minutes of one core (seeds 0 and 1). smoke: about
a minute.
"""

import functools

from agent57_jax.config import Settings
from configs import atari
from configs.profiles import rare_rewards


def laptop(settings: Settings) -> None:
    """A point is scored every hundred steps, and the intrinsic loss is a hundred times the extrinsic one."""
    rare_rewards(settings)
    settings.actor.epsilon_base = 0.8  # some actors play almost at random, which finds what greedy noise does not
    settings.actor.epsilon_alpha = 14.0
    settings.learner.intrinsic_loss_weight = 0.01


get_config = functools.partial(atari.get_config, task_id="Pong-v5", small=laptop)
