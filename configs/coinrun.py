"""Agent57 on Procgen's Coinrun: RGB frames of 64 x 64, a new level in every episode, ten points for the coin at its right end.

python train.py --config=configs/coinrun.py:laptop --workdir=runs/coinrun

Other Procgen games: --config.environment.task_id=MazeEasy-v0. Three take longer than 1,000 steps: Bigfish also needs
--config.environment.max_episode_steps=6000, Bossfight and Plunder 4000. All need Debian's packages libqt5gui5 and libqt5core5a.

paper: the Hard levels with the paper's numbers for Atari, on one GPU; hours and score: not measured yet. laptop: the Easy levels on two
CPU cores, not measured yet; an earlier profile reached 4.70 over 100 greedy episodes on new levels after 413 thousand steps (one seed);
random play reaches 3.0, and holding RIGHT and UP 6.6. smoke: 8,000 steps, to see that everything works.
"""

from agent57_jax.config import Settings
from configs import atari
from configs.profiles import parse, rare_rewards


def laptop(settings: Settings) -> None:
    """One reward at the end of an episode, and frames that do not divide into strides of three."""
    rare_rewards(settings)
    settings.network.conv_kernels = (8, 4, 3)
    settings.network.conv_strides = (4, 2, 1)
    settings.learner.intrinsic_loss_weight = 0.01  # the intrinsic loss is tens of times the extrinsic one


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, box, laptop or smoke) and an agent, as in "laptop,ngu"."""
    profile, _ = parse(argument)
    settings = atari.get_config(argument, small=laptop)
    settings.environment.task_id = "CoinrunEasy-v0" if profile in ("laptop", "smoke") else "CoinrunHard-v0"
    settings.environment.max_episode_steps = 1_000  # the game's own limit, which cannot be lower
    settings.novelty.memory_capacity = 1_000
    if profile == "paper":
        settings.total_steps = 200_000_000  # Procgen's protocol for Hard levels
    return settings
