"""Settings: to JSON and back, frozen once complete, and every impossible value or combination named in a line of its own."""

import copy
import dataclasses
import enum
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent57_jax import config
from agent57_jax.agent.replay import Replay
from agent57_jax.config import (
    Embedding,
    EnvironmentKind,
    IntrinsicReward,
    NormalisedErrors,
    ReplaySettings,
    Section,
    Settings,
    SettingsError,
    Targets,
)
from agent57_jax.types import EnvironmentSpec


def leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all settings."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def assign(settings: Settings, path: str, value: Any) -> None:
    *sections, name = path.split(".")
    target: Any = settings
    for section in sections:
        target = getattr(target, section)
    setattr(target, name, value)


def problems_of(changes: dict[str, Any]) -> list[str]:
    """Problems of the defaults with some changes."""
    settings = Settings()
    for path, value in changes.items():
        assign(settings, path, value)
    return config.problems(settings)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


DEFAULTS = dict(leaves(Settings()))
NUMBERS = [path for path, value in DEFAULTS.items() if is_number(value)] + ["num_devices", "environment.num_threads"]
NUMBERS.remove("environment.grid_size")  # has a meaning only for grid worlds, which have tests of their own


# Defaults ---------------------------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_papers_and_have_no_problem() -> None:
    settings = Settings()
    assert config.problems(settings) == []
    learner, replay, policy = settings.learner, settings.replay, settings.policy
    assert (learner.batch_size, replay.trace, replay.period, replay.min_sequences) == (64, 160, 80, 6250)
    assert (learner.learning_rate, learner.novelty_learning_rate, learner.adam_epsilon, learner.max_gradient_norm) == (1e-4, 5e-4, 1e-4, 40)
    assert (learner.target_period_updates, learner.trace_lambda, learner.target_epsilon) == (1500, 0.95, 0.01)
    assert (replay.priority_exponent, replay.eta, replay.is_exponent, replay.samples_per_insert) == (0.9, 0.9, 0.0, 1.5)
    assert (replay.burn_in, replay.auto_limit, learner.targets, learner.n_step) == (0, 5_000_000, Targets.RETRACE, 5)
    assert (settings.novelty.reward, settings.novelty.embedding) == (IntrinsicReward.NGU, Embedding.LEARNT)
    assert (policy.num_policies, policy.beta_max, policy.gamma_0, policy.gamma_1, policy.gamma_2) == (32, 0.3, 0.9999, 0.997, 0.99)
    assert (settings.bandit.window_episodes, settings.bandit.exploration, settings.bandit.group_size) == (160, 0.5, 1)
    assert (settings.evaluation.window_episodes, settings.evaluation.exploration, settings.evaluation.epsilon) == (3600, 0.01, 0.01)
    assert (settings.novelty.memory_capacity, settings.novelty.num_neighbours, settings.novelty.max_factor) == (30_000, 10, 5)
    assert (settings.environment.num_envs, settings.actor.epsilon_base, settings.novelty.kernel_epsilon) == (256, 0.4, 1e-4)


def test_derived_numbers() -> None:
    settings = Settings()
    assert (settings.envs_per_group, settings.num_values, settings.requested_capacity) == (128, 2, None)
    assert settings.is_host_environment
    settings.policy.separate_networks, settings.replay.capacity = False, "1000000"
    settings.environment.kind = EnvironmentKind.DISCO_MAZE
    assert (settings.num_values, settings.requested_capacity) == (1, 1_000_000)
    assert not settings.is_host_environment
    assert settings.capacity_per_env(1_000_000) == 3840  # 3906 slots of each of 256 environments, in whole periods of 80
    # 25 sequences of each of 256 environments: 24 periods and a trace with its last timestep, in whole periods.
    assert settings.min_capacity == 256 * 2160
    # A burn-in is part of what is stored: 40 timesteps more of a sequence are half a period.
    assert settings.replay.span == 160
    settings.replay.burn_in = 40
    assert (settings.replay.span, settings.min_capacity) == (200, 256 * 2240)


# JSON and freezing ------------------------------------------------------------------------------------------------------------------


