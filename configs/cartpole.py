"""Agent57 on CartPole in EnvPool: balance a pole for 500 steps.

python train.py --config=configs/cartpole.py:laptop --workdir=runs/cartpole

Similar tasks: --config.environment.task_id=Acrobot-v1, MountainCar-v0, FrozenLake-v1 or Catch-v0 (docs/environments.md). The papers have no
such tasks. The best return is 500, random play reaches 22.

paper: not measured yet. laptop: 499 over 100 greedy episodes, 498 to 500 over three seeds, after 2.4 minutes of one core. smoke: 20,000
steps, to see that everything works.
"""

from agent57_jax.config import Settings, Torso
from configs.profiles import one_box, parse, small_budget, smoke_run


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, box, laptop or smoke) and an agent, as in "laptop,ngu"."""
    profile, agent = parse(argument)
    settings = Settings()
    settings.environment.task_id = "CartPole-v1"
    settings.environment.max_episode_steps = 500
    settings.network.torso = Torso.DENSE
    settings.novelty.memory_capacity = 500  # the length of an episode
    settings.replay.capacity = "2_000_000"
    settings.replay.min_sequences = 1_000
    settings.total_steps = 20_000_000
    if profile in ("laptop", "smoke"):
        small_budget(settings)
        settings.network.dense_features = (64,)
        settings.network.torso_size = 64
        settings.network.lstm_size = 64
        settings.network.head_size = 64
        settings.total_steps = 400_000
    if profile == "smoke":
        smoke_run(settings)
    if profile == "box":
        one_box(settings)
    agent(settings)
    return settings
