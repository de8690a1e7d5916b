"""The circular prioritised sequence replay, on the device (R2D2 §2.3, Ape-X).

Every environment owns a ring of C slots, one timestep each. A sequence starts every `period` timesteps and has `span` transitions (burn-in
and trace), or span + 1 timesteps; overlapping sequences share frames. The environments of a group are written together, so they start and
complete sequences together: sequence k covers the timesteps k * period .. k * period + span of each environment and owns column k mod S of
the priorities, S = C / period. A priority of 0 marks a column that cannot be drawn: a sequence can be drawn from the arrival of its last
timestep until its first slot is about to be overwritten, when its column passes to sequence k + S.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax import parallel
from agent57_jax.algorithm.sequence_priority import sequence_priority
from agent57_jax.config import FirstPriority, ReplaySettings
from agent57_jax.types import FIRST, Batch, EnvironmentSpec, Experience, RecurrentState, SequenceId

MAX_ACTIONS = 256  # an action is stored as one byte
PRIORITY_EDGES = np.logspace(-6, 4, 61, dtype=np.float32)  # of the histogram of priorities: six buckets per decade
EMPTY = -1  # number of an unused column


class ReplayState(NamedTuple):
    """Contents of the replay."""

    experience: Experience  # every field [G, E, C, ...]
    recurrent_state: RecurrentState  # every field [G, E, S, ...], before the first timestep of the sequence
    priority: jax.Array  # [G, E, S] float32; 0: cannot be drawn
    number: jax.Array  # [G, S] int32, the sequence that owns the column, or EMPTY
    appended: jax.Array  # [G] int32, timesteps written per environment since the start
    max_priority: jax.Array  # scalar float32, largest priority that the learner has written so far
    td_error: jax.Array | None  # [G, E, C] float32, the actor's, of the transition into each timestep; None if not computed


SPECS = ReplayState(
    experience=parallel.BY_GROUPED_ENVIRONMENT,  # type: ignore[arg-type]
    recurrent_state=parallel.BY_GROUPED_ENVIRONMENT,  # type: ignore[arg-type]
    priority=parallel.BY_GROUPED_ENVIRONMENT,  # type: ignore[arg-type]
    number=parallel.REPLICATED,  # type: ignore[arg-type]
    appended=parallel.REPLICATED,  # type: ignore[arg-type]
    max_priority=parallel.REPLICATED,  # type: ignore[arg-type]
    td_error=parallel.BY_GROUPED_ENVIRONMENT,  # type: ignore[arg-type]
)


@dataclasses.dataclass(frozen=True)
class Replay:
    """The sizes of a replay, and the operations on its state."""

    settings: ReplaySettings
    spec: EnvironmentSpec
    num_groups: int  # G
    envs_per_group: int  # E, over all devices
    capacity_per_env: int  # C, a multiple of the period, at least span + period
    has_intrinsic_reward: bool = True

    def __post_init__(self) -> None:
        period, span = self.settings.period, self.settings.span
        # With less, at times the oldest sequence would be gone before the newest is complete.
        if self.capacity_per_env % period or self.capacity_per_env < span + period:
            raise ValueError(f"capacity_per_env {self.capacity_per_env} must be a multiple of period {period} and at least {span + period}")

    @property
    def num_columns(self) -> int:
        """S: sequences per environment."""
        return self.capacity_per_env // self.settings.period

    def init(self, recurrent_state: RecurrentState) -> ReplayState:
        """An empty replay for all devices; `recurrent_state` [1, ...] gives the shapes of one stored state."""
        ring = (self.num_groups, self.envs_per_group, self.capacity_per_env)
        columns = (self.num_groups, self.envs_per_group, self.num_columns)
        experience = Experience(
            observation=jnp.zeros((*ring, *self.spec.observation_shape), self.spec.observation_dtype),
            action=jnp.zeros(ring, jnp.uint8),
            extrinsic_reward=jnp.zeros(ring, jnp.float32),
            intrinsic_reward=jnp.zeros(ring, jnp.float32) if self.has_intrinsic_reward else None,
            behaviour_probability=jnp.ones(ring, jnp.float32),
            discount=jnp.zeros(ring, jnp.uint8),
            step_type=jnp.zeros(ring, jnp.uint8),
            policy=jnp.zeros(ring, jnp.uint8),
        )
        return ReplayState(
            experience=experience,
            recurrent_state=jax.tree.map(lambda leaf: jnp.zeros((*columns, *leaf.shape[1:]), leaf.dtype), recurrent_state),
            priority=jnp.zeros(columns, jnp.float32),
            number=jnp.full((self.num_groups, self.num_columns), EMPTY, jnp.int32),
            appended=jnp.zeros((self.num_groups,), jnp.int32),
            max_priority=jnp.ones((), jnp.float32),
            td_error=jnp.zeros(ring, jnp.float32) if self.settings.first_priority is FirstPriority.ACTOR else None,
        )

    def append(
        self,
        state: ReplayState,
        group: jax.Array,
        experience: Experience,
        recurrent_state: RecurrentState,
        td_error: jax.Array | None = None,
    ) -> ReplayState:
        """Writes one timestep of every environment of a group (scalar int32): experience [E, ...].

        The recurrent state [E, ...], before this timestep, is stored only where a sequence starts. `td_error` [E] >= 0 is that of the
        transition into this timestep; if it is None, new sequences get the largest priority so far.
        """
        period, span = self.settings.period, self.settings.span
        index = state.appended[group]
        slot = index % self.capacity_per_env

        def write(ring: jax.Array, rows: jax.Array, at: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice(ring, rows[None, :, None].astype(ring.dtype), (group, 0, at) + (0,) * (rows.ndim - 1))

        def write_if(condition: jax.Array, ring: jax.Array, rows: jax.Array, at: jax.Array) -> jax.Array:
            # Unchanged columns are written back: a branch could copy the ring.
            old = jax.lax.dynamic_slice(ring, (group, 0, at) + (0,) * (rows.ndim - 1), (1, rows.shape[0], 1, *rows.shape[1:]))
            return write(ring, jnp.where(condition, rows, old[0, :, 0]), at)

        starts = index % period == 0
        column = index // period % self.num_columns
        completes = (index >= span) & ((index - span) % period == 0)
        completed = jnp.maximum(index - span, 0) // period % self.num_columns
        num_envs = state.priority.shape[1]
        priority = write_if(starts, state.priority, jnp.zeros((num_envs,)), column)
        written, td_errors = jax.tree.map(
            lambda ring, rows: write(ring, rows, slot), (state.experience, state.td_error), (experience, td_error)
        )
        first_priority = jnp.broadcast_to(state.max_priority, (num_envs,))
        if td_errors is not None:
            first_priority = self._actors_priority(group, index, written.step_type, td_errors, first_priority)
        priority = write_if(completes, priority, first_priority, completed)
        return ReplayState(
            experience=written,
            recurrent_state=jax.tree.map(lambda ring, rows: write_if(starts, ring, rows, column), state.recurrent_state, recurrent_state),
            priority=priority,
            number=state.number.at[group, column].set(index // period),
            appended=state.appended.at[group].add(1),
            max_priority=state.max_priority,
            td_error=td_errors,
        )

    def _actors_priority(
        self, group: jax.Array, index: jax.Array, step_type: jax.Array, td_errors: jax.Array, otherwise: jax.Array
    ) -> jax.Array:
        """Priorities [E], from the actors' errors, of the sequences that end at timestep `index`; `otherwise` where not finite."""
        # Errors are stored where their transitions lead, as rewards are: the trace's are in the last T slots.
        slots = (index - jnp.arange(self.settings.trace)) % self.capacity_per_env
        errors, kinds = (ring[group, :, slots].T for ring in (td_errors, step_type))  # [E, T]
        priority = jax.vmap(sequence_priority, in_axes=(0, 0, None))(errors, kinds != FIRST, self.settings.eta)
        return jnp.where(jnp.isfinite(priority), priority, otherwise)

    def sample(self, state: ReplayState, key: jax.Array, batch_size: int) -> Batch:
        """Draws sequences of this device with probability proportional to priority^priority_exponent.

        The key differs between devices; at least one sequence must be drawable. Returns a batch [batch_size, ...], whose importance weights
        are (size * probability)^-is_exponent, divided by the largest over all devices.
        """
        period, span = self.settings.period, self.settings.span
        flat = state.priority.reshape(-1)
        weights = jnp.where(flat > 0, flat**self.settings.priority_exponent, 0.0)
        cumulative = jnp.cumsum(weights)
        # Stratified, one draw in each of batch_size equal parts: the same expectation with less variance.
        points = (jnp.arange(batch_size) + jax.random.uniform(key, (batch_size,))) / batch_size * cumulative[-1]
        picked = jnp.searchsorted(cumulative, points, side="right")
        # Rounding may select a column of priority 0: use the last valid one before it, or the first one.
        position = jnp.arange(flat.shape[0])
        before = jax.lax.cummax(jnp.where(flat > 0, position, -1))
        picked = before[jnp.minimum(picked, flat.shape[0] - 1)]
        picked = jnp.where(picked < 0, jnp.argmax(flat > 0), picked)
        # The replay's size and the number of devices cancel in the division by the largest weight.
        importance = (weights[picked] / cumulative[-1]) ** -self.settings.is_exponent
        importance = importance / jax.lax.pmax(jnp.max(importance), parallel.AXIS)

        group, environment, column = jnp.unravel_index(picked, state.priority.shape)
        number = state.number[group, column]
        slots = (number[:, None] % self.num_columns * period + jnp.arange(span + 1, dtype=jnp.int32)[None, :]) % self.capacity_per_env
        experience = jax.tree.map(lambda ring: ring[group[:, None], environment[:, None], slots], state.experience)
        experience = experience._replace(
            action=experience.action.astype(jnp.int32),
            discount=experience.discount.astype(jnp.float32),
            step_type=experience.step_type.astype(jnp.int32),
            policy=experience.policy.astype(jnp.int32),
        )
        recurrent_state = jax.tree.map(lambda ring: ring[group, environment, column], state.recurrent_state)
        return Batch(experience, recurrent_state, importance, SequenceId(group, environment, number))

    def write_priorities(self, state: ReplayState, sequence: SequenceId, priority: jax.Array) -> ReplayState:
        """Sets the priorities [B] of the sequences that are still stored."""
        column = sequence.number % self.num_columns
        current = state.number[sequence.group, column] == sequence.number
        current &= state.priority[sequence.group, sequence.environment, column] > 0
        column = jnp.where(current, column, self.num_columns)  # out of range: dropped
        largest = jax.lax.pmax(jnp.max(jnp.where(current, priority, 0.0)), parallel.AXIS)
        return state._replace(
            priority=state.priority.at[sequence.group, sequence.environment, column].set(priority, mode="drop"),
            max_priority=jnp.maximum(state.max_priority, largest),
        )

    def age(self, state: ReplayState, sequence: SequenceId) -> jax.Array:
        """Age of stored sequences, [B] int32: timesteps of the environment since their first one."""
        return state.appended[sequence.group] - sequence.number * self.settings.period

    def count_priorities(self, state: ReplayState) -> jax.Array:
        """Histogram of the priorities of all devices, [len(PRIORITY_EDGES) + 1] float32; 0 is not counted."""
        bucket = jnp.searchsorted(jnp.asarray(PRIORITY_EDGES), state.priority.reshape(-1), side="right")
        counts = jnp.zeros((len(PRIORITY_EDGES) + 1,), jnp.float32).at[bucket].add(jnp.float32(state.priority.reshape(-1) > 0))
        return parallel.sum_over_devices(counts)

    def drawable_sequences(self, timesteps: int) -> int:
        """Sequences of one environment that can be drawn after `timesteps` appends, computed on the host."""
        complete = (timesteps - self.settings.span - 1) // self.settings.period + 1 if timesteps > self.settings.span else 0
        gone = max(0, -(-(timesteps - self.capacity_per_env) // self.settings.period))
        return complete - gone
