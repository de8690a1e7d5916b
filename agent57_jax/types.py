"""Records that pass between the parts of the system, and the letters of their axes.

Axes in all comments and docstrings:

    G  groups of host environments          N  policies of the family (arms of the bandit)
    E  environments (of one group)          K  nearest neighbours
    B  sequences in a batch                 M  slots of one episodic memory
    T  transitions in a sequence            D  size of an embedding
    A  actions                              V  value functions (extrinsic, intrinsic)
    C  slots of the replay per environment  S  sequences of the replay per environment (C / period)
    W  recurrent networks (V, or one)       L  values with a loss (V, or one: the combined)

Arrays are batch-first; only losses use time-major ones. A *timestep* is an observation with its reward, discount and step type, a *step* an
agent step (a timestep that is not FIRST), a *frame* an emulator frame (four per step on Atari), an *update* a learner step.
"""

from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = Any  # jax.Array, or np.ndarray from host environments

FIRST = 0  # first timestep of an episode: reward and discount carry no information
MID = 1
LAST = 2  # last timestep of an episode: discount 0 when terminated, 1 when truncated; its action is ignored


class EnvironmentSpec(NamedTuple):
    """The interface of an environment."""

    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype
    num_actions: int
    action_names: tuple[str, ...]
    frames_per_step: int  # emulator frames in one agent step
    extras: tuple[str, ...] = ()  # names of further numbers about its episodes
    steps_per_second: float = 10.0  # agent steps per second at normal speed


class TimeStep(NamedTuple):
    """A timestep of a batch of environments: NumPy arrays from host environments, JAX arrays from JAX environments."""

    observation: Array  # [E, *observation_shape], uint8 for images, float32 for vectors
    reward: Array  # [E] float32, raw extrinsic reward; 0 at FIRST
    discount: Array  # [E] float32, 0 at termination, else 1 (also at truncation)
    step_type: Array  # [E] int32, FIRST, MID or LAST
    episode_return: Array  # [E] float32, undiscounted sum of the episode's raw rewards up to here
    episode_length: Array  # [E] int32, agent steps of this episode so far; 0 at FIRST
    extras: dict[str, Array]  # [E] float32 each, further numbers about the episode so far, named in the spec


class Experience(NamedTuple):
    """A timestep in the replay, with the actor's action."""

    observation: jax.Array  # [E, *observation_shape]
    action: jax.Array  # [E] int32, a_t
    extrinsic_reward: jax.Array  # [E] float32, r^e_t
    intrinsic_reward: jax.Array | None  # [E] float32, r^i_t, for reaching the observation; None without intrinsic reward
    behaviour_probability: jax.Array  # [E] float32, mu(a_t | x_t)
    discount: jax.Array  # [E] float32, d_t
    step_type: jax.Array  # [E] int32
    policy: jax.Array  # [E] int32, j, the policy of this episode


class RecurrentState(NamedTuple):
    """State of the Q-networks between timesteps."""

    hidden: jax.Array  # [E, W, lstm_size] float32
    cell: jax.Array  # [E, W, lstm_size] float32
    previous_action: jax.Array  # [E] int32, a_{t-1}


class ActingParameters(NamedTuple):
    """Parameters for acting."""

    q: Any  # of the Q-networks, leading axis W
    embedding: Any  # of the embedding network, part "embedding"; None without episodic novelty
    predictor: Any  # of the distillation's predictor; None without life-long novelty
    random_target: Any  # of the distillation's fixed network; None without life-long novelty
    error_variance: jax.Array | None = None  # [L, N] running variance of the learner's TD errors; None if they are not normalised


class SequenceId(NamedTuple):
    """Identifies a stored sequence, even after it was overwritten."""

    group: jax.Array  # [B] int32
    environment: jax.Array  # [B] int32, row within the device's shard of the group
    number: jax.Array  # [B] int32, the sequence starts at timestep `number * period` of its environment


class Batch(NamedTuple):
    """Sequences for one update: T transitions, or T + 1 timesteps, after those of the burn-in."""

    experience: Experience  # every field [B, burn-in + T + 1, ...]
    recurrent_state: RecurrentState  # every field [B, ...], before the first timestep
    importance_weight: jax.Array  # [B] float32, in (0, 1]
    sequence: SequenceId  # every field [B]


class RunError(RuntimeError):
    """A run cannot start, continue or be played; the message is one line that says what to do."""


class HostEnvironmentError(RunError):
    """A host environment has failed; the message is one line that says why."""


class HostEnvironment(Protocol):
    """A batch of environments that steps outside JAX. After LAST the next step ignores the action and yields FIRST."""

    spec: EnvironmentSpec
    num_envs: int

    def reset(self) -> None:
        """Starts an episode in every environment; `recv` then returns FIRST everywhere."""

    def send(self, actions: np.ndarray) -> None:
        """Starts a step with actions [E] int32 and returns at once."""

    def recv(self) -> TimeStep:
        """Waits for the step and returns its timestep [E] in new arrays; raises HostEnvironmentError if an environment failed."""

    def close(self) -> None:
        """Ends emulator threads and processes."""


class JaxEnvironment(Protocol):
    """One environment as pure functions, to be vmapped. Same FIRST/LAST rule as host environments."""

    spec: EnvironmentSpec

    def init(self, key: jax.Array) -> tuple[Any, TimeStep]:
        """Returns the state at the start of an episode and its FIRST timestep (scalar fields)."""

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
        """Returns the next state and timestep; after a LAST timestep the action is ignored and a new episode starts."""
