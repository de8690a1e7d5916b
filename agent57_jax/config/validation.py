"""Validation of settings: types, ranges, and contradictory combinations."""

import functools
import math
import types
import typing
from collections.abc import Callable
from typing import Any

from agent57_jax.config.settings import (
    Chooser,
    EnvironmentKind,
    IntrinsicReward,
    NormalisedErrors,
    Section,
    Settings,
    flatten,
    to_dict,
)

MAX_SEED = 2**32 - 1  # JAX keys take the lowest 32 bits: larger seeds would repeat smaller ones
MAX_INT = 2**31 - 1  # programs and emulators count in 32 bits
WIDE = ("seed", "total_steps", "replay.auto_limit")  # settings used only by Python


class _Findings:
    """Collects problems."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.found: list[str] = []

    def need(self, condition: bool, message: str) -> None:
        """Adds the message unless the condition holds."""
        if not condition:
            self.found.append(message)

    def each(self, paths: str, holds: Callable[[Any], bool], demand: str) -> None:
        """Checks the settings with these dotted names, separated by blanks; None is allowed."""
        for path in paths.split():
            value = functools.reduce(getattr, path.split("."), self.settings)
            self.need(value is None or holds(value), f"{path} is {value}, but must {demand}")


AT_LEAST_1 = """
    total_steps num_devices environment.num_envs environment.num_groups environment.num_threads environment.max_episode_steps
    environment.action_repeat_frames environment.noop_max environment.frame_size environment.phase_steps network.torso_size
    network.lstm_size network.head_size policy.num_policies bandit.window_episodes bandit.group_size actor.refresh_period
    actor.acts_per_dispatch novelty.embedding_size novelty.inverse_hidden_size novelty.distillation_size novelty.num_neighbours
    novelty.memory_capacity novelty.max_factor novelty.statistics_horizon novelty.train_timesteps replay.auto_limit replay.trace
    replay.period replay.min_sequences learner.batch_size learner.target_period_updates learner.n_step evaluation.num_envs
    evaluation.period_acts evaluation.window_episodes evaluation.greedy_episodes checkpoint.keep video.keep
"""
AT_LEAST_0 = """
    policy.beta_max bandit.ucb_bonus actor.epsilon_alpha network.output_scale novelty.cluster_distance replay.priority_exponent
    replay.burn_in replay.is_exponent learner.embedding_l2 learner.trace_tolerance learner.policy_kl_limit learner.trust_region
    learner.intrinsic_loss_weight learner.weight_decay
    checkpoint.period_seconds logging.period_seconds video.period_episodes
"""
SHARES = """
    environment.repeat_action_probability bandit.exploration actor.epsilon_base evaluation.epsilon evaluation.exploration
    learner.trace_lambda learner.target_epsilon replay.eta learner.adam_b1 learner.adam_b2 learner.cross_mixture
    learner.final_rate_share learner.target_rate learner.policy_epsilon policy.gamma_0 policy.gamma_1 policy.gamma_2
"""
POSITIVE = """
    learner.learning_rate learner.novelty_learning_rate learner.adam_epsilon learner.max_gradient_norm learner.policy_temperature
    novelty.kernel_epsilon novelty.pseudo_count novelty.max_similarity replay.samples_per_insert
