"""Random Coin, the gridworld on which Agent57 shows what separate networks are for (Agent57 §4.2, Figure 5)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax.types import FIRST, LAST, MID, EnvironmentSpec, TimeStep

ACTION_NAMES = ("up", "right", "down", "left")
MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]], np.int32)  # [A, 2], rows and columns
FLOOR_COLOUR, AGENT_COLOUR, COIN_COLOUR = np.array([[40, 44, 52], [255, 255, 255], [255, 200, 40]], np.uint8)  # for a person's eyes


class RandomCoinState(NamedTuple):
    """One room in one episode."""

    agent: jax.Array  # [2] int32, row and column
    coin: jax.Array  # [2] int32
    step_type: jax.Array  # int32, of the last timestep
    episode_return: jax.Array  # float32
    episode_length: jax.Array  # int32


class RandomCoin:
    """An empty room with an agent and a coin, both somewhere else in each episode. A `JaxEnvironment`.

    Agent and coin start on distinct cells drawn uniformly. An action moves the agent by one cell; at the border it stays where it is.
    Reaching the coin gives reward 1 and terminates. After `max_episode_steps` steps the episode is truncated.

    The observation is a [size, size, 3] uint8 image of the room, whose cells are all floor: channel 0 is 255 on the floor, channel 1 on
    the agent, channel 2 on the coin, and everything else is 0. When the coin is reached, both are shown on its cell.
    Choice: the paper gives no encoding. The walls lie just outside of the image. The floor is the same in every image; to a
    convolution that pads with zeros it shows where the room ends.
    """

    def __init__(self, size: int = 15, max_episode_steps: int = 200) -> None:
        """Args:
          size: cells along each side of the room, at least 2.
          max_episode_steps: agent steps until an episode is truncated.

        Raises:
          ValueError: for a room without place for both, or an episode without steps.
        """
        if size < 2 or max_episode_steps < 1:
            raise ValueError(f"Random Coin needs a size of at least 2 and at least 1 step, not {size} and {max_episode_steps}")
        self.size = size
        self.max_episode_steps = max_episode_steps
        self.spec = EnvironmentSpec(
            observation_shape=(size, size, 3),
            observation_dtype=np.dtype(np.uint8),
            num_actions=len(ACTION_NAMES),
            action_names=ACTION_NAMES,
            frames_per_step=1,
        )

    def init(self, key: jax.Array) -> tuple[RandomCoinState, TimeStep]:
        """Draws an episode and returns its state and FIRST timestep (scalar fields)."""
        state = self._start(key)
        return state, self._timestep(state, reward=jnp.float32(0), terminated=jnp.bool_(False))

    def step(self, key: jax.Array, state: RandomCoinState, action: jax.Array) -> tuple[RandomCoinState, TimeStep]:
        """Moves the agent, or after a LAST timestep ignores the action and starts an episode.

        Args:
          key: random key of this step; only the start of an episode uses it.
          state: from `init` or `step`.
          action: integer in [0, 4), an index of `ACTION_NAMES`.

        Returns:
          The next state and its timestep (scalar fields).
        """
        starts = state.step_type == LAST
        agent = jnp.clip(state.agent + jnp.asarray(MOVES)[action], 0, self.size - 1)
        reached = jnp.all(agent == state.coin)
        length = state.episode_length + 1
        moved = RandomCoinState(
            agent=agent,
            coin=state.coin,
            step_type=jnp.where(reached | (length >= self.max_episode_steps), LAST, MID).astype(jnp.int32),
            episode_return=state.episode_return + reached,
            episode_length=length,
        )
        terminated = reached & ~starts
        state = jax.tree.map(lambda start, move: jnp.where(starts, start, move), self._start(key), moved)
        return state, self._timestep(state, reward=terminated.astype(jnp.float32), terminated=terminated)

    def picture(self, observation: np.ndarray) -> np.ndarray:
        """An observation [size, size, 3] in colours for a person: dark floor, white agent, golden coin. uint8, the same shape."""
        agent, coin = observation[..., 1:2] > 0, observation[..., 2:3] > 0
        return np.where(agent, AGENT_COLOUR, np.where(coin, COIN_COLOUR, FLOOR_COLOUR))

    def _start(self, key: jax.Array) -> RandomCoinState:
        agent_key, coin_key = jax.random.split(key)
        cells = self.size**2
        agent = jax.random.randint(agent_key, (), 0, cells, jnp.int32)
        other = jax.random.randint(coin_key, (), 0, cells - 1, jnp.int32)
        coin = other + (other >= agent)  # uniform over the cells that the agent left free
        return RandomCoinState(
            agent=jnp.stack(jnp.divmod(agent, self.size)),
            coin=jnp.stack(jnp.divmod(coin, self.size)),
            step_type=jnp.int32(FIRST),
            episode_return=jnp.float32(0),
            episode_length=jnp.int32(0),
        )

    def _timestep(self, state: RandomCoinState, reward: jax.Array, terminated: jax.Array) -> TimeStep:
        rows, columns = np.mgrid[: self.size, : self.size]  # [size, size]
        agent = (rows == state.agent[0]) & (columns == state.agent[1])
        coin = (rows == state.coin[0]) & (columns == state.coin[1])
        image = jnp.stack([jnp.ones_like(agent), agent, coin], axis=-1)
        return TimeStep(
            observation=image.astype(jnp.uint8) * jnp.uint8(255),
            reward=reward,
            discount=1 - terminated.astype(jnp.float32),
            step_type=state.step_type,
            episode_return=state.episode_return,
            episode_length=state.episode_length,
            extras={},
        )
