"""Random Disco Maze, the gridworld on which NGU shows what controllable states are for (NGU §4.1)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax.environments.grid import ACTION_NAMES, MOVES, choose, is_at, make_spec, make_timestep
from agent57_jax.types import FIRST, LAST, MID, TimeStep

VISITED_FRACTION = "visited_fraction"  # the extra: visited part of the corridor cells in this episode, the start included
WALL_COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]], np.uint8)
AGENT_COLOUR = np.array([255, 255, 255], np.uint8)

_NO_PASSAGE = np.uint32(2**32 - 1)  # weight of a passage that can't be opened


class MazePlan(NamedTuple):
    """A maze under construction. Room (r, c) of n x n has number r * n + c and lies on cell (2r + 1, 2c + 1) of the maze."""

    weight: jax.Array  # [2, n * n] uint32, of the passage from each room to its right and downwards; no two are equal
    is_open: jax.Array  # [2, n * n] bool, passages so far
    region: jax.Array  # [n * n] int32, equal for rooms that are connected so far


class DiscoMazeState(NamedTuple):
    """One maze in one episode, and the plan of the next."""

    corridor: jax.Array  # [size, size] bool, cells that are not wall
    agent: jax.Array  # [2] int32, row and column
    visited: jax.Array  # [size, size] bool, cells the agent has been on in this episode
    step_type: jax.Array  # int32, of the last timestep
    episode_length: jax.Array  # int32
    next_maze: MazePlan


class _Draw(NamedTuple):
    """All random numbers that a step may need."""

    colour: jax.Array  # [size, size] uint32, index of `WALL_COLOURS`
    plan: MazePlan  # of a maze without a passage
    room: jax.Array  # int32, where an episode starts


class DiscoMaze:
    """A new maze in each episode, whose walls change their colours at every step. A `JaxEnvironment` without reward.

    The maze has size x size cells with a border of wall. Rooms lie on all odd coordinates; passages between neighbouring rooms connect
    them all without a cycle: 21 x 21 cells have 100 rooms and 99 passages, 199 corridor cells. It is the minimum spanning tree of random
    weights, as in randomised Kruskal. An action moves the agent by one cell. Walking into a wall terminates; that timestep shows the agent
    where it stood.

    The observation is a [size, size, 3] uint8 RGB image: corridors black, the agent white, and each wall cell in one of five colours that
    are drawn anew for every timestep.

    Choices: the maze's algorithm; the agent starts in a random room; an episode is truncated after 5,000 steps, the capacity of the
    episodic memory in NGU's experiment.
    """

    def __init__(self, size: int = 21, max_episode_steps: int = 5000) -> None:
        """Args:
          size: cells along each side of the maze, border included; odd, at least 5.
          max_episode_steps: agent steps until an episode is truncated.

        Raises:
          ValueError: for a size without a maze, or an episode without steps.
        """
        if size < 5 or size % 2 == 0 or max_episode_steps < 1:
            raise ValueError(f"Disco Maze needs an odd size of at least 5 and at least 1 step, not {size} and {max_episode_steps}")
        self.size = size
        self.max_episode_steps = max_episode_steps
        self.spec = make_spec((size, size, 3), ACTION_NAMES, (VISITED_FRACTION,))
        self._num_rooms_per_side = size // 2
        self._num_corridor_cells = 2 * self._num_rooms_per_side**2 - 1

    def init(self, key: jax.Array) -> tuple[DiscoMazeState, TimeStep]:
        """Draws a maze and returns the state and FIRST timestep (scalar fields) of an episode in it."""
        this, following = (self._draw(half) for half in jax.random.split(key))
        state = self._start(this.room, _extend(_extend(this.plan)))._replace(next_maze=_extend(following.plan))
        return state, self._timestep(state, this.colour, terminated=jnp.bool_(False))

    def step(self, key: jax.Array, state: DiscoMazeState, action: jax.Array) -> tuple[DiscoMazeState, TimeStep]:
        """Moves the agent; after a LAST timestep ignores the action and starts an episode in another maze.

        The action is an index of `ACTION_NAMES`; the timestep has scalar fields.
        """
        draw = self._draw(key)
        starts = state.step_type == LAST
        target = state.agent + jnp.asarray(MOVES)[action]
        is_free = state.corridor[target[0], target[1]]
        length = state.episode_length + 1
        agent = jnp.where(is_free, target, state.agent)
        moved = state._replace(
            agent=agent,
            visited=state.visited | is_at(agent, self.size),
            step_type=jnp.where(is_free & (length < self.max_episode_steps), MID, LAST).astype(jnp.int32),
            episode_length=length,
        )
        # Under vmap every step pays for every branch, so building a whole maze at a start would slow down all steps. An episode takes at
        # least two timesteps, FIRST and LAST: each timestep builds half of the next maze, and later ones change nothing.
        plan = choose(starts, draw.plan, state.next_maze)
        state = choose(starts, self._start(draw.room, state.next_maze), moved)._replace(next_maze=_extend(plan))
        return state, self._timestep(state, draw.colour, terminated=~is_free & ~starts)

    def _draw(self, key: jax.Array) -> _Draw:
        """One call of the generator for everything: a call costs more than its numbers."""
        num_rooms = self._num_rooms_per_side**2
        bits = jax.random.bits(key, (self.size**2 + 2 * num_rooms + 1,), jnp.uint32)
        for_colour, for_plan, for_room = jnp.split(bits, [self.size**2, self.size**2 + 2 * num_rooms])
        # A remainder of 32 bits favours small numbers by less than 1e-7.
        return _Draw(
            colour=(for_colour % len(WALL_COLOURS)).reshape(self.size, self.size),
            plan=_new_plan(for_plan),
            room=(for_room[0] % num_rooms).astype(jnp.int32),
        )

    def _start(self, room: jax.Array, maze: MazePlan) -> DiscoMazeState:
        """An episode in a finished maze, which stays in `next_maze` until the caller replaces it."""
        n = self._num_rooms_per_side
        agent = 2 * jnp.stack(jnp.divmod(room, n)) + 1
        right, down = maze.is_open.reshape(2, n, n)
        # Each room is the upper left of 2 x 2 cells, with its passages to the right and downwards and a cell that is always wall.
        blocks = jnp.stack([jnp.stack([jnp.ones_like(right), right], axis=-1), jnp.stack([down, jnp.zeros_like(down)], axis=-1)], axis=1)
        return DiscoMazeState(
            corridor=jnp.pad(blocks.reshape(2 * n, 2 * n), ((1, 0), (1, 0))),
            agent=agent,
            visited=is_at(agent, self.size),
            step_type=jnp.int32(FIRST),
            episode_length=jnp.int32(0),
            next_maze=maze,
        )

    def _timestep(self, state: DiscoMazeState, colour: jax.Array, terminated: jax.Array) -> TimeStep:
        wall = jnp.asarray(WALL_COLOURS)[colour]
        floor = jnp.where(is_at(state.agent, self.size)[..., None], AGENT_COLOUR[None, None], jnp.uint8(0))
        image = jnp.where(state.corridor[..., None], floor, wall)
        visited = jnp.sum(state.visited, dtype=jnp.float32) / self._num_corridor_cells
        return make_timestep(state, image, jnp.float32(0), terminated, extras={VISITED_FRACTION: visited})


def _new_plan(bits: jax.Array) -> MazePlan:
    """n x n rooms without a passage, and weights from random bits [2 * n * n] for all passages there could be."""
    num_rooms = bits.size // 2
    n = math.isqrt(num_rooms)
    # The low bits number the passage, so weights are distinct. The bits above decide.
    id_mask = _passage_id_mask(num_rooms)
    ids = np.arange(2 * num_rooms, dtype=np.uint32)
    weight = bits & ~np.uint32(id_mask) | ids
    room = np.arange(num_rooms)
    leads_inside = np.concatenate([room % n < n - 1, room // n < n - 1])
    return MazePlan(
        weight=jnp.where(leads_inside, weight, _NO_PASSAGE).reshape(2, num_rooms),
        is_open=jnp.zeros((2, num_rooms), jnp.bool_),
        region=jnp.arange(num_rooms, dtype=jnp.int32),
    )


def _passage_id_mask(num_rooms: int) -> int:
    return (1 << (2 * num_rooms).bit_length()) - 1


def _extend(plan: MazePlan) -> MazePlan:
    """Half of Borůvka's algorithm: applied twice to a new plan it gives the minimum spanning tree; a third time changes nothing.

    In a round every region opens its lightest passage to another region, so the number of regions at least halves.
    """
    num_rooms = plan.region.size
    num_rounds = num_rooms.bit_length() - 1
    for num_done in range((num_rounds + 1) // 2):
        plan = _merge_regions(plan, max_regions=num_rooms >> num_done)
    return plan


def _merge_regions(plan: MazePlan, max_regions: int) -> MazePlan:
    weight, is_open, region = plan
    num_rooms = region.size
    n = math.isqrt(num_rooms)
    room = jnp.arange(num_rooms, dtype=jnp.int32)

    def beyond(x: jax.Array) -> jax.Array:
        """Values [num_rooms] of the rooms to the right and below, [2, num_rooms]. Wrapped values belong to no passage."""
        return jnp.stack([jnp.roll(x, -1), jnp.roll(x, -n)])

    candidate = jnp.where(region[None] != beyond(region), weight, _NO_PASSAGE)
    at_room = jnp.min(jnp.stack([*candidate, jnp.roll(candidate[0], 1), jnp.roll(candidate[1], n)]), axis=0)
    lightest = jnp.full((num_rooms,), _NO_PASSAGE).at[region].min(at_room)  # of the region with that number
    at_room = lightest[region]
    is_open |= (candidate != _NO_PASSAGE) & ((candidate == at_room[None]) | (candidate == beyond(at_room)))

    # Each region points to the one behind its lightest passage. Weights are distinct, so the only cycles are pairs of regions that chose
    # the same passage: the lower region becomes the root.
    passage = (lightest & _passage_id_mask(num_rooms)).astype(jnp.int32)
    near = passage % num_rooms
    far = near + jnp.where(passage < num_rooms, 1, n)
    root = jnp.where(lightest == _NO_PASSAGE, room, region[near] + region[far] - room)
    root = jnp.where((root[root] == room) & (room < root), room, root)
    for _ in range((max_regions - 1).bit_length()):
        root = root[root]
    return MazePlan(weight, is_open, root[region])
