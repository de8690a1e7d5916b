"""Records that pass between the parts of the system, and the legend of their axes.

Axes, used in every comment and docstring of the project:

    G  groups of host environments          N  policies of the family (arms of the bandit)
    E  environments (of one group)          K  nearest neighbours
    B  sequences in a batch                 M  slots of one episodic memory
    T  transitions in a sequence            D  size of an embedding
    A  actions                              V  value functions (extrinsic, intrinsic)
    C  slots of the replay per environment  S  sequences of the replay per environment (C / period)
    W  recurrent networks (V, or one)       L  values with a loss (V, or one: the combined)

Arrays are stored batch-first; only losses turn them time-major. A *timestep* is one observation with what came with it, a *step* is
an agent step (one timestep that is not FIRST), a *frame* is an emulator frame (four per step on Atari), an *update* is one learner
step.
"""

from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = Any  # jax.Array on the device, np.ndarray where environments step on the host

FIRST = 0  # first timestep of an episode: no action led here, its reward and discount carry no information
MID = 1
LAST = 2  # last timestep of an episode: discount 0 when terminated, 1 when truncated; its action is ignored


class EnvironmentSpec(NamedTuple):
    """What networks and replay must know about an environment."""

    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype
    num_actions: int
    action_names: tuple[str, ...]
    frames_per_step: int  # emulator frames in one agent step
    extras: tuple[str, ...] = ()  # names of the further numbers that it reports about its episodes
    steps_per_second: float = 10.0  # agent steps in a second as a person is to see them


class TimeStep(NamedTuple):
    """What a batch of environments shows the actor. NumPy from host environments, JAX arrays from JAX environments."""

    observation: Array  # [E, *observation_shape], uint8 for images, float32 for vectors
    reward: Array  # [E] float32, raw extrinsic reward that came with the observation; 0 at FIRST
    discount: Array  # [E] float32, 0 if the environment terminated here, else 1 (a truncation keeps 1)
    step_type: Array  # [E] int32, FIRST, MID or LAST
    episode_return: Array  # [E] float32, undiscounted sum of raw rewards of this episode so far, this timestep included
    episode_length: Array  # [E] int32, agent steps of this episode so far; 0 at FIRST
    extras: dict[str, Array]  # [E] float32 each, further numbers about the episode so far, by the names in the spec


class Experience(NamedTuple):
    """One timestep as the replay stores it, with the action that the actor chose there."""

    observation: jax.Array  # [E, *observation_shape]
    action: jax.Array  # [E] int32, a_t
    extrinsic_reward: jax.Array  # [E] float32, r^e_t, came with the observation
    intrinsic_reward: jax.Array | None  # [E] float32, r^i_t, for having reached the observation; None for an agent without
    behaviour_probability: jax.Array  # [E] float32, mu(a_t | x_t)
    discount: jax.Array  # [E] float32, d_t
    step_type: jax.Array  # [E] int32
    policy: jax.Array  # [E] int32, j, the policy of the family that acts in this episode


class RecurrentState(NamedTuple):
    """What the Q-networks carry from one timestep to the next."""

    hidden: jax.Array  # [E, W, lstm_size] float32
    cell: jax.Array  # [E, W, lstm_size] float32
    previous_action: jax.Array  # [E] int32, a_{t-1}


class ActingParameters(NamedTuple):
    """What the actor needs of the learner."""

    q: Any  # parameters of the Q-networks, leading axis W
    embedding: Any  # the part "embedding" of the embedding network; None where no episodic novelty is computed
    predictor: Any  # distillation: the network that learns; None where no life-long novelty is computed
    random_target: Any  # distillation: the network that is fixed; None likewise
    error_variance: jax.Array | None = None  # [L, N] running variance of the learner's TD errors; None where they are not normalised


class SequenceId(NamedTuple):
    """Names a stored sequence so that a priority finds it again, or finds that it is gone."""

    group: jax.Array  # [B] int32
    environment: jax.Array  # [B] int32, row within the device's shard of the group
    number: jax.Array  # [B] int32, the sequence starts at timestep `number * period` of its environment


class Batch(NamedTuple):
    """Sequences for one update: T transitions need T + 1 timesteps; those of the burn-in come before them."""

    experience: Experience  # every field [B, burn-in + T + 1, ...]
    recurrent_state: RecurrentState  # every field [B, ...]; the state with which the actor entered the first timestep
    importance_weight: jax.Array  # [B] float32, in (0, 1]
    sequence: SequenceId  # every field [B]


class RunError(RuntimeError):
    """A run cannot be begun, go on or be played; the message is one line that says what to do. Its kinds are named where they arise."""


class HostEnvironmentError(RunError):
    """An environment outside JAX cannot go on; the message is one line that says why."""


class HostEnvironment(Protocol):
    """A batch of environments that steps outside JAX. After LAST the next step ignores the action and yields FIRST."""

    spec: EnvironmentSpec
    num_envs: int

    def reset(self) -> None:
        """Starts an episode in every environment; `recv` then returns FIRST everywhere."""

    def send(self, actions: np.ndarray) -> None:
        """Starts a step with actions [E] int32 and returns at once."""

    def recv(self) -> TimeStep:
        """Waits for the step and returns its NumPy timestep [E]; the arrays are never written again.

        Raises:
          HostEnvironmentError: when an environment failed.
        """

    def close(self) -> None:
        """Ends emulator threads and processes."""


class JaxEnvironment(Protocol):
    """One environment as pure functions; callers vmap. Same FIRST/LAST rule as host environments."""

    spec: EnvironmentSpec

    def init(self, key: jax.Array) -> tuple[Any, TimeStep]:
        """Returns the state at the start of an episode and its FIRST timestep (scalar fields)."""

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
        """Returns the next state and timestep; after a LAST timestep the action is ignored and a new episode starts."""