def odd_settings() -> Settings:
    """Every setting differs from its default, in a way that keeps its type."""
    settings = Settings()
    for path, value in leaves(settings):
        if isinstance(value, enum.Enum):
            members = list(type(value))
            assign(settings, path, members[(members.index(value) + 1) % len(members)])
        elif isinstance(value, bool):
            assign(settings, path, not value)
        elif isinstance(value, int):
            assign(settings, path, value + 1)
        elif isinstance(value, float):
            assign(settings, path, value * 0.99 if value else 0.25)
        elif isinstance(value, tuple):
            assign(settings, path, tuple(x + 1 for x in value))
        elif value is None:
            assign(settings, path, 1)
    settings.environment.task_id, settings.replay.capacity = "Boxing-v5", "4000000"
    settings.logging.wandb_project = "other"
    settings.environment.num_envs, settings.environment.num_groups = 256, 1
    settings.bandit.group_size = 2
    settings.novelty.max_factor = 4.5
    return settings


def test_settings_come_back_from_json_as_they_were() -> None:
    settings = odd_settings()
    assert [path for path, value in leaves(settings) if value == DEFAULTS[path] and path != "environment.num_envs"] == []
    text = config.to_json(settings)
    found = config.from_dict(json.loads(text))
    assert found == settings
    assert [type(value) for _, value in leaves(found)] == [type(value) for _, value in leaves(settings)]
    assert config.to_json(found) == text
    assert config.from_dict(json.loads(config.to_json(Settings()))) == Settings()  # None comes back as None


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda values: values["replay"].update(capcity="auto"), "replay.capcity"),
        (lambda values: values["replay"].pop("trace"), "replay.trace"),
        (lambda values: values["replay"].update(period=161), "replay.period"),
        (lambda values: values["network"].update(conv_features=5), "network.conv_features is "),
        (lambda values: values["learner"].update(targets="fast"), "learner.targets is "),
        (lambda values: values["replay"].update(trace=[80]), "replay.trace is "),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_line(edit: Any, named: str) -> None:
    values = config.to_dict(Settings())
    edit(values)
    with pytest.raises(SettingsError, match=named) as caught:
        config.from_dict(values)
    assert len(str(caught.value).splitlines()) == 1


def test_complete_settings_are_frozen_and_the_original_is_not() -> None:
    original = Settings()
    settings = config.finalise(original)
    sections = [field.name for field in dataclasses.fields(settings) if isinstance(getattr(settings, field.name), Section)]
    for path in (*DEFAULTS, *sections):
        with pytest.raises(SettingsError, match=path.rpartition(".")[2]):
            assign(settings, path, 7)
    assert settings == Settings()
    original.replay.trace = 200
    assert settings.replay.trace == 160
    assert config.finalise(settings) == settings  # a frozen copy can be validated again
    for frozen in (config.finalise(settings), copy.deepcopy(settings)):
        with pytest.raises(SettingsError):
            frozen.replay.trace = 1


# Single values ----------------------------------------------------------------------------------------------------------------------


SHARES = (
    *("learner.trace_lambda", "learner.target_epsilon", "replay.eta", "bandit.exploration", "evaluation.exploration", "evaluation.epsilon"),
    *("actor.epsilon_base", "environment.repeat_action_probability"),
)
NOT_ZERO = (
    *(path for path in NUMBERS if not isinstance(DEFAULTS[path], float)),
    *("learner.learning_rate", "learner.novelty_learning_rate", "learner.adam_epsilon", "learner.max_gradient_norm"),
    *("learner.policy_temperature", "novelty.kernel_epsilon", "novelty.pseudo_count", "novelty.max_similarity", "novelty.max_factor"),
    "replay.samples_per_insert",
)
OUT_OF_RANGE = [
    *((path, -1) for path in NUMBERS),
    *((path, math.nan) for path, value in DEFAULTS.items() if isinstance(value, float)),
    *((path, 1.01) for path in SHARES),
    *((path, 0) for path in NOT_ZERO if path not in ("seed", "replay.burn_in", "video.period_episodes")),
    *(("learner.learning_rate", math.inf), ("policy.beta_max", math.inf), ("replay.samples_per_insert", math.inf)),
    *(("seed", 2**32), ("learner.policy_epsilon", 1.5), ("novelty.max_factor", 0.5), ("environment.max_episode_steps", 2**31)),
]


