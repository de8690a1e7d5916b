"""The profiles and agents that --config=configs/NAME.py:PROFILE,AGENT selects.

Agents are the columns of the papers' tables (Agent57 §4, Table 1; NGU §4; R2D2 App.), and MEME. Each is Agent57 with parts switched off,
or on, and with the hyperparameters of its own paper; without an agent's name a config keeps its own default, `agent57` for most tasks.
A small profile scales lengths and periods in proportion.
"""

import difflib
from collections.abc import Callable

from agent57_jax.config import (
    Bootstrap,
    Chooser,
    DiscountLadder,
    EvaluationArm,
    FirstPriority,
    IntrinsicReward,
    NormalisedErrors,
    Precision,
    RewardInputs,
    Settings,
    Targets,
)

PROFILES = ("paper", "laptop", "smoke", "box")


def parse(argument: str) -> tuple[str, Callable[[Settings], None]]:
    """Parses "PROFILE", "AGENT" or "PROFILE,AGENT".

    Returns:
      The profile; a function that turns the settings of a task into those of the agent.

    Raises:
      ValueError: for a name that is neither, or two of a kind.
    """
    names = [name.strip() for name in argument.split(",") if name.strip()]
    for name in names:
        if name not in PROFILES and name not in AGENTS:
            nearest = difflib.get_close_matches(name, (*PROFILES, *AGENTS), n=1, cutoff=0.0)[0]
            raise ValueError(
                f"no profile or agent '{name}', did you mean {nearest}? Profiles: {', '.join(PROFILES)}; agents: {', '.join(AGENTS)}"
            )
    profiles, agents = [name for name in names if name in PROFILES], [name for name in names if name in AGENTS]
    if len(profiles) > 1 or len(agents) > 1:
        raise ValueError(
            f"'{argument}' names two of a kind; one profile ({', '.join(PROFILES)}) and one agent ({', '.join(AGENTS)}) are allowed"
        )
    profile, agent = (profiles or ["paper"])[0], AGENTS[agents[0]] if agents else unnamed
    return profile, meme_paper if profile == "paper" and agent is meme else agent


def unnamed(settings: Settings) -> None:
    """Keeps the task's default agent."""


def grid_network(settings: Settings) -> None:
    """Convolutions for views of some ten cells, which Atari's windows would not fit."""
    settings.network.conv_features = (16, 32)
    settings.network.conv_kernels = (3, 3)
    settings.network.conv_strides = (1, 1)


def small_grid_network(settings: Settings) -> None:
    """One convolution and small layers behind it, for two CPU cores."""
    settings.network.conv_features = (32,)
    settings.network.conv_kernels = (3,)
    settings.network.conv_strides = (2,)
    settings.network.torso_size = 64
    settings.network.lstm_size = 64
    settings.network.head_size = 64


def small_budget(settings: Settings) -> None:
    """Rules for minutes to hours on two CPU cores instead of weeks on a fleet (docs/decisions.md has the reasons).

    Many small updates, so that a run has thousands of them; a family of four that explores mildly; discounts
    for episodes of some hundred steps; rewards and errors on comparable scales. Tasks with rare rewards add
    `rare_rewards` and `only_a_goal`, and some configs override single numbers.
    """
    settings.environment.num_envs = 32
    settings.network.shared_torso = True
    settings.network.reward_inputs = RewardInputs.LOGARITHMIC
    settings.policy.num_policies = 4
    settings.policy.beta_max = 0.01
    settings.policy.gamma_0 = 0.98
    settings.policy.gamma_1 = 0.975
    settings.policy.gamma_2 = 0.97
    settings.bandit.group_size = 16  # half of the actors: both bandits see enough episodes
    settings.bandit.window_episodes = 40
    settings.actor.epsilon_alpha = 4.0
    settings.novelty.kernel_epsilon = 1e-2
    settings.novelty.ends_with_episode = False  # else a goal costs more novelty than it pays
    settings.novelty.statistics_horizon = 1e4
    settings.novelty.train_timesteps = 2
    settings.replay.capacity = "100_000"
    settings.replay.trace = 20
    settings.replay.period = 10
    settings.replay.min_sequences = 400
    settings.replay.samples_per_insert = 4.0  # a timestep is replayed eight times
    settings.replay.priority_exponent = 0.6
    settings.replay.first_priority = FirstPriority.ACTOR
    settings.learner.batch_size = 16
    settings.learner.learning_rate = 1e-4
    settings.learner.final_rate_share = 0.1
    settings.learner.adam_epsilon = 1e-5
    settings.learner.target_period_updates = 100
    settings.learner.average_decay = 0.999
    settings.learner.normalise_errors = NormalisedErrors.PRIORITIES
    settings.learner.targets = Targets.SOFT_WATKINS
    settings.evaluation.num_envs = 4
    settings.evaluation.arm = EvaluationArm.ACTORS  # its own bandit sees too few episodes
    settings.checkpoint.period_seconds = 300.0
    small_evaluator(settings)


