"""Rollouts show the episodes of `evaluate.py`, and what they say about places agrees with the observations."""

import itertools
import pathlib
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax import config, parallel
from agent57_jax.agent import programs
from agent57_jax.agent.programs import Programs
from agent57_jax.config import Chooser, EnvironmentKind, IntrinsicReward, Settings, SettingsError
from agent57_jax.environments import factory
from agent57_jax.environments.disco_maze import AGENT_COLOUR
from agent57_jax.training import judging, memory
from agent57_jax.training.checkpoint import Checkpoints
from agent57_jax.types import FIRST, LAST, MID, EnvironmentSpec
from reproductions import rollouts
from tests import tiny

SEED = 5
SIZE, CORRIDOR_CELLS = 7, 17


def maze_settings() -> Settings:
    settings = tiny.coin_settings()
    settings.seed = 11
    settings.environment.kind = EnvironmentKind.DISCO_MAZE
    settings.environment.grid_size = SIZE
    settings.environment.max_episode_steps = 9
    settings.policy.num_policies = 1
    settings.policy.separate_networks = False
    settings.bandit.chooser = Chooser.FIXED
    settings.evaluation.epsilon = 0.7  # an agent that has learnt nothing would only walk into a wall or to and fro
    return settings


def save_run(settings: Settings, folder: pathlib.Path, spec: EnvironmentSpec | None = None) -> pathlib.Path:
    """What the trainer has to save before its first act."""
    config.finalise(settings)
    (folder / "config.json").write_text(config.to_json(settings))
    parts = programs.build(settings, spec or factory.make_jax_environment(settings.environment).spec)
    mesh = parallel.make_mesh(1)
    made = Programs(parts, mesh, memory.make_replay(parts, 800))
    root = parallel.upload(mesh, parallel.REPLICATED, np.asarray(jax.random.key_data(jax.random.key(settings.seed))))
    arrays = {"learner": made.init_learner(root), "shared": made.init_shared()}
    bandit = parts.evaluation_actor.init_state(jnp.arange(settings.evaluation.num_envs)).bandit
    if bandit is not None:
        arrays["evaluator_bandit"] = bandit
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    checkpoints.save(1, arrays, {"counters": {"frames": 0, "updates": 0}})
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return save_run(maze_settings(), tmp_path_factory.mktemp("maze"))


def visits_twin(folder: pathlib.Path, episodes: int, num_envs: int) -> tuple[dict[str, list[float]], list[int]]:
    """Rewards by kind, visited fractions, and lengths of the episodes: plain loops over the observations."""
    blocks = itertools.islice(rollouts.play(rollouts.restore(folder), num_envs, SEED), 2)
    seen = rollouts.Timesteps(*jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *blocks))
    assert seen.intrinsic_reward is not None
    found: dict[str, list[float]] = {"first": [], "repeated": [], "wall": [], "visited_fraction": []}
    lengths: list[int] = []
    acts = 0
    for env in range(num_envs):
        wanted = episodes // num_envs + (env < episodes % num_envs)
        visited: list[tuple[int, int]] = []
        for t in range(seen.action.shape[1]):
            ((row, column),) = np.argwhere(np.all(seen.observation[env, t] == AGENT_COLOUR, axis=-1))
            place, reward = (int(row), int(column)), float(seen.intrinsic_reward[env, t])
            is_last = seen.step_type[env, t] == LAST
            assert tuple(seen.position[env, t]) == place
            if seen.step_type[env, t] == FIRST:
                visited = []
            elif is_last and place == visited[-1]:
                found["wall"].append(reward)
            else:
                found["repeated" if place in visited else "first"].append(reward)
            assert seen.is_first_visit[env, t] == (place not in visited)
            visited.append(place)
            if is_last:
                lengths.append(len(visited) - 1)
                found["visited_fraction"].append(len(set(visited)) / CORRIDOR_CELLS)
                wanted -= 1
                if not wanted:
                    break
        assert not wanted
        acts = max(acts, t)
    assert acts > rollouts.BLOCK_STEPS
    return found, lengths


def test_visits_equal_a_loop_over_the_episodes_of_evaluate(maze: pathlib.Path) -> None:
    # 32 environments, of which 28 play one episode more, over more than one block.
    found = rollouts.visits(maze, episodes=700, seed=SEED)
    values, lengths = visits_twin(maze, episodes=700, num_envs=32)
    assert len(lengths) == 700
    assert sorted(judging.evaluate(maze, episodes=700, seed=SEED)["lengths"]) == sorted(lengths)
    assert min(len(kind) for kind in values.values()) >= 50
    del values["wall"]  # walking into a wall is no visit
    assert found == pytest.approx({kind: np.mean(kinds) for kind, kinds in values.items()}, rel=1e-5)
    assert found["first"] > found["repeated"] > 0


def test_an_agent_without_episodic_novelty_has_visits_too(tmp_path: pathlib.Path) -> None:
    settings = maze_settings()
    settings.novelty.reward = IntrinsicReward.LIFELONG
    settings.environment.max_episode_steps = 1
    found = rollouts.visits(save_run(settings, tmp_path), episodes=1, seed=SEED)
    assert found["repeated"] is None  # one episode of one step


