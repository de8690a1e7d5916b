"""Adam with clipping by the global norm (Kingma & Ba 2014), in place: optax's rule in an order that lets every array be overwritten.

With weight decay it is AdamW (Loshchilov & Hutter 2019).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

Parameters = Any


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """`optax.chain(clip_by_global_norm, adamw)`, with its numbers and, as decay has no state, that of `adam`.

    Optax computes step and moments side by side from the old moments. XLA then keeps copies of them, and of the parameters, until both
    are done: on a CPU that took three times as long as the arithmetic.
    """

    learning_rate: float
    b1: float
    b2: float
    epsilon: float
    max_norm: float
    weight_decay: float = 0.0  # of every parameter, times the learning rate; 0: Adam

    @property
    def _clip(self) -> optax.GradientTransformation:
        return optax.clip_by_global_norm(self.max_norm)

    def init(self, parameters: Parameters) -> optax.OptState:
        """The state before the first step."""
        return optax.chain(self._clip, optax.adam(self.learning_rate, self.b1, self.b2, eps=self.epsilon)).init(parameters)

    def step(
        self, gradients: Parameters, state: optax.OptState, parameters: Parameters, finite: jax.Array, factor: jax.Array | float = 1.0
    ) -> tuple[Parameters, optax.OptState]:
        """One step.

        Args:
          gradients, parameters: trees of one form, float32.
          state: from `init` or an earlier step.
          finite: scalar bool; where it is False everything stays as it was.
          factor: scalar, of the learning rate at this step.

        Returns:
          Parameters and state after the step.
        """
        clip, (adam, rest) = state
        gradients, clip = self._clip.update(gradients, clip)

        def if_finite(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)

        count = if_finite(optax.safe_increment(adam.count), adam.count)
        mu = if_finite(optax.tree.update_moment(gradients, adam.mu, self.b1, 1), adam.mu)
        nu = if_finite(optax.tree.update_moment_per_elem_norm(gradients, adam.nu, self.b2, 2), adam.nu)
        # Finished before they are read: else XLA computes them a second time for the step, from the old ones.
        mu, nu = jax.lax.optimization_barrier((mu, nu))
        mean, square = optax.tree.bias_correction(mu, self.b1, count), optax.tree.bias_correction(nu, self.b2, count)
        rate = self.learning_rate * factor
        step = jax.tree.map(lambda m, v: -rate * (m / (jnp.sqrt(v) + self.epsilon)), mean, square)
        if self.weight_decay:
            step = jax.tree.map(lambda change, old: change - rate * self.weight_decay * old, step, parameters)
        parameters = jax.lax.optimization_barrier(if_finite(optax.apply_updates(parameters, step), parameters))
        return parameters, (clip, (adam._replace(count=count, mu=mu, nu=nu), rest))