def rare_rewards(settings: Settings) -> None:
    """Rules on top of `small_budget` where most sequences have no reward: a goal at the end, a point every hundred steps."""
    settings.network.output_scale = 0.01  # else meaningless value differences between actions last for thousands of updates
    settings.learner.normalise_errors = NormalisedErrors.NOWHERE  # a reward stands out in the priorities


def only_a_goal(settings: Settings) -> None:
    """Rules on top of `rare_rewards` where an episode has one reward, at its end: novelty leads, and few successes teach all policies."""
    settings.novelty.kernel_epsilon = 1e-3  # a new view pays up to ten times as much as the second look at it
    settings.replay.capacity = "400_000"  # keeps rare successes
    settings.replay.priority_exponent = 0.9  # and draws them
    settings.learner.adam_epsilon = 1e-6  # values below 1 make small gradients
    settings.learner.learning_rate = 3e-4
    settings.learner.target_period_updates = 50
    settings.learner.cross_mixture = 0.5  # most policies have no success of their own


def smoke_run(settings: Settings) -> None:
    """A small profile cut to 20,000 steps, to see that all works, also on several devices."""
    settings.bandit.group_size = 2
    settings.replay.min_sequences = 64
    settings.logging.period_seconds = 5.0
    settings.total_steps = 20_000


def small_evaluator(settings: Settings) -> None:
    """An evaluator for runs in which it plays a few hundred episodes: it retries arms that scored badly while the agent was untrained.

    The paper's window of 3,600 and exploration of 0.01 suit many times more episodes.
    """
    settings.evaluation.window_episodes = 40
    settings.evaluation.exploration = 0.1


def one_box(settings: Settings) -> None:
    """Rules for one GPU and about a day: 200 M frames of Atari instead of 90 G (docs/configuration.md has a reason for each).

    Networks, novelty and the number of actors stay as in the paper; settings that need its larger budget are changed.
    """
    settings.policy.num_policies = min(settings.policy.num_policies, 16)
    settings.policy.beta_max = min(settings.policy.beta_max, 0.1)
    settings.bandit.group_size = 16
    settings.replay.trace = min(settings.replay.trace, 80)
    settings.replay.period = min(settings.replay.period, 40)
    settings.replay.samples_per_insert = 6.0
    settings.replay.priority_exponent = 0.6
    settings.replay.first_priority = FirstPriority.ACTOR
    settings.learner.batch_size = 64
    settings.learner.final_rate_share = 0.1
    settings.learner.adam_epsilon = min(settings.learner.adam_epsilon, 1e-5)
    settings.learner.target_period_updates = min(settings.learner.target_period_updates, 400)
    settings.learner.average_decay = 0.999
    settings.learner.normalise_errors = NormalisedErrors.PRIORITIES
    settings.learner.targets = Targets.SOFT_WATKINS
    settings.evaluation.arm = EvaluationArm.ACTORS
    small_evaluator(settings)
    settings.precision.compute = Precision.BFLOAT16
    settings.total_steps = min(settings.total_steps, 50_000_000)


def agent57(settings: Settings) -> None:
    """Everything: two networks, a bandit over the family, traces of 160 (Agent57 App. G.3)."""
    settings.novelty.reward = IntrinsicReward.NGU
    settings.policy.separate_networks = True
    settings.policy.discounts = DiscountLadder.AGENT57
    settings.bandit.chooser = Chooser.BANDIT


def meme(settings: Settings) -> None:
    """Agent57 that learns from fewer frames (Kapturowski et al. 2022, known second-hand: see docs/algorithm.md)."""
    agent57(settings)
    settings.network.policy_heads = True
    settings.learner.bootstrap = Bootstrap.ONLINE
    settings.learner.trust_region = 2.0
    settings.learner.targets = Targets.SOFT_WATKINS
    settings.learner.normalise_errors = NormalisedErrors.EVERYWHERE
    settings.learner.combined_loss = True
    settings.learner.cross_mixture = 0.5
    settings.learner.distil_policy = True


