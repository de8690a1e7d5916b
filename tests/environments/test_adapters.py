"""What holds for every batch of host environments: EnvPool's images and vectors, and Gymnasium's processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

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


def assert_equal(got: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, got, expected)


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
        assert_equal(mine, other)
        kept.append(other)
        copies.append(jax.tree.map(np.array, other))
        for leaf in jax.tree.leaves(mine):
            leaf.fill(7)
    assert_equal(kept, copies)


def test_row_e_is_the_environment_with_seed_e_whatever_the_number_of_workers(make: Make) -> None:
    one, two = make(workers=1), make(workers=2)
    together, actions = play(one, num_steps=25), random_actions(one, num_steps=25)
    assert_equal(play(two, num_steps=25), together)
    for e, seed in enumerate(SEEDS[:3]):
        alone = make(1, [seed])
        timesteps = [start(alone), *(step(alone, row[e]) for row in actions)]
        np.testing.assert_array_equal([timestep.observation[0] for timestep in timesteps], together.observation[:, e])
        assert not np.array_equal(together.observation[:, e], together.observation[:, e - 1])


def test_groups_overlap(make: Make) -> None:
    """As in the trainer: while one group steps, the other gets its actions."""
    groups, alone = [make(2, SEEDS[:2]), make(2, SEEDS[2:])], make(4)
    actions, expected = random_actions(alone, num_steps=20), play(alone, num_steps=20)
    for group in groups:
        group.reset()
    for t in range(21):
        for index, group in enumerate(groups):
            rows = slice(2 * index, 2 * index + 2)
            assert_equal(group.recv(), jax.tree.map(lambda field, t=t, rows=rows: field[t, rows], expected))
            if t < 20:
                group.send(actions[t, rows])


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 1, 18], r"actions must lie in 0..{}, not in 0..18"),
        ([0, -1, 1], r"actions must lie in 0..{}, not in -1..1"),
        ([0.0, 1.0, 0.0], r"integers of shape \(3,\), not float64"),
        ([True, False, True], r"integers of shape \(3,\), not bool"),
        ([0, 1], r"integers of shape \(3,\), not int64 of shape \(2,\)"),
        ([[0, 1, 1]], r"integers of shape \(3,\)"),
    ],
)
def test_bad_actions_are_refused_and_nothing_is_sent(make: Make, actions: Any, message: str) -> None:
    environment = make()
    start(environment)
    with pytest.raises(ValueError, match=message.replace("{}", str(environment.spec.num_actions - 1))):
        environment.send(np.array(actions))
    assert (step(environment, np.array([0, 1, 1], np.int64)).episode_length == 1).all()


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


def test_every_environment_needs_a_seed(make: Make) -> None:
    with pytest.raises(ValueError, match="3 environments need 3 seeds, not 2"):
        make(3, [1, 2])