@pytest.mark.parametrize(("path", "value"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_reported_by_name(path: str, value: float) -> None:
    found = problems_of({path: value})
    assert any(line.startswith(f"{path} is {value}, but must ") for line in found), found
    assert all("\n" not in line for line in found)


@pytest.mark.parametrize("path", [path for path, value in DEFAULTS.items() if isinstance(value, tuple)])
@pytest.mark.parametrize("value", [0, -3, 99_999_999_999])
def test_a_layer_of_an_impossible_size_is_reported_by_name(path: str, value: int) -> None:
    found = problems_of({path: (value, *DEFAULTS[path][1:])})
    assert len(found) == 1 and found[0].startswith(f"{path} is ") and "but must be at " in found[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("replay.trace", "160"),
        ("learner.batch_size", 64.5),
        ("learner.learning_rate", "fast"),
        ("environment.num_envs", None),
        ("policy.separate_networks", "no"),
        ("bandit.chooser", "bandit"),
        ("network.conv_features", 32),
        ("replay.capcity", 5),
    ],
)
def test_an_unknown_setting_or_a_value_of_another_type_is_reported_by_name(path: str, value: Any) -> None:
    settings = Settings()
    with pytest.raises(SettingsError, match=path.rpartition(".")[2]):  # noqa: PT012 - an unknown one when it is set, a value later
        assign(settings, path, value)
        config.finalise(settings)


def test_zero_switches_off_what_can_be_off() -> None:
    for path in ("bandit.ucb_bonus", "policy.beta_max", "actor.epsilon_alpha", "learner.embedding_l2", "replay.is_exponent"):
        assert problems_of({path: 0.0}) == []


# Combinations -----------------------------------------------------------------------------------------------------------------------


NO_NOVELTY = {"novelty.reward": IntrinsicReward.NONE}
WITHOUT = "without an intrinsic reward (novelty.reward none)"
ON_DEVICE = {"environment.kind": EnvironmentKind.RANDOM_COIN}
GAMMAS = "policy.gamma_0 >= gamma_1 >= gamma_2 must hold, all below 1"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"learner.adam_b1": 1.0}, "learner.adam_b1 and adam_b2 must be below 1"),  # divides by 1 - b1^t
        ({"learner.adam_b2": 1.0}, "learner.adam_b1 and adam_b2 must be below 1"),
        ({"policy.gamma_0": 1.0}, GAMMAS),
        ({"policy.gamma_1": 1.0}, GAMMAS),
        ({"policy.gamma_2": 0.9999}, GAMMAS),
        ({"policy.gamma_0": 0.9}, GAMMAS),
        ({"policy.num_policies": 256}, "policy.num_policies is 256, but the replay stores at most 255"),
        ({"replay.capacity": "1e6"}, "replay.capacity is '1e6', but must be a whole number of timesteps or 'auto'"),
        ({"replay.capacity": ""}, "replay.capacity is '', but must be a whole number"),
        ({"replay.capacity": "-5"}, "replay.capacity -5 cannot hold"),
        ({"replay.capacity": "1000"}, "replay.capacity 1000 cannot hold replay.min_sequences 6250"),
        ({"replay.capacity": str(Settings().min_capacity), "replay.burn_in": 1}, "cannot hold replay.min_sequences 6250"),
        ({"replay.period": 161}, "replay.period 161 is larger than replay.trace 160: timesteps would be lost"),
        ({"novelty.train_timesteps": 161}, "novelty.train_timesteps 161 exceeds replay.trace 160"),
        # A burn-in is not learnt from: neither does it make a period fit that is longer than the trace.
        ({"replay.burn_in": 160, "replay.period": 161}, "replay.period 161 is larger than replay.trace 160"),
        ({"replay.burn_in": 160, "novelty.train_timesteps": 161}, "novelty.train_timesteps 161 exceeds replay.trace 160"),
        ({"environment.num_envs": 255}, "environment.num_envs 255 is not divisible by environment.num_groups 2"),
        ({"bandit.group_size": 3}, "128 environments of a group are not divisible by bandit.group_size 3"),
        ({"bandit.group_size": 128, "bandit.window_episodes": 100}, "bandit.group_size must not exceed bandit.window_episodes"),
        ({"evaluation.num_envs": 9, "evaluation.window_episodes": 8}, "evaluation.num_envs must not exceed its window_episodes"),
        ({"network.conv_strides": (4, 2)}, "network.conv_features, conv_kernels and conv_strides must have the same length"),
        (ON_DEVICE, "environment.num_groups must be 1 for random_coin, which runs on the device"),
        (NO_NOVELTY | {"policy.beta_max": 0.0}, f"policy.separate_networks must be false {WITHOUT}"),
        (NO_NOVELTY | {"policy.separate_networks": False}, f"policy.beta_max is 0.3, but must be 0 {WITHOUT}"),
        ({"learner.distil_policy": True}, "learner.distil_policy needs network.policy_heads, or policy.separate_networks false"),
        ({"learner.trust_region": 2.0}, "learner.trust_region needs learner.normalise_errors priorities or everywhere"),
        ({"learner.trust_region": -1.0, "learner.normalise_errors": NormalisedErrors.PRIORITIES}, "learner.trust_region is -1.0, but must"),
    ],
)
def test_an_impossible_combination_is_one_line(changes: dict[str, Any], problem: str) -> None:
    (found,) = problems_of(changes)
    assert problem in found