def meme_paper(settings: Settings) -> None:
    """MEME with its own hyperparameters and budget, for the paper profile; all other settings are Agent57's.

    With 6 samples per insert, its 12,970 frames/s give the quoted 3.8 updates/s of 64 sequences.
    """
    meme(settings)
    settings.environment.num_envs = 64  # quoted
    settings.policy.num_policies = 16  # quoted
    settings.policy.gamma_0, settings.policy.gamma_2 = 0.9997, 0.97  # quoted
    settings.policy.beta_max = 0.1  # recollection
    settings.replay.samples_per_insert = 6.0  # quoted
    settings.replay.priority_exponent, settings.replay.is_exponent = 0.6, 0.4  # recollection
    settings.learner.learning_rate, settings.learner.novelty_learning_rate = 3e-4, 6e-4  # recollection
    settings.learner.adam_epsilon, settings.learner.weight_decay = 1e-8, 0.05  # recollection
    settings.learner.target_rate = 0.01  # recollection
    settings.total_steps = min(settings.total_steps, 50_000_000)  # 200 M frames of Atari, quoted; its other budget is 250_000_000


def ngu_separate(settings: Settings) -> None:
    """NGU with separate networks (Agent57 §3.1, ablation)."""
    ngu(settings)
    settings.policy.separate_networks = True


def ngu(settings: Settings) -> None:
    """Never Give Up: one network on r^e + beta_j r^i, each actor a fixed policy (NGU App. A, F)."""
    agent57(settings)
    settings.policy.separate_networks = False
    settings.policy.discounts = DiscountLadder.NGU
    settings.bandit.chooser = Chooser.FIXED
    settings.learner.targets = Targets.RETRACE
    _halve_trace(settings)


def r2d2_bandit(settings: Settings) -> None:
    """R2D2 with Retrace and a bandit over the family's discounts (Agent57 §4, ablation)."""
    _extrinsic_only(settings)
    settings.policy.discounts = DiscountLadder.AGENT57
    settings.bandit.chooser = Chooser.BANDIT


def r2d2_retrace(settings: Settings) -> None:
    """R2D2 with Retrace instead of n-step targets, and otherwise Agent57's rates (Agent57 §4, ablation)."""
    _extrinsic_only(settings)
    settings.policy.num_policies = 1
    settings.learner.cross_mixture = 0.0  # there is no other policy
    settings.policy.discounts = DiscountLadder.NGU  # a family of one has the first of its discounts, 0.997
    settings.bandit.chooser = Chooser.FIXED


def r2d2(settings: Settings) -> None:
    """R2D2 as its paper has it: n-step double Q-learning, burn-in, importance weights (R2D2 §2.3, App., Table 2)."""
    r2d2_retrace(settings)
    settings.learner.targets = Targets.N_STEP
    settings.learner.n_step = 5
    settings.learner.adam_epsilon *= 10  # 1e-3 where Agent57 has 1e-4
    settings.learner.target_period_updates = settings.learner.target_period_updates * 5 // 3  # 2,500 where Agent57 has 1,500
    settings.replay.burn_in = settings.replay.trace // 2  # 40
    settings.replay.is_exponent = 0.6
    settings.replay.auto_limit = 4_000_000
    settings.actor.epsilon_alpha = 7.0


def _extrinsic_only(settings: Settings) -> None:
    settings.novelty.reward = IntrinsicReward.NONE
    settings.novelty.ends_with_episode = True
    settings.learner.targets = Targets.RETRACE
    settings.policy.separate_networks = False
    settings.policy.beta_max = 0.0
    _halve_trace(settings)


def _halve_trace(settings: Settings) -> None:
    """Traces of 80 every 40 steps where Agent57 has 160 and 80; at equal rates what is inserted is then sampled half as often."""
    settings.replay.trace = max(settings.replay.trace // 2, settings.novelty.train_timesteps)
    settings.replay.period = max(settings.replay.period // 2, 1)
    settings.replay.samples_per_insert /= 2


AGENTS: dict[str, Callable[[Settings], None]] = {
    agent.__name__: agent for agent in (r2d2, r2d2_retrace, r2d2_bandit, ngu, ngu_separate, agent57, meme)
}
