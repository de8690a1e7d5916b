"""NGU's Random Disco Maze (NGU §4.1): no reward, a new maze every episode, walls that change colour at every step.

python train.py --config=configs/disco_maze.py --workdir=runs/disco_maze

One policy with beta 0.5 and one network, as in the paper. paper: 21x21; hours and explored share: not measured yet. laptop: 11x11; greedy
episodes visit 0.84 of the corridor cells after 5 minutes of one core (three seeds, before a fix to the embedding;
reproductions/results). smoke: about a minute.
"""

from agent57_jax.config import Chooser, DiscountLadder, EnvironmentKind, Settings, Transform
from configs.profiles import grid_network, one_box, parse, small_grid_network, unnamed


def get_config(argument: str = "paper") -> Settings:
    """Settings of a profile (paper, box, laptop or smoke); an agent, as in "laptop,ngu", replaces this task's single policy."""
    profile, agent = parse(argument)
    settings = Settings()
    settings.environment.kind = EnvironmentKind.DISCO_MAZE
    settings.environment.num_groups = 1
    settings.environment.grid_size = 21
    settings.environment.max_episode_steps = 5_000  # Choice: the paper's memory size
    grid_network(settings)
    settings.policy.num_policies = 1
    settings.policy.beta_max = 0.5
    settings.policy.discounts = DiscountLadder.NGU
    settings.policy.separate_networks = False
    settings.bandit.chooser = Chooser.FIXED
    settings.novelty.memory_capacity = 5_000
    settings.novelty.kernel_epsilon = 0.01
    settings.replay.trace = 50
    settings.replay.period = 50
    settings.learner.learning_rate = 1e-3
    settings.learner.novelty_learning_rate = 1e-3  # Deviation: NGU's Table 7 has 5e-4 for distillation, but there is one setting for both
    settings.learner.trace_lambda = 0.97
    settings.learner.transform = Transform.IDENTITY
    settings.learner.target_period_updates = 100
    settings.evaluation.epsilon = 0.0
    settings.replay.capacity = "1_000_000"
    settings.total_steps = 100_000_000
    if profile in ("laptop", "smoke"):
        settings.environment.grid_size = 11
        settings.environment.max_episode_steps = 250
        settings.environment.num_envs = 32
        # One window per room of the maze with its four passages: a fifth of the work of the paper's torso.
        small_grid_network(settings)
        settings.policy.gamma_1 = 0.95  # episodes of 250 steps in a maze of 49 cells
        settings.policy.gamma_2 = 0.95
        settings.novelty.memory_capacity = 250
        settings.replay.capacity = "200_000"
        settings.replay.trace = 20
        settings.replay.period = 10
        settings.replay.min_sequences = 200
        settings.replay.samples_per_insert = 8.0
        settings.learner.batch_size = 32
        # At every act, so that an episode of 250 steps lasts some 200 updates. At every sixteenth act an episode lasted a quarter of the
        # run, and changing parameters freed the agent where it would have oscillated.
        settings.evaluation.num_envs = 8
        settings.evaluation.period_acts = 1
        settings.total_steps = 500_000
    if profile == "smoke":
        settings.replay.min_sequences = 64
        settings.logging.period_seconds = 5.0
        settings.total_steps = 20_000
    if profile == "box":
        one_box(settings)
    if agent is not unnamed:
        _family(settings, {"paper": 32, "box": 16}.get(profile, 8))
        agent(settings)
    return settings


def _family(settings: Settings, num_policies: int) -> None:
    """The basis of an agent: several policies, and Agent57's lengths, which are twice NGU's."""
    settings.policy.num_policies = num_policies
    settings.replay.trace *= 2
    settings.replay.period *= 2
    settings.replay.samples_per_insert *= 2
