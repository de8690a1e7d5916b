"""Settings: to JSON and back, frozen once complete, and every impossible value or combination named in a line of its own."""

import copy
import dataclasses
import enum
import json
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
    Torso,
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


def problems_of(**changes: Any) -> list[str]:
    """Problems of the defaults with some changes; a double underscore stands for the dot."""
    settings = Settings()
    for path, value in changes.items():
        assign(settings, path.replace("__", "."), value)
    return config.problems(settings)


def read(path: str) -> Any:
    return dict(leaves(Settings()))[path]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


NUMBERS = [path for path, value in leaves(Settings()) if is_number(value)] + ["num_devices", "environment.num_threads"]
NUMBERS.remove("environment.grid_size")  # has a meaning only for grid worlds, which have tests of their own
FLOATS = [path for path, value in leaves(Settings()) if isinstance(value, float)]
LAYERS = [path for path, value in leaves(Settings()) if isinstance(value, tuple)]


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
    assert settings.environment.num_envs == 256


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
    plain = dict(leaves(Settings()))
    assert [path for path, value in leaves(settings) if value == plain[path] and path != "environment.num_envs"] == []
    text = config.to_json(settings)
    found = config.from_dict(json.loads(text))
    assert found == settings
    assert [type(value) for _, value in leaves(found)] == [type(value) for _, value in leaves(settings)]
    assert text.endswith("}\n")
    assert config.to_json(found) == text


def test_none_comes_back_as_none() -> None:
    found = config.from_dict(json.loads(config.to_json(Settings())))
    assert found == Settings()
    assert found.num_devices is None and found.environment.num_threads is None


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda values: values.update(seeed=1), "seeed"),
        (lambda values: values["replay"].update(capcity="auto"), "replay.capcity"),
        (lambda values: values["replay"].pop("trace"), "replay.trace"),
        (lambda values: values.pop("learner"), "learner"),
    ],
)
def test_a_file_of_another_version_is_refused(edit: Any, named: str) -> None:
    values = config.to_dict(Settings())
    edit(values)
    with pytest.raises(SettingsError, match=named) as caught:
        config.from_dict(values)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("network", "conv_features", 5), ("network", "conv_features", "32"), ("learner", "targets", "fast"), ("replay", "trace", [80])],
)
def test_a_file_with_a_value_of_another_kind_is_refused(section: str, name: str, value: Any) -> None:
    values = config.to_dict(Settings())
    values[section][name] = value
    with pytest.raises(SettingsError, match=rf"{section}\.{name} is "):
        config.from_dict(values)


def test_a_file_with_impossible_values_is_refused() -> None:
    values = config.to_dict(Settings())
    values["replay"]["period"] = 161
    with pytest.raises(SettingsError, match=r"replay\.period"):
        config.from_dict(values)


@pytest.mark.parametrize("path", [path for path, _ in leaves(Settings())])
def test_complete_settings_are_frozen(path: str) -> None:
    settings = config.finalise(Settings())
    with pytest.raises(SettingsError, match=path.rpartition(".")[2]):
        assign(settings, path, 7)
    assert settings == Settings()


def test_sections_are_frozen_too_and_the_original_is_not() -> None:
    settings = Settings()
    frozen = config.finalise(settings)
    for field in dataclasses.fields(frozen):
        if isinstance(getattr(frozen, field.name), Section):
            with pytest.raises(SettingsError):
                setattr(frozen, field.name, getattr(settings, field.name))
    settings.replay.trace = 200
    assert frozen.replay.trace == 160
    assert config.finalise(frozen) == frozen  # a frozen copy can be validated again
    with pytest.raises(SettingsError):
        config.finalise(frozen).seed = 1
    with pytest.raises(SettingsError):
        copy.deepcopy(frozen).replay.trace = 1


# Single values ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NUMBERS)
def test_a_negative_number_is_reported_by_name(path: str) -> None:
    settings = Settings()
    assign(settings, path, -1)
    found = config.problems(settings)
    assert any(path in line for line in found), found
    assert all("\n" not in line for line in found)


@pytest.mark.parametrize("path", FLOATS)
def test_not_a_number_is_reported_by_name(path: str) -> None:
    settings = Settings()
    assign(settings, path, float("nan"))
    assert any(path.rpartition(".")[2] in line for line in config.problems(settings))


