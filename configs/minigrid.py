"""Agent57 on MiniGrid's DoorKey-8x8 in EnvPool: find the key of a locked door. The view is 7 x 7 cells, the reward comes at the end.

python train.py --config=configs/minigrid.py:laptop --workdir=runs/minigrid

Other tasks: --config.environment.task_id=MiniGrid-KeyCorridorS3R3-v0. Tasks with changing mission texts are refused, since the agent cannot
read. The papers have no such task.

paper: hours and score not measured yet. laptop: 0.94 to 0.95 over 100 greedy episodes (three seeds), after 5 to 8 minutes of one
core (random play succeeds in 2% of episodes); KeyCorridorS3R3: 0.60 to 0.73 after a million steps (three seeds). smoke: 20,000 steps, to
see that everything works.
"""

from agent57_jax.config import Settings
from configs.profiles import grid_network, one_box, only_a_goal, parse, rare_rewards, small_budget, small_grid_network, smoke_run


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, box, laptop or smoke) and an agent, as in "laptop,ngu"."""
    profile, agent = parse(argument)
    settings = Settings()
    settings.environment.task_id = "MiniGrid-DoorKey-8x8-v0"
    settings.environment.max_episode_steps = 1_000  # the task's own limit is 640
    grid_network(settings)
    settings.novelty.memory_capacity = 1_000
    settings.learner.adam_epsilon = 1e-6  # values below 1 make small gradients
    settings.replay.capacity = "5_000_000"
    settings.total_steps = 50_000_000
    if profile in ("laptop", "smoke"):
        small_budget(settings)
        rare_rewards(settings)
        only_a_goal(settings)
        small_grid_network(settings)
        settings.novelty.memory_capacity = 640
        settings.total_steps = 1_500_000
    if profile == "smoke":
        smoke_run(settings)
    if profile == "box":
        one_box(settings)
    agent(settings)
    return settings
