"""Agent57 on any discrete Gymnasium environment, by default CartPole.

python train.py --config=configs/gymnasium.py:laptop --config.environment.task_id=CartPole-v1 --workdir=runs/cartpole

The task is a Gymnasium id or your own entry point, "my_module:MyEnvironment" (docs/environments.md). Sizes are for vectors; for images add
--config.network.torso=convolutions and, below 36 pixels, smaller --config.network.conv_kernels. The papers have no such tasks.

paper: not measured yet. laptop: two CPU cores, not measured yet; an earlier version reached 241 on CartPole (500,000 steps, one seed, 100
greedy episodes); random play reaches 22, the maximum is 500. smoke: 20,000 steps.
"""

from agent57_jax.config import EnvironmentKind, Settings
from configs import lunar_lander
from configs.profiles import parse


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, box, laptop or smoke) and an agent, as in "laptop,ngu"."""
    profile, _ = parse(argument)
    settings = lunar_lander.get_config(argument)  # sizes for vectors
    settings.environment.kind = EnvironmentKind.GYMNASIUM
    settings.environment.task_id = "CartPole-v1"
    if profile == "laptop":
        settings.total_steps = 500_000
    return settings
