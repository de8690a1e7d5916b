"""Random Coin with plain loops: told where an episode starts, it knows all timesteps that follow."""

import numpy as np

from agent57_jax.types import FIRST, LAST, MID, TimeStep
from tests.oracles.disco_maze import neighbours


class RandomCoinTwin:
    def __init__(self, size: int, max_episode_steps: int) -> None:
        self.size = size
        self.max_episode_steps = max_episode_steps

    def reset(self, agent: tuple[int, int], coin: tuple[int, int]) -> TimeStep:
        self.agent, self.coin = agent, coin
        self.steps, self.total = 0, 0.0
        return self._timestep(0.0, 1.0, FIRST)

    def step(self, action: int) -> TimeStep:
        self.agent = tuple(min(max(place, 0), self.size - 1) for place in neighbours(self.agent)[action])
        self.steps += 1
        if self.agent == self.coin:
            self.total += 1.0
            return self._timestep(1.0, 0.0, LAST)
        return self._timestep(0.0, 1.0, LAST if self.steps == self.max_episode_steps else MID)

    def _timestep(self, reward: float, discount: float, step_type: int) -> TimeStep:
        image = np.zeros((self.size, self.size, 3), np.uint8)
        image[:, :, 0] = 255
        image[*self.agent, 1] = 255
        image[*self.coin, 2] = 255
        numbers = np.float32(reward), np.float32(discount), np.int32(step_type), np.float32(self.total), np.int32(self.steps)
        return TimeStep(image, *numbers, extras={})