@pytest.mark.parametrize(
    "path",
    [
        *(path for path in NUMBERS if isinstance(read(path), int) and path not in ("seed", "replay.burn_in", "video.period_episodes")),
        *("learner.learning_rate", "learner.novelty_learning_rate", "learner.adam_epsilon", "learner.max_gradient_norm"),
        *("novelty.kernel_epsilon", "novelty.pseudo_count", "novelty.max_similarity", "novelty.max_factor", "replay.samples_per_insert"),
        *("num_devices", "environment.num_threads"),
    ],
)
def test_zero_is_reported_where_it_makes_no_sense(path: str) -> None:
    settings = Settings()
    assign(settings, path, 0)
    assert any(path in line for line in config.problems(settings))


@pytest.mark.parametrize("path", LAYERS)
@pytest.mark.parametrize("value", [0, -3])
def test_a_layer_without_units_is_reported_by_name(path: str, value: int) -> None:
    settings = Settings()
    assign(settings, path, (value, *read(path)[1:]))
    assert any(path.rpartition(".")[2] in line for line in config.problems(settings))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("learner.trace_lambda", 1.01),
        ("learner.target_epsilon", 1.5),
        ("learner.adam_b1", 1.0),  # divides by 1 - b1^t
        ("learner.adam_b2", 1.0),
        ("replay.eta", 1.1),
        ("bandit.exploration", 2.0),
        ("evaluation.exploration", 2.0),
        ("evaluation.epsilon", 1.1),
        ("actor.epsilon_base", 1.1),
        ("environment.repeat_action_probability", 1.1),
        ("policy.gamma_0", 1.0),
        ("policy.gamma_1", 1.0),
        ("policy.gamma_2", 0.9999),
        ("policy.num_policies", 256),
        ("novelty.max_factor", 0.5),
        ("replay.capacity", "1e6"),
        ("replay.capacity", "lots"),
        ("replay.capacity", ""),
        ("replay.capacity", "-5"),
        ("replay.capacity", "1000"),
    ],
)
def test_a_value_out_of_range_is_reported_by_name(path: str, value: Any) -> None:
    settings = Settings()
    assign(settings, path, value)
    found = config.problems(settings)
    assert len(found) == 1 and path.rpartition(".")[2] in found[0], found


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
    ],
)
def test_a_value_of_another_type_is_reported_by_name(path: str, value: Any) -> None:
    settings = Settings()
    assign(settings, path, value)
    with pytest.raises(SettingsError, match=path.rpartition(".")[2]):
        config.finalise(settings)


@pytest.mark.parametrize("path", ["seeed", "replay.capcity", "learner.learningrate"])
def test_an_unknown_setting_is_reported_by_name(path: str) -> None:
    settings = Settings()

    def use() -> None:
        assign(settings, path, 5)
        config.finalise(settings)

    with pytest.raises(SettingsError, match=path.rpartition(".")[2]):
        use()


@pytest.mark.parametrize(
    "path", ["bandit.ucb_bonus", "policy.beta_max", "actor.epsilon_alpha", "learner.embedding_l2", "replay.is_exponent"]
)
def test_zero_switches_off_what_can_be_off(path: str) -> None:
    settings = Settings()
    assign(settings, path, 0.0)
    assert config.problems(settings) == []


