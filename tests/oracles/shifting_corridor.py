"""Shifting Corridor with plain loops, and what is best in it: value iteration and exact returns in float64."""

import numpy as np

from agent57_jax.types import FIRST, LAST, MID, TimeStep


class ShiftingCorridorTwin:
    """One corridor; told where an episode starts, it knows all timesteps that follow."""

    def __init__(self, size: int, max_episode_steps: int, phase_steps: int) -> None:
        self.size = size
        self.limits = (max_episode_steps, size // 2)
        self.phase_steps = phase_steps
        self.timesteps = 0  # since the corridor exists, in all episodes

    def reset(self, cell: int) -> TimeStep:
        self.phase = self.timesteps // self.phase_steps % 2
        self.timesteps += 1
        self.cell, self.steps, self.total = cell, 0, 0.0
        return self._timestep(0.0, 1.0, FIRST)

    def step(self, action: int) -> TimeStep:
        self.timesteps += 1
        self.steps += 1
        self.cell += 1 if action == 1 else -1
        reward = end_reward(self.cell, self.size)
        if reward:
            self.total += reward
            return self._timestep(reward, 0.0, LAST)
        return self._timestep(0.0, 1.0, LAST if self.steps == self.limits[self.phase] else MID)

    def _timestep(self, reward: float, discount: float, step_type: int) -> TimeStep:
        observation = np.zeros(self.size, np.float32)
        observation[self.cell] = 1
        extras = {"long_limit": np.float32(self.phase == 0)}
        numbers = np.float32(reward), np.float32(discount), np.int32(step_type), np.float32(self.total), np.int32(self.steps)
        return TimeStep(observation, *numbers, extras)


def end_reward(cell: int, size: int) -> float:
    """The reward of entering a cell; only the ends have one."""
    return {0: 0.5, size - 1: 1.0}.get(cell, 0.0)


def start_probabilities(size: int) -> np.ndarray:
    """How often an episode starts at each cell. [size]."""
    probabilities = np.zeros(size)
    probabilities[1:-1] = 0.1 / (size - 2)
    probabilities[1 : size // 5 + 1] += 0.9 / (size // 5)
    return probabilities


def action_values(size: int, gamma: float) -> np.ndarray:
    """Optimal action values without any limit, by value iteration. [size, 2]; 0 at the ends."""
    new, values = np.zeros((size, 2)), np.full((size, 2), np.inf)
    while np.max(np.abs(new - values)) >= 1e-14:
        values, new = new, np.zeros((size, 2))
        for cell in range(1, size - 1):
            for action, successor in enumerate((cell - 1, cell + 1)):
                new[cell, action] = end_reward(successor, size) + gamma * values[successor].max()
    return new


def best_actions(size: int, gamma: float) -> np.ndarray:
    """The policy of a discount, 0 or 1 at each cell. [size]."""
    return np.argmax(action_values(size, gamma), axis=1)


def expected_return(actions: np.ndarray, limit: int, epsilon: float = 0.0) -> float:
    """Expected undiscounted return of an episode of this policy, which draws a uniform action with probability epsilon."""
    size = len(actions)
    present, total = start_probabilities(size), 0.0
    for _ in range(limit):
        following = np.zeros(size)
        for cell in range(1, size - 1):
            right = (1 - epsilon) * actions[cell] + epsilon / 2
            following[cell + 1] += present[cell] * right
            following[cell - 1] += present[cell] * (1 - right)
        for end in (0, size - 1):
            total += following[end] * end_reward(end, size)
            following[end] = 0.0
        present = following
    return total