def test_more_environments_than_a_bandit_remembers_episodes(tmp_path: pathlib.Path) -> None:
    settings = tiny.coin_settings()
    settings.evaluation.window_episodes = 4
    folder = save_run(settings, tmp_path)
    seen = next(rollouts.play(rollouts.restore(folder), 9, SEED, block_steps=5))
    assert seen.action.shape == (9, 5)
    assert judging.evaluate(folder, episodes=9, seed=0)["episodes"] == 9


def test_a_policy_acts_in_the_agents_place(tmp_path: pathlib.Path) -> None:
    run = rollouts.restore(save_run(tiny.coin_settings(), tmp_path))

    def upwards(key: jax.Array, state: object) -> jax.Array:
        del key, state
        return jnp.int32(0)

    seen = next(rollouts.play(run, 6, SEED, upwards, block_steps=24))
    assert np.all(seen.action == 0) and seen.extras == {}
    row, column = seen.position[..., 0], seen.position[..., 1]
    follows = seen.step_type[:, 1:] != FIRST
    assert np.all(follows.sum(axis=1) >= 16)
    np.testing.assert_array_equal(row[:, 1:][follows], np.maximum(row[:, :-1] - 1, 0)[follows])
    np.testing.assert_array_equal(column[:, 1:][follows], column[:, :-1][follows])
    shown = np.argmax(seen.observation[..., 1].reshape(6, 24, 25), axis=-1)
    np.testing.assert_array_equal(shown, row * 5 + column)
    assert seen.intrinsic_reward is not None and np.all(seen.intrinsic_reward[seen.step_type == FIRST] == 0)

    # The run has not learnt anything yet, so it acts with the embedding that it began with.
    assert seen.embedding is not None and seen.embedding.std() > 0
    np.testing.assert_allclose(
        rollouts.embed(run, rollouts.initial_learner(run).acting_embedding, seen.observation), seen.embedding, rtol=1e-5
    )

    network = run.parts.learner.embedding
    assert network is not None
    rng = np.random.default_rng(7)
    noise = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), run.learner.parameters.embedding)
    learner = run.learner._replace(parameters=run.learner.parameters._replace(embedding=noise))
    frames = rng.integers(0, 256, seen.observation.shape, np.uint8)
    wanted = np.argmax(network.action_logits(noise, frames), axis=-1)
    assert len(np.unique(wanted)) == 4
    np.testing.assert_array_equal(rollouts.guess_actions(run, learner, frames), wanted)

    with pytest.raises(SettingsError, match="disco maze"):
        rollouts.visits(tmp_path, episodes=1, seed=SEED)


@pytest.mark.parametrize(("policy", "likely"), [(rollouts.at_random, [0, 1, 2, 3]), (rollouts.along_corridors, [1, 2])])
def test_policies_spread_evenly_over_their_actions(policy: rollouts.Policy, likely: list[int]) -> None:
    corridor = np.zeros((5, 5), bool)
    corridor[1, 1:4] = corridor[2, 1] = True  # from its corner it goes to the right and downwards
    state = types.SimpleNamespace(agent=jnp.array([1, 1]), corridor=jnp.asarray(corridor))
    actions = jax.vmap(lambda key: policy(key, state))(jax.random.split(jax.random.key(0), 2000))
    shares = np.bincount(actions, minlength=4) / 2000
    np.testing.assert_allclose(shares, [(action in likely) / len(likely) for action in range(4)], atol=0.04)
    assert not shares[[action for action in range(4) if action not in likely]].any()


def test_emulators_act_at_random(tmp_path: pathlib.Path) -> None:
    settings = tiny.zaxxon_settings()
    settings.environment.max_episode_steps = 12
    environment = factory.make_host_environment(settings.environment, 2, SEED, "judging")
    run, seen = rollouts.emulate_at_random(save_run(settings, tmp_path, environment.spec), num_envs=2, timesteps=30, seed=SEED)
    assert seen.step_type.tolist() == 2 * [([FIRST] + 11 * [MID] + [LAST]) * 2 + [FIRST] + 3 * [MID]]
    assert len(np.unique(seen.action)) == run.parts.spec.num_actions == 18
    # The same actions lead to the same frames.
    environment.reset()
    for t in range(30):
        timestep = environment.recv()
        np.testing.assert_array_equal(timestep.observation, seen.observation[:, t])
        environment.send(seen.action[:, t])
    environment.recv()
    environment.close()
    assert rollouts.guess_actions(run, run.learner, seen.observation).shape == (2, 29)


def test_a_folder_that_cannot_be_played_is_refused(maze: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(SettingsError, match=r"no config\.json"):
        rollouts.restore(tmp_path)
    (tmp_path / "config.json").write_text((maze / "config.json").read_text())
    with pytest.raises(SettingsError, match="no complete checkpoint"):
        rollouts.restore(tmp_path)
    shutil.copytree(maze / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "config.json").write_text(config.to_json(tiny.zaxxon_settings()))
    with pytest.raises(SettingsError, match="not a grid world"):
        rollouts.restore(tmp_path)
