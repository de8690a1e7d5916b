"""Agent57 on any discrete Gymnasium environment, CartPole unless another is named.

python train.py --config=configs/gymnasium.py:laptop --config.environment.task_id=CartPole-v1 --workdir=runs/cartpole

The task is a Gymnasium id or an entry point of your own, "my_module:MyEnvironment" (docs/environments.md). Sizes are for vectors; for
images add --config.network.torso=convolutions and, below 36 pixels, smaller --config.network.conv_kernels. The papers have no such tasks.

paper: not measured yet. laptop: two CPU cores; after 38 seconds of CartPole (186 updates, nothing learnt yet) 11.3 over 32 greedy episodes,
longer not measured yet. smoke: 20,000 steps.
"""

from agent57_jax.config import EnvironmentKind, Settings
from configs import lunar_lander
from configs.profiles import parse


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, laptop or smoke) and an agent of the family, as in "laptop,ngu"."""
    profile, _ = parse(argument)
    settings = lunar_lander.get_config(argument)  # sizes for vectors
    settings.environment.kind = EnvironmentKind.GYMNASIUM
    settings.environment.task_id = "CartPole-v1"
    if profile == "laptop":
        settings.total_steps = 500_000
    return settings
