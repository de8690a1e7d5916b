"""Random Disco Maze with plain loops: told a maze, a start and the colours, it knows all timesteps that follow."""

import numpy as np

from agent57_jax.types import FIRST, LAST, MID, TimeStep

MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1)]  # upwards, to the right, downwards, to the left
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]


class DiscoMazeTwin:
    def __init__(self, max_episode_steps: int) -> None:
        self.max_episode_steps = max_episode_steps

    def reset(self, corridor: np.ndarray, agent: tuple[int, int], colours: np.ndarray) -> TimeStep:
        self.corridor = cells_of(corridor)
        self.size = len(corridor)
        self.agent = agent
        self.visited = {agent}
        self.steps = 0
        return self._timestep(colours, 1.0, FIRST)

    def step(self, action: int, colours: np.ndarray) -> TimeStep:
        target = neighbours(self.agent)[action]
        self.steps += 1
        if target not in self.corridor:
            return self._timestep(colours, 0.0, LAST)
        self.agent = target
        self.visited.add(target)
        return self._timestep(colours, 1.0, LAST if self.steps == self.max_episode_steps else MID)

    def _timestep(self, colours: np.ndarray, discount: float, step_type: int) -> TimeStep:
        image = np.zeros((self.size, self.size, 3), np.uint8)
        for row in range(self.size):
            for column in range(self.size):
                if (row, column) == self.agent:
                    image[row, column] = 255
                elif (row, column) not in self.corridor:
                    image[row, column] = COLOURS[colours[row, column]]
        extras = {"visited_fraction": np.float32(len(self.visited) / len(self.corridor))}
        return TimeStep(image, np.float32(0), np.float32(discount), np.int32(step_type), np.float32(0), np.int32(self.steps), extras)


def neighbours(cell: tuple[int, int]) -> list[tuple[int, int]]:
    """The cells that the actions lead to."""
    return [(cell[0] + down, cell[1] + right) for down, right in MOVES]


def cells_of(corridor: np.ndarray) -> set[tuple[int, int]]:
    """The cells of a mask."""
    return {(int(row), int(column)) for row, column in zip(*np.nonzero(corridor), strict=True)}


def wall_colours(image: np.ndarray) -> np.ndarray:
    """Index in `COLOURS` of each pixel of an image [..., 3], -1 where it has another colour."""
    indices = np.full(image.shape[:-1], -1)
    for index, colour in enumerate(COLOURS):
        indices[np.all(image == np.array(colour), axis=-1)] = index
    return indices


def kruskal(weight: np.ndarray) -> np.ndarray:
    """Minimum spanning tree of n x n rooms.

    Args:
      weight: [2, n * n], of the passages from each room to its right and downwards.

    Returns:
      [2, n * n] bool, the passages of the tree.
    """
    num_rooms = weight.shape[1]
    n = int(np.sqrt(num_rooms))
    region = list(range(num_rooms))
    is_open = np.zeros(weight.shape, bool)
    for passage in np.argsort(weight, axis=None):
        direction, room = divmod(int(passage), num_rooms)
        row, column = divmod(room, n)
        if (column if direction == 0 else row) == n - 1:
            continue  # leads out of the maze
        mine, other = region[room], region[room + (1 if direction == 0 else n)]
        if mine != other:
            region = [mine if r == other else r for r in region]
            is_open[direction, room] = True
    return is_open


def is_perfect(corridor: np.ndarray) -> bool:
    """Whether rooms on odd coordinates and passages between them form one tree, with wall everywhere else."""
    size = len(corridor)
    n = size // 2
    cells = cells_of(corridor)
    rooms = {(row, column) for row in range(1, size, 2) for column in range(1, size, 2)}
    passages = cells - rooms
    if not rooms <= cells or len(passages) != n * n - 1:
        return False
    if any(row in (0, size - 1) or column in (0, size - 1) or (row + column) % 2 == 0 for row, column in passages):
        return False
    reached, frontier = {(1, 1)}, [(1, 1)]
    while frontier:
        new = [cell for cell in neighbours(frontier.pop()) if cell in cells and cell not in reached]
        reached.update(new)
        frontier += new
    return reached == cells  # connected by one passage less than rooms: no cycle