@pytest.mark.parametrize(
    ("kind", "fitting", "others"),
    [(EnvironmentKind.DISCO_MAZE, (5, 21), (-1, 0, 3, 4, 6)), (EnvironmentKind.RANDOM_COIN, (3, 4), (-1, 0, 2))],
)
def test_mazes_have_odd_sizes_and_rooms_space_for_agent_and_coin(
    kind: EnvironmentKind, fitting: tuple[int, ...], others: tuple[int, ...]
) -> None:
    for size in (*fitting, *others):
        found = problems_of({"environment.kind": kind, "environment.num_groups": 1, "environment.grid_size": size})
        assert (found == []) == (size in fitting) and all("environment.grid_size" in line for line in found), size


def test_all_problems_are_reported_at_once() -> None:
    settings = Settings()
    settings.replay.period, settings.learner.batch_size, settings.policy.gamma_1 = 1000, 0, 2.0
    settings.environment.num_envs, settings.environment.num_groups = 2, 4
    with pytest.raises(SettingsError) as caught:
        config.finalise(settings)
    lines = str(caught.value).splitlines()
    assert lines == config.problems(settings)
    for name in ("replay.period", "learner.batch_size", "policy.gamma_1", "num_groups is 4, more than environment.num_envs 2"):
        assert any(name in line for line in lines)


def test_validation_itself_never_fails_on_a_number() -> None:
    for path in NUMBERS:
        for value in (0, -1, 10**9):
            for kind in EnvironmentKind:
                assert isinstance(problems_of({"environment.kind": kind, path: value}), list)


def test_what_does_not_divide_over_devices_is_reported() -> None:
    settings = Settings()
    assert config.device_problems(settings, 8) == config.device_problems(settings, 1) == []
    (line_envs, line_batch) = config.device_problems(settings, 3)
    assert "128" in line_envs and "3 devices" in line_envs and "num_devices" in line_envs
    assert "learner.batch_size 64" in line_batch
    settings.bandit.group_size = 64
    assert config.device_problems(settings, 2) == []
    (line,) = config.device_problems(settings, 4)
    assert "bandit.group_size 64" in line


# Capacity ---------------------------------------------------------------------------------------------------------------------------


@given(
    burn_in=st.integers(0, 20),
    trace=st.integers(1, 30),
    period=st.integers(1, 30),
    num_envs=st.integers(1, 8),
    sequences=st.integers(1, 60),
)
def test_the_smallest_capacity_never_runs_out_of_sequences(burn_in: int, trace: int, period: int, num_envs: int, sequences: int) -> None:
    period = min(period, trace)
    settings = Settings()
    settings.environment.num_envs, settings.environment.num_groups = num_envs, 1
    settings.replay = ReplaySettings(burn_in=burn_in, trace=trace, period=period, min_sequences=sequences)
    settings.novelty.train_timesteps = 1
    settings.replay.capacity = str(settings.min_capacity)
    assert config.problems(settings) == []
    settings.replay.capacity = str(settings.min_capacity - 1)
    assert any("replay.capacity" in line for line in config.problems(settings))
    slots = settings.capacity_per_env(settings.min_capacity)
    spec = EnvironmentSpec((3,), "float32", 2, ("a", "b"), 1)
    store = Replay(settings.replay, spec, num_groups=1, envs_per_group=num_envs, capacity_per_env=slots)
    drawable = [store.drawable_sequences(timesteps) * num_envs for timesteps in range(4 * (slots + burn_in + trace))]
    assert max(drawable) >= sequences, "learning would never start"
    start = next(t for t, count in enumerate(drawable) if count >= sequences)
    assert min(drawable[start:]) > 0, f"after {start} timesteps the learner draws from an empty replay"
