"""Random Coin, the gridworld on which Agent57 shows what separate networks are for (Agent57 §4.2, Figure 5)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax.environments.grid import ACTION_NAMES, MOVES, choose, is_at, make_spec, make_timestep
from agent57_jax.types import FIRST, LAST, MID, TimeStep

FLOOR_COLOUR, AGENT_COLOUR, COIN_COLOUR = np.array([[40, 44, 52], [255, 255, 255], [255, 200, 40]], np.uint8)  # of a video


class RandomCoinState(NamedTuple):
    """One room in one episode."""

    agent: jax.Array  # [2] int32, row and column
    coin: jax.Array  # [2] int32
    step_type: jax.Array  # int32, of the last timestep
    episode_return: jax.Array  # float32
    episode_length: jax.Array  # int32


class RandomCoin:
    """An empty room with an agent and a coin, in new places in each episode. A `JaxEnvironment`.

    Agent and coin start on distinct cells drawn uniformly. An action moves the agent by one cell; at the border it stays where it is.
    Reaching the coin gives reward 1 and terminates. After `max_episode_steps` steps the episode is truncated.

    The observation is a [size, size, 3] uint8 image of the room: channel 0 is 255 everywhere, channel 1 is 255 at the agent, channel 2 at
    the coin, and everything else is 0. When the coin is reached, both are shown on its cell.
    Choice: the paper gives no encoding. Channel 0 is the floor: a convolution that pads with zeros can see where the room ends.
    """

    def __init__(self, size: int = 15, max_episode_steps: int = 200) -> None:
        """Args:
          size: cells along each side of the room, at least 2.
          max_episode_steps: agent steps until an episode is truncated.

        Raises:
          ValueError: for a room that is too small for both, or an episode without steps.
        """
        if size < 2 or max_episode_steps < 1:
            raise ValueError(f"Random Coin needs a size of at least 2 and at least 1 step, not {size} and {max_episode_steps}")
        self.size = size
        self.max_episode_steps = max_episode_steps
        self.spec = make_spec((size, size, 3), ACTION_NAMES)

    def init(self, key: jax.Array) -> tuple[RandomCoinState, TimeStep]:
        """Draws an episode and returns its state and FIRST timestep (scalar fields)."""
        state = self._start(key)
        return state, self._timestep(state, reward=jnp.float32(0), terminated=jnp.bool_(False))

    def step(self, key: jax.Array, state: RandomCoinState, action: jax.Array) -> tuple[RandomCoinState, TimeStep]:
        """Moves the agent; after a LAST timestep ignores the action and starts an episode. Only a start uses `key`.

        The action is an index of `ACTION_NAMES`; the timestep has scalar fields.
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
        state = choose(starts, self._start(key), moved)
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
        agent, coin = is_at(state.agent, self.size), is_at(state.coin, self.size)
        image = jnp.stack([jnp.ones_like(agent), agent, coin], axis=-1).astype(jnp.uint8) * jnp.uint8(255)
        return make_timestep(state, image, reward, terminated, extras={})