# Combinations -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"replay__period": 161}, ["replay.period", "161", "replay.trace", "160"]),
        ({"novelty__train_timesteps": 161}, ["novelty.train_timesteps", "replay.trace"]),
        ({"environment__num_envs": 255}, ["environment.num_envs", "255", "environment.num_groups", "2"]),
        ({"bandit__group_size": 3}, ["bandit.group_size", "3", "128"]),
        ({"bandit__group_size": 128, "bandit__window_episodes": 100}, ["bandit.group_size", "bandit.window_episodes"]),
        ({"evaluation__num_envs": 9, "evaluation__window_episodes": 8}, ["evaluation.num_envs", "window_episodes"]),
        ({"network__conv_strides": (4, 2)}, ["network.conv_features", "conv_kernels", "conv_strides"]),
        ({"policy__gamma_0": 0.9}, ["policy.gamma_0", "gamma_1"]),
        ({"environment__kind": EnvironmentKind.RANDOM_COIN}, ["environment.num_groups", "random_coin"]),
        ({"novelty__reward": IntrinsicReward.NONE, "policy__beta_max": 0.0}, ["policy.separate_networks", "novelty.reward none"]),
        ({"novelty__reward": IntrinsicReward.NONE, "policy__separate_networks": False}, ["policy.beta_max is 0.3", "novelty.reward none"]),
        ({"replay__burn_in": -1}, ["replay.burn_in is -1"]),
        ({"replay__auto_limit": 0}, ["replay.auto_limit is 0"]),
        ({"learner__n_step": 0}, ["learner.n_step is 0"]),
        ({"learner__trust_region": -1.0, "learner__normalise_errors": NormalisedErrors.PRIORITIES}, ["learner.trust_region is -1.0"]),
        ({"learner__distil_policy": True}, ["learner.distil_policy", "network.policy_heads"]),
        ({"learner__policy_epsilon": 1.5}, ["learner.policy_epsilon is 1.5"]),
        ({"learner__policy_kl_limit": -0.1}, ["learner.policy_kl_limit is -0.1"]),
        ({"learner__policy_temperature": 0.0}, ["learner.policy_temperature is 0.0, but must be positive"]),
        ({"learner__trust_region": 2.0}, ["learner.trust_region", "learner.normalise_errors"]),
        ({"environment__phase_steps": 0}, ["environment.phase_steps is 0"]),
        # A burn-in is not learnt from: neither does it make a period fit that is longer than the trace.
        ({"replay__burn_in": 160, "replay__period": 161}, ["replay.period", "161", "replay.trace", "160"]),
        ({"replay__burn_in": 160, "novelty__train_timesteps": 161}, ["novelty.train_timesteps", "replay.trace"]),
        ({"replay__capacity": str(Settings().min_capacity), "replay__burn_in": 1}, ["replay.capacity", "replay.min_sequences"]),
    ],
)
def test_an_impossible_combination_is_one_line_that_names_its_settings(changes: dict[str, Any], named: list[str]) -> None:
    found = problems_of(**changes)
    assert len(found) == 1, found
    assert all(name in found[0] for name in named), found


def test_more_groups_than_environments_are_reported() -> None:
    found = problems_of(environment__num_envs=2, environment__num_groups=4)
    assert any("environment.num_groups is 4, more than environment.num_envs 2" in line for line in found)


@pytest.mark.parametrize(("size", "fits"), [(-1, False), (0, False), (3, False), (4, False), (5, True), (6, False), (21, True)])
def test_mazes_have_odd_sizes(size: int, fits: bool) -> None:
    maze = {"environment__kind": EnvironmentKind.DISCO_MAZE, "environment__num_groups": 1}
    assert (problems_of(**maze, environment__grid_size=size) == []) == fits


@pytest.mark.parametrize(("size", "fits"), [(-1, False), (0, False), (2, False), (3, True), (4, True)])
def test_rooms_have_space_for_agent_and_coin(size: int, fits: bool) -> None:
    room = {"environment__kind": EnvironmentKind.RANDOM_COIN, "environment__num_groups": 1}
    assert (problems_of(**room, environment__grid_size=size) == []) == fits


def test_all_problems_are_reported_at_once() -> None:
    settings = Settings()
    settings.replay.period, settings.learner.batch_size, settings.policy.gamma_1 = 1000, 0, 2.0
    with pytest.raises(SettingsError) as caught:
        config.finalise(settings)
    lines = str(caught.value).splitlines()
    assert lines == config.problems(settings)
    for name in ("replay.period", "learner.batch_size", "policy.gamma_1"):
        assert any(name in line for line in lines)


def test_validation_itself_never_fails_on_a_number() -> None:
    for path in NUMBERS:
        for value in (0, -1, 10**9):
            for kind in EnvironmentKind:
                settings = Settings()
                settings.environment.kind = kind
                assign(settings, path, value)
                assert isinstance(config.problems(settings), list)


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


def test_torso_is_no_concern_of_the_settings_alone() -> None:
    # Whether it fits the observations is known only with the environment.
    assert problems_of(network__torso=Torso.DENSE) == []
