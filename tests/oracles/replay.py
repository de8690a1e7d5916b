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
        actors = [(group, environment) for group in range(num_groups) for environment in range(envs_per_group)]
        self.envs_per_group, self.eta = envs_per_group, eta
        self.capacity_per_env, self.trace, self.period, self.burn_in = capacity_per_env, trace, period, burn_in
        self.timesteps: dict[tuple[int, int], list[Any]] = {actor: [] for actor in actors}
        self.states: dict[tuple[int, int], list[Any]] = {actor: [] for actor in actors}
        self.errors: dict[tuple[int, int], list[float]] = {actor: [] for actor in actors}
        self.priorities: dict[Name, float] = {}  # of the sequences that may be drawn, and of no other
        self.largest_priority = 1.0

    def append(self, group: int, timesteps: list[Any], states: list[Any], errors: Sequence[float] | None = None) -> None:
        """One timestep of every environment of a group, the state with which the actor entered it, the error of what led to it."""
        for environment in range(self.envs_per_group):
            actor = group, environment
            self.timesteps[actor].append(timesteps[environment])
            self.states[actor].append(states[environment])
            if errors is not None:
                self.errors[actor].append(float(errors[environment]))
            length = len(self.timesteps[actor])
            for number in range((length - 1) // self.period + 1):
                first, last = self._range((*actor, number))
                # All of its timesteps have come, and none of them has left the last C.
                if not (last < length and first >= length - self.capacity_per_env):
                    self.priorities.pop((*actor, number), None)
                elif (*actor, number) not in self.priorities:
                    self.priorities[*actor, number] = self._first_priority((*actor, number))

    def _range(self, name: Name) -> tuple[int, int]:
        """First and last timestep of a sequence: its burn-in and T + 1 behind that."""
        first = name[2] * self.period
        return first, first + self.burn_in + self.trace

    def _first_priority(self, name: Name) -> float:
        """Of a sequence whose last timestep has just come. Transition t -> t + 1 is part of the trace unless t lies in the burn-in."""
        if self.eta is None:
            return self.largest_priority
        first, last = self._range(name)
        arrivals = range(first + self.burn_in + 1, last + 1)
        errors = [self.errors[name[:2]][t] for t in arrivals]
        valid = [self.timesteps[name[:2]][t].step_type != FIRST for t in arrivals]
        priority = sequence_priority(errors, valid, self.eta)
        return priority if np.isfinite(priority) else self.largest_priority

    def sequence(self, name: Name) -> tuple[list[Any], Any]:
        """The timesteps of a sequence, and the state with which the actor entered the first."""
        first, last = self._range(name)
        return self.timesteps[name[:2]][first : last + 1], self.states[name[:2]][first]

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
