"""Adam (Kingma & Ba 2014) or, with weight decay, AdamW (Loshchilov & Hutter 2019), with clipping by the global norm, in place."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

Parameters = Any


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Computes the numbers of `optax.chain(clip_by_global_norm, adamw)`; decay adds no state.

    Optax computes both the step and the new moments from the old ones, so XLA copies them, which took a CPU three times as long as the
    arithmetic. Here every array can be overwritten.
    """

    learning_rate: float
    b1: float
    b2: float
    epsilon: float
    max_norm: float
    weight_decay: float = 0.0  # multiplied by the learning rate; 0: Adam

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
          gradients, parameters: trees of the same structure, float32.
          state: from `init` or an earlier step.
          finite: scalar bool; if False, nothing changes.
          factor: scalar, multiplies the learning rate.

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
        # Without the barrier XLA computes the moments again for the step, from the old ones.
        mu, nu = jax.lax.optimization_barrier((mu, nu))
        mean, square = optax.tree.bias_correction(mu, self.b1, count), optax.tree.bias_correction(nu, self.b2, count)
        rate = self.learning_rate * factor
        step = jax.tree.map(lambda m, v: -rate * (m / (jnp.sqrt(v) + self.epsilon)), mean, square)
        if self.weight_decay:
            step = jax.tree.map(lambda change, old: change - rate * self.weight_decay * old, step, parameters)
        parameters = jax.lax.optimization_barrier(if_finite(optax.apply_updates(parameters, step), parameters))
        return parameters, (clip, (adam._replace(count=count, mu=mu, nu=nu), rest))
