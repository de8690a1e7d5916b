"""Agent57 on EnvPool's Lunar Lander, with vector observations.

python train.py --config=configs/lunar_lander.py:laptop --workdir=runs/lunar_lander

The papers have no such task; the network is a choice, the algorithm is the same. A mean return of 200 counts as solved. laptop: 241 over
100 greedy episodes, 235 to 243 over three seeds, after 12 minutes of one core. paper: not measured yet. smoke: about a minute.
"""

from agent57_jax.config import Settings, Torso
from configs.profiles import one_box, parse, small_budget, smoke_run


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, box, laptop or smoke) and an agent, as in "laptop,ngu"."""
    profile, agent = parse(argument)
    settings = Settings()
    settings.environment.task_id = "LunarLander-v3"
    settings.environment.max_episode_steps = 1_000
    settings.network.torso = Torso.DENSE
    settings.novelty.memory_capacity = 1_000  # the length of an episode
    settings.replay.capacity = "2_000_000"
    settings.replay.min_sequences = 1_000
    settings.total_steps = 20_000_000
    if profile in ("laptop", "smoke"):
        small_budget(settings)
        settings.policy.gamma_0 = 0.99  # a landing takes some 200 steps; with the default 0.98 it hovers
        settings.policy.gamma_1 = 0.985
        settings.policy.gamma_2 = 0.98
        settings.network.dense_features = (128,)
        settings.network.torso_size = 128
        settings.network.lstm_size = 64
        settings.network.head_size = 128
        settings.total_steps = 1_500_000
    if profile == "smoke":
        smoke_run(settings)
    if profile == "box":
        one_box(settings)
    agent(settings)
    return settings