"""
FINITE = "policy.beta_max replay.samples_per_insert learner.learning_rate learner.novelty_learning_rate"
LAYERS = "network.conv_features network.conv_kernels network.conv_strides network.dense_features"


def problems(settings: Settings) -> list[str]:
    """One sentence per problem."""
    found = type_problems(settings)
    if not found:  # the other checks compare numbers
        found = _range_problems(settings) + _algorithm_problems(settings) + _environment_problems(settings)
    return found or _capacity_problems(settings)


def _range_problems(settings: Settings) -> list[str]:
    """Settings out of range."""
    check = _Findings(settings)
    check.each(AT_LEAST_1, lambda value: value >= 1, "be at least 1")
    check.each(AT_LEAST_0, lambda value: value >= 0, "be at least 0")
    check.each(SHARES, lambda value: 0 <= value <= 1, "lie in [0, 1]")
    check.each(POSITIVE, lambda value: value > 0, "be positive")
    check.each(FINITE, lambda value: value < math.inf, "be finite")
    check.each(LAYERS, lambda sizes: min(sizes, default=1) >= 1, "be at least 1 in every layer")
    check.each("seed", lambda value: 0 <= value <= MAX_SEED, f"lie in [0, {MAX_SEED}]")
    for path, value in flatten(to_dict(settings)).items():
        largest = max((abs(number) for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)), default=0)
        check.need(largest <= MAX_INT or path in WIDE, f"{path} is {value}, but must be at most {MAX_INT}")
    return check.found


def _algorithm_problems(settings: Settings) -> list[str]:
    """Contradictory settings of networks, policies, replay and learner."""
    check = _Findings(settings)
    need, policy, replay, learner, novelty = check.need, settings.policy, settings.replay, settings.learner, settings.novelty
    need(policy.gamma_2 <= policy.gamma_1 <= policy.gamma_0 < 1, "policy.gamma_0 >= gamma_1 >= gamma_2 must hold, all below 1")
    need(policy.num_policies <= 255, f"policy.num_policies is {policy.num_policies}, but the replay stores at most 255")
    need(max(learner.adam_b1, learner.adam_b2) < 1, "learner.adam_b1 and adam_b2 must be below 1")
    need(0 <= learner.average_decay < 1, f"learner.average_decay is {learner.average_decay}, but must lie in [0, 1)")
    if novelty.reward is IntrinsicReward.NONE:
        need(not policy.separate_networks, "policy.separate_networks must be false without an intrinsic reward (novelty.reward none)")
        need(novelty.ends_with_episode, "novelty.ends_with_episode must be true without an intrinsic reward (novelty.reward none)")
        need(policy.beta_max == 0, f"policy.beta_max is {policy.beta_max}, but must be 0 without an intrinsic reward (novelty.reward none)")
    if policy.num_policies == 1:
        share = learner.cross_mixture
        need(share <= 0, f"learner.cross_mixture is {share}, but must be 0 with one policy (policy.num_policies 1)")
    if learner.distil_policy:
        need(settings.num_networks == 1, "learner.distil_policy needs network.policy_heads, or policy.separate_networks false")
    if learner.normalise_errors is NormalisedErrors.NOWHERE:
        need(not learner.trust_region, "learner.trust_region needs learner.normalise_errors priorities or everywhere")
    lengths = {len(settings.network.conv_features), len(settings.network.conv_kernels), len(settings.network.conv_strides)}
    need(len(lengths) == 1, "network.conv_features, conv_kernels and conv_strides must have the same length")
    need(settings.bandit.group_size <= settings.bandit.window_episodes, "bandit.group_size must not exceed bandit.window_episodes")
    need(settings.evaluation.num_envs <= settings.evaluation.window_episodes, "evaluation.num_envs must not exceed its window_episodes")
    period, trace, steps = replay.period, replay.trace, novelty.train_timesteps
    need(period <= trace, f"replay.period {period} is larger than replay.trace {trace}: timesteps would be lost")
    need(steps <= trace, f"novelty.train_timesteps {steps} exceeds replay.trace {trace}")
    return check.found


def _environment_problems(settings: Settings) -> list[str]:
    """Environments that cannot be divided, or that the task does not allow."""
    check, environment = _Findings(settings), settings.environment
    need, count, groups, size = check.need, environment.num_envs, environment.num_groups, settings.bandit.group_size
    if settings.is_host_environment:
        need(groups <= count, f"environment.num_groups is {groups}, more than environment.num_envs {count}")
    else:
        need(groups == 1, f"environment.num_groups must be 1 for {environment.kind.value}, which runs on the device")
        need(environment.grid_size >= 3, f"environment.grid_size is {environment.grid_size}, but must be at least 3")
    if environment.kind is EnvironmentKind.DISCO_MAZE:
        need(environment.grid_size >= 5 and environment.grid_size % 2 == 1, "environment.grid_size of a maze must be odd and at least 5")
    if groups >= 1:
        each = settings.envs_per_group
        need(count % groups == 0, f"environment.num_envs {count} is not divisible by environment.num_groups {groups}")
        need(size < 1 or each % size == 0, f"{each} environments of a group are not divisible by bandit.group_size {size}")
    return check.found


def type_problems(section: Section, prefix: str = "") -> list[str]:
    """One sentence per value that does not have its annotated type; an int may stand for a float."""
    found: list[str] = []
    for name, annotation in type(section).__annotations__.items():
        value, path = getattr(section, name), prefix + name
        if isinstance(value, Section) and isinstance(value, annotation):
            found.extend(type_problems(value, f"{path}."))
        elif not _has_type(value, annotation):
            wanted = getattr(annotation, "__name__", str(annotation)) if isinstance(annotation, type) else str(annotation)
            found.append(f"{path} is {value!r}, but must be of type {wanted}")
    return found


def _has_type(value: Any, annotation: Any) -> bool:
    if isinstance(annotation, types.UnionType):
        return any(_has_type(value, part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return isinstance(value, tuple) and all(_has_type(part, typing.get_args(annotation)[0]) for part in value)
    if annotation in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if annotation is float else annotation)


def _capacity_problems(settings: Settings) -> list[str]:
    text = settings.replay.capacity
    if text == "auto":
        return []
    try:
        capacity = int(text)
    except ValueError:
        return [f"replay.capacity is '{text}', but must be a whole number of timesteps or 'auto'"]
    if settings.capacity_per_env(capacity) * settings.environment.num_envs >= settings.min_capacity:
        return []
    return [
        f"replay.capacity {capacity} cannot hold replay.min_sequences {settings.replay.min_sequences}: it must be at least "
        f"{settings.min_capacity} for {settings.environment.num_envs} environments (or lower min_sequences, num_envs or trace)"
    ]


def device_problems(settings: Settings, num_devices: int) -> list[str]:
    """What cannot be divided over the devices, which are known only after JAX has started."""
    check, each, size = _Findings(settings), settings.envs_per_group, settings.bandit.group_size
    for name, value in (("environments of a group", each), ("learner.batch_size", settings.learner.batch_size)):
        check.need(
            value % num_devices == 0, f"{name} {value} is not divisible by the {num_devices} devices (set num_devices, or change it)"
        )
    if settings.bandit.chooser is Chooser.BANDIT:
        local = each // num_devices
        check.need(local % size == 0, f"bandit.group_size {size} does not divide the {local} environments of a group on one device")
    return check.found
