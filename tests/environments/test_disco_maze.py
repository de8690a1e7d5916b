"""The disco maze against its plain twin, its mazes against Kruskal's algorithm, and its colours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.environments import disco_maze
from agent57_jax.environments.disco_maze import MOVES, DiscoMaze, DiscoMazeState
from agent57_jax.types import FIRST, LAST, TimeStep
from tests.oracles.disco_maze import COLOURS, DiscoMazeTwin, is_perfect, kruskal, wall_colours

E = 8


def row(timestep: TimeStep, index: int) -> TimeStep:
    return jax.tree.map(lambda x: x[index], timestep)


def assert_same(got: TimeStep, expected: TimeStep) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (name, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype, name
        # The compiler may divide by multiplying, which costs the fraction its last digit.
        np.testing.assert_allclose(a, b, rtol=1e-6 if a.dtype == np.float32 else 0, err_msg=str(name))


def reset_twin(twin: DiscoMazeTwin, state: DiscoMazeState, index: int, colours: np.ndarray) -> TimeStep:
    return twin.reset(state.corridor[index], tuple(state.agent[index].tolist()), colours)


def actions_into(state: DiscoMazeState, rng: np.random.Generator, wall_probability: float) -> np.ndarray:
    """Random actions [E] that mostly stay in the corridor, as uniform ones would end an episode every other step."""
    actions = rng.integers(0, 4, len(state.agent))
    for index, (row_, column) in enumerate(state.agent):
        if rng.random() > wall_probability:
            free = [a for a, (down, right) in enumerate(MOVES) if state.corridor[index, row_ + down, column + right]]
            actions[index] = rng.choice(free)
    return actions.astype(np.int32)


@pytest.mark.parametrize(("size", "max_episode_steps"), [(5, 12), (21, 60)])
def test_follows_its_twin_under_random_actions(size: int, max_episode_steps: int) -> None:
    env = DiscoMaze(size, max_episode_steps)
    init, step = jax.jit(jax.vmap(env.init)), jax.jit(jax.vmap(env.step))
    rng = np.random.default_rng(7)
    state, timestep = jax.device_get(init(jax.random.split(jax.random.key(1), E)))
    twins = [DiscoMazeTwin(max_episode_steps) for _ in range(E)]
    for index, twin in enumerate(twins):
        assert_same(row(timestep, index), reset_twin(twin, state, index, wall_colours(timestep.observation[index])))
    seen = {"wall": 0, "truncated": 0, "first": 0}
    visited = set()
    for t in range(250):
        was_last = timestep.step_type == LAST
        actions = actions_into(state, rng, wall_probability=0.05)
        state, timestep = jax.device_get(step(jax.random.split(jax.random.key(1000 + t), E), state, actions))
        for index, twin in enumerate(twins):
            colours = wall_colours(timestep.observation[index])
            expected = reset_twin(twin, state, index, colours) if was_last[index] else twin.step(int(actions[index]), colours)
            assert_same(row(timestep, index), expected)
        last = timestep.step_type == LAST
        seen["wall"] += int(np.sum(last & (timestep.discount == 0)))
        seen["truncated"] += int(np.sum(last & (timestep.discount == 1)))
        seen["first"] += int(np.sum(timestep.step_type == FIRST))
        visited |= set(timestep.extras["visited_fraction"].tolist())
    assert min(seen.values()) > 5, seen
    assert len(visited) > 5 and max(visited) <= 1


@pytest.mark.parametrize("size", [5, 7, 13, 21])
def test_plans_become_the_minimum_spanning_tree_in_two_halves(size: int) -> None:
    num_rooms = (size // 2) ** 2
    bits = jax.random.bits(jax.random.key(0), (20, 2 * num_rooms), jnp.uint32)
    plans = jax.vmap(disco_maze._new_plan)(bits)
    extend = jax.jit(jax.vmap(disco_maze._extend))
    finished = extend(extend(plans))
    for weight, is_open in zip(np.asarray(plans.weight), np.asarray(finished.is_open), strict=True):
        np.testing.assert_array_equal(is_open, kruskal(weight))
    for before, after in zip(finished, extend(finished), strict=True):
        np.testing.assert_array_equal(before, after)  # the rest of the episode changes nothing


def test_mazes_are_perfect_and_new_when_every_episode_ends_at_once() -> None:
    # FIRST, LAST, FIRST, ...: the least time there is to build a maze. Where the agent starts, at least one action leads into a wall or
    # the room is a crossing; then the episode takes a step more.
    env = DiscoMaze()
    step = jax.jit(jax.vmap(env.step))
    state, timestep = jax.device_get(jax.jit(jax.vmap(env.init))(jax.random.split(jax.random.key(5), E)))
    mazes = []
    num_shortest = 0
    for t in range(40):
        for index in range(E):
            if timestep.step_type[index] == FIRST:
                assert is_perfect(state.corridor[index])
                assert state.corridor[index].sum() == 199
                mazes.append(state.corridor[index].tobytes())
        is_wall = ~np.stack([state.corridor[np.arange(E), *(state.agent + move).T] for move in MOVES], axis=-1)
        actions = np.argmax(is_wall, axis=-1).astype(np.int32)
        state, timestep = jax.device_get(step(jax.random.split(jax.random.key(t), E), state, actions))
        num_shortest += int(np.sum((timestep.step_type == LAST) & (timestep.episode_length == 1)))
    assert num_shortest > 100
    assert len(mazes) > 100
    assert len(set(mazes)) == len(mazes)


def test_all_mazes_of_a_small_grid_occur() -> None:
    # 2 x 2 rooms have the 4 trees that leave out one passage of their cycle, each the minimum of random weights equally often;
    # 3 x 3 rooms have 192 (Kirchhoff).
    for size, num_trees, count in ((5, 4, 4_000), (7, 192, 8_000)):
        env = DiscoMaze(size)
        states, _ = jax.device_get(jax.jit(jax.vmap(env.init))(jax.random.split(jax.random.key(2), count)))
        _, counts = np.unique(states.corridor.reshape(count, -1), axis=0, return_counts=True)
        assert len(counts) == num_trees
        if num_trees == 4:
            np.testing.assert_allclose(counts / count, 1 / 4, atol=0.03)
        # Agents start in every room equally often.
        _, counts = np.unique(states.agent, axis=0, return_counts=True)
        np.testing.assert_allclose(counts / count, 1 / (size // 2) ** 2, atol=0.03)


def test_each_wall_cell_changes_among_five_equally_likely_colours() -> None:
    env = DiscoMaze()
    # A corner and its neighbours are walls in every maze: the same cells over many steps and environments.
    states, timestep = jax.vmap(env.init)(jax.random.split(jax.random.key(0), 64))
    step = jax.jit(jax.vmap(env.step))
    border = []
    for t in range(20):
        states, timestep = step(jax.random.split(jax.random.key(t), 64), states, np.full(64, t % 4, np.int32))
        border.append(np.asarray(timestep.observation)[:, 0])
    colours = wall_colours(np.stack(border))  # [T, E, size]
    assert set(np.unique(colours)) == set(range(len(COLOURS)))
    counts = np.bincount(colours.ravel())
    np.testing.assert_allclose(counts / colours.size, 1 / 5, atol=0.015)
    # One cell tells nothing about the next step, its neighbour, or the same cell elsewhere.
    for same in (colours[1:] == colours[:-1], colours[..., 1:] == colours[..., :-1], colours[:, 1:] == colours[:, :-1]):
        assert np.mean(same) == pytest.approx(1 / 5, abs=0.02)


def test_many_environments_do_what_one_does() -> None:
    env = DiscoMaze()
    keys = jax.random.split(jax.random.key(3), 64)
    actions = np.arange(64, dtype=np.int32) % 4
    states, timesteps = jax.jit(jax.vmap(env.init))(keys)
    one_init, one_step, many_step = jax.jit(env.init), jax.jit(env.step), jax.jit(jax.vmap(env.step))
    singles = [one_init(key) for key in keys]
    for _ in range(3):
        for index, single in enumerate(singles):
            many = jax.tree.map(lambda x, index=index: x[index], (states, timesteps))
            jax.tree.map(np.testing.assert_array_equal, many, single)
        states, timesteps = many_step(keys, states, actions)
        singles = [one_step(key, state, action) for key, (state, _), action in zip(keys, singles, actions, strict=True)]


def test_randomness_comes_from_the_key_alone() -> None:
    env = DiscoMaze(5)
    first, second, other = (env.init(jax.random.key(seed)) for seed in (4, 4, 5))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert not np.array_equal(first[1].observation, other[1].observation)


def test_spec_describes_timesteps() -> None:
    env = DiscoMaze()
    _, timestep = env.init(jax.random.key(0))
    assert timestep.observation.shape == env.spec.observation_shape == (21, 21, 3)
    assert timestep.observation.dtype == env.spec.observation_dtype
    assert env.spec.num_actions == len(env.spec.action_names) == 4
    assert tuple(timestep.extras) == env.spec.extras == ("visited_fraction",)
    assert float(timestep.extras["visited_fraction"]) == pytest.approx(1 / 199)


@pytest.mark.parametrize(("size", "steps"), [(3, 10), (20, 10), (21, 0)])
def test_impossible_mazes_are_refused(size: int, steps: int) -> None:
    with pytest.raises(ValueError, match="Disco Maze needs"):
        DiscoMaze(size, steps)
