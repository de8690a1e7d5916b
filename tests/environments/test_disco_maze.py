"""The disco maze against its plain twin, its mazes against Kruskal's algorithm, and its colours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.environments import disco_maze
from agent57_jax.environments.disco_maze import MOVES, DiscoMaze, DiscoMazeState
from agent57_jax.types import FIRST, LAST
from tests.environments.twins import follow
from tests.oracles.disco_maze import COLOURS, DiscoMazeTwin, is_perfect, kruskal, wall_colours

E = 8


def actions_into(state: DiscoMazeState, rng: np.random.Generator) -> np.ndarray:
    """Random actions [E] that mostly stay in the corridor, as uniform ones would end an episode every other step."""
    actions = rng.integers(0, 4, len(state.agent))
    for index, (row, column) in enumerate(state.agent):
        if rng.random() > 0.05:
            free = [a for a, (down, right) in enumerate(MOVES) if state.corridor[index, row + down, column + right]]
            actions[index] = rng.choice(free)
    return actions


@pytest.mark.parametrize(("size", "max_episode_steps"), [(5, 12), (21, 60)])
def test_follows_its_twin_under_random_actions(size: int, max_episode_steps: int) -> None:
    played = follow(
        DiscoMaze(size, max_episode_steps),
        [DiscoMazeTwin(max_episode_steps) for _ in range(E)],
        restart=lambda twin, state, got: twin.reset(state.corridor, tuple(state.agent.tolist()), wall_colours(got.observation)),
        advance=lambda twin, action, got: twin.step(action, wall_colours(got.observation)),
        choose=actions_into,
        num_steps=250,
        rtol=1e-6,  # the compiler may divide by multiplying, which costs the fraction its last digit
    )
    last, visited = played.step_type == LAST, np.unique(played.extras["visited_fraction"])
    for seen in (last & (played.discount == 0), last & (played.discount == 1), played.step_type == FIRST):
        assert np.sum(seen) > 5
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
    states, timestep = jax.jit(jax.vmap(env.init))(jax.random.split(jax.random.key(0), 64))
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
