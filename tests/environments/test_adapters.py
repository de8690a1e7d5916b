"""What holds for every batch of host environments: EnvPool's images and vectors, and Gymnasium's processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import jax
import numpy as np
import pytest

from agent57_jax.environments.envpool import EnvPoolEnvironment
from agent57_jax.environments.gymnasium import GymnasiumEnvironment
from agent57_jax.types import FIRST, LAST, MID, HostEnvironment
from tests.environments.playing import closing, play, random_actions, start, step

SEEDS = [11, 2222, 333333, 4]
TASKS = {"atari": "Zaxxon-v5", "vector": "LunarLander-v3", "gymnasium": "CartPole-v1"}
Make = Callable[..., Any]


@pytest.fixture(params=TASKS)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    def create(num_envs: int = 3, seeds: Sequence[int] | None = None, workers: int = 2, **arguments: Any) -> HostEnvironment:
        seeds = SEEDS[:num_envs] if seeds is None else seeds
        if request.param == "gymnasium":
            return GymnasiumEnvironment(TASKS[request.param], num_envs, seeds, num_processes=workers, **arguments)
        return EnvPoolEnvironment(TASKS[request.param], num_envs, seeds, num_threads=workers, **arguments)

    with closing(create) as made:
        yield made


def test_a_time_limit_truncates_and_the_next_episode_begins_a_step_later(make: Make) -> None:
    timesteps = play(make(max_episode_steps=4), num_steps=11)
    assert [field.dtype for field in timesteps[1:6]] == [np.float32, np.float32, np.int32, np.float32, np.int32]
    assert all(field.shape == (12, 3) for field in timesteps[1:6]) and timesteps.extras == {}
    expected = [FIRST, MID, MID, MID, LAST, FIRST, MID, MID, MID, LAST, FIRST, MID]
    np.testing.assert_array_equal(timesteps.step_type, np.tile(np.array(expected)[:, None], (1, 3)))
    np.testing.assert_array_equal(timesteps.episode_length[:, 0], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1])
    np.testing.assert_array_equal(timesteps.discount, 1)
    np.testing.assert_array_equal(timesteps.reward[timesteps.step_type == FIRST], 0)
    np.testing.assert_array_equal(timesteps.episode_return[timesteps.step_type == FIRST], 0)


def test_a_reset_with_a_step_under_way_starts_new_episodes(make: Make) -> None:
    environment = make(max_episode_steps=5)
    before = start(environment).observation
    step(environment, 0)
    environment.send(np.zeros(3, np.int32))
    environment.reset()
    timestep = environment.recv()
    np.testing.assert_array_equal((timestep.step_type, timestep.episode_length), 0)
    if before.dtype == np.float32:  # a game's first screens are all alike
        assert not np.isin(timestep.observation, before[before != 0]).any()
    total = np.zeros(3)
    for length in range(1, 6):
        timestep = step(environment, 0)
        total += timestep.reward
        np.testing.assert_array_equal(timestep.step_type, LAST if length == 5 else MID)
        np.testing.assert_array_equal(timestep.episode_length, length)
        np.testing.assert_array_equal(timestep.episode_return, total.astype(np.float32))


def test_timesteps_belong_to_the_caller(make: Make) -> None:
    written, untouched = make(), make()
    kept, copies = [], []
    for actions in [None, *random_actions(written, num_steps=30)]:
        mine, other = (start(environment) if actions is None else step(environment, actions) for environment in (written, untouched))
        chex.assert_trees_all_equal(mine, other)
        kept.append(other)
        copies.append(jax.tree.map(np.array, other))
        for leaf in jax.tree.leaves(mine):
            leaf.fill(7)
    chex.assert_trees_all_equal(kept, copies)


def test_row_e_is_the_environment_with_seed_e_whatever_its_batch_and_the_number_of_workers(make: Make) -> None:
    """And batches overlap, as in the trainer: while one steps, the others get their actions."""
    one, two = make(workers=1), make(workers=2)
    together, actions = play(one, num_steps=25), random_actions(one, num_steps=25)
    chex.assert_trees_all_equal(play(two, num_steps=25), together)
    alone = [make(1, [seed]) for seed in SEEDS[:3]]
    for environment in alone:
        environment.reset()
    for t, row in enumerate(actions):
        for e, environment in enumerate(alone):
            chex.assert_trees_all_equal(environment.recv(), jax.tree.map(lambda field, t=t, e=e: field[t, e : e + 1], together))
            environment.send(row[e : e + 1])
    for e in range(3):
        assert not np.array_equal(together.observation[:, e], together.observation[:, e - 1])


def test_bad_actions_and_seeds_are_refused_and_nothing_is_sent(make: Make) -> None:
    environment = make()
    start(environment)
    span, wanted = rf"actions must lie in 0..{environment.spec.num_actions - 1}, not in", r"integers of shape \(3,\)"
    for actions, message in (
        ([0, 1, 18], f"{span} 0..18"),
        ([0, -1, 1], f"{span} -1..1"),
        ([0.0, 1.0, 0.0], f"{wanted}, not float64"),
        ([True, False, True], f"{wanted}, not bool"),
        ([0, 1], rf"{wanted}, not int64 of shape \(2,\)"),
        ([[0, 1, 1]], wanted),
    ):
        with pytest.raises(ValueError, match=message):
            environment.send(np.array(actions))
    assert (step(environment, np.array([0, 1, 1], np.int64)).episode_length == 1).all()
    with pytest.raises(ValueError, match="3 environments need 3 seeds, not 2"):
        make(3, [1, 2])


def test_calls_out_of_order_are_refused_instead_of_waiting_for_ever(make: Make) -> None:
    environment, actions = make(render_mode="rgb_array"), np.zeros(3, np.int32)
    with pytest.raises(RuntimeError, match="nothing is under way"):
        environment.recv()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="comes after reset"):
            environment.send(actions)
        with pytest.raises(RuntimeError, match="comes after recv"):
            environment.render(0)
        environment.reset()
    environment.recv()
    with pytest.raises(ValueError, match="there is no environment 3"):
        environment.render(3)
    environment.send(actions)
    with pytest.raises(RuntimeError, match="once for each recv"):
        environment.send(actions)
    environment.close()
    environment.close()
    for call in (environment.recv, environment.reset, lambda: environment.send(actions), lambda: environment.render(0)):
        with pytest.raises(RuntimeError, match="closed"):
            call()
