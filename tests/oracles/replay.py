"""Twin of the replay: every timestep ever appended stays in a list, and rules say which sequences of it may be drawn (R2D2 §2.3)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from agent57_jax.types import FIRST
from tests.oracles.sequence_priority import sequence_priority

Name = tuple[int, int, int]  # group, environment, number of the sequence


class Replay:
    """What the replay must hold and give, one environment at a time, over all devices."""

    def __init__(
        self,
        num_groups: int,
        envs_per_group: int,
        capacity_per_env: int,
        trace: int,
        period: int,
        burn_in: int = 0,
        eta: float | None = None,
    ) -> None:
        """An empty replay. With `eta` a new sequence has the priority of the actor's errors, else the largest so far."""
        self.eta = eta
        self.errors: dict[tuple[int, int], list[float]] = {(g, e): [] for g in range(num_groups) for e in range(envs_per_group)}
        self.num_groups, self.envs_per_group = num_groups, envs_per_group
        self.capacity_per_env, self.trace, self.period, self.burn_in = capacity_per_env, trace, period, burn_in
        self.timesteps: dict[tuple[int, int], list[Any]] = {(g, e): [] for g in range(num_groups) for e in range(envs_per_group)}
        self.states: dict[tuple[int, int], list[Any]] = {(g, e): [] for g in range(num_groups) for e in range(envs_per_group)}
        self.priorities: dict[Name, float] = {}  # of the sequences that may be drawn, and of no other
        self.largest_priority = 1.0

    def append(self, group: int, timesteps: list[Any], states: list[Any], errors: Sequence[float] | None = None) -> None:
        """One timestep of every environment of a group, the state with which the actor entered it, the error of what led to it."""
        for environment in range(self.envs_per_group):
            self.timesteps[group, environment].append(timesteps[environment])
            self.states[group, environment].append(states[environment])
            if errors is not None:
                self.errors[group, environment].append(float(errors[environment]))
            for number in self._started(group, environment):
                name = (group, environment, number)
                if not self._is_whole(name):
                    self.priorities.pop(name, None)
                elif name not in self.priorities:
                    self.priorities[name] = self._first_priority(name)

    def _first_priority(self, name: Name) -> float:
        """Of a sequence whose last timestep has just come. Transition t -> t + 1 is part of the trace unless t lies in the burn-in."""
        if self.eta is None:
            return self.largest_priority
        group, environment, number = name
        start = number * self.period + self.burn_in
        arrivals = range(start + 1, start + self.trace + 1)
        errors = [self.errors[group, environment][t] for t in arrivals]
        valid = [self.timesteps[group, environment][t].step_type != FIRST for t in arrivals]
        priority = sequence_priority(errors, valid, self.eta)
        return priority if np.isfinite(priority) else self.largest_priority

    def _started(self, group: int, environment: int) -> range:
        """Numbers of the sequences that have begun so far."""
        return range((len(self.timesteps[group, environment]) - 1) // self.period + 1)

    def _is_whole(self, name: Name) -> bool:
        """Whether the timesteps of the burn-in and all T + 1 behind it have come and none of them has left the last C."""
        group, environment, number = name
        length = len(self.timesteps[group, environment])
        first, last = number * self.period, number * self.period + self.burn_in + self.trace
        return last < length and first >= length - self.capacity_per_env

    def sequence(self, name: Name) -> tuple[list[Any], Any]:
        """The timesteps of a sequence, its burn-in and T + 1 behind that, and the state with which the actor entered the first."""
        group, environment, number = name
        first = number * self.period
        last = first + self.burn_in + self.trace
        return self.timesteps[group, environment][first : last + 1], self.states[group, environment][first]

    def write_priorities(self, names: list[Name], priorities: list[float]) -> None:
        """Sets the priorities of sequences that may still be drawn; of a name that comes twice the last one counts."""
        for name, priority in zip(names, priorities, strict=True):
            if name in self.priorities:
                self.priorities[name] = priority
                self.largest_priority = max(self.largest_priority, priority)

    def probabilities(self, exponent: float, num_devices: int = 1) -> dict[Name, float]:
        """Probability of each sequence in one draw, each device giving an equal part of the draws from its own environments."""
        envs_per_device = self.envs_per_group // num_devices
        mass = np.zeros(num_devices)
        for (_, environment, _), priority in self.priorities.items():
            mass[environment // envs_per_device] += priority**exponent
        return {
            name: priority**exponent / float(mass[name[1] // envs_per_device]) / num_devices for name, priority in self.priorities.items()
        }

    def importance_weights(self, names: list[Name], exponent: float, is_exponent: float, num_devices: int = 1) -> np.ndarray:
        """(size * probability)^-is_exponent of each drawn sequence over the largest of the batch."""
        probabilities = self.probabilities(exponent, num_devices)
        weights = np.array([(len(self.priorities) * probabilities[name]) ** -is_exponent for name in names])
        return weights / weights.max()
