"""Life-long novelty: running moments of the distillation error, and the factor alpha (NGU §2, Alg. 1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class RunningMoments(NamedTuple):
    """Mean and deviation of a stream, merged batch by batch (Chan et al. 1979), so that the variance cannot become negative."""

    weight: jax.Array  # scalar float32, effective number of values
    mean: jax.Array  # scalar float32
    squares: jax.Array  # scalar float32, sum of squared deviations from the mean


def init_moments() -> RunningMoments:
    """Moments of an empty stream."""
    return RunningMoments(jnp.float32(0), jnp.float32(0), jnp.float32(0))


def update_moments(moments: RunningMoments, values: jax.Array, weights: jax.Array, horizon: float) -> RunningMoments:
    """Merges values of any shape into the moments; those of weight 0 instead of 1 are ignored, even if NaN.

    Beyond `horizon` values old ones fade, so that float32 sums stay accurate and follow a drifting stream.
    """
    values = jnp.where(weights > 0, values, 0.0)
    batch_count = jnp.sum(weights)
    batch_mean = jnp.sum(values * weights) / jnp.maximum(batch_count, 1.0)
    batch_squares = jnp.sum(weights * jnp.square(values - batch_mean))
    total = moments.weight + batch_count
    share = batch_count / jnp.maximum(total, 1.0)
    difference = batch_mean - moments.mean
    mean = moments.mean + share * difference
    squares = moments.squares + batch_squares + jnp.square(difference) * moments.weight * share
    shrink = jnp.minimum(1.0, horizon / jnp.maximum(total, 1.0))
    return RunningMoments(total * shrink, mean, squares * shrink)


def standard_deviation(moments: RunningMoments) -> jax.Array:
    """Population standard deviation, 0 for an empty stream."""
    return jnp.sqrt(moments.squares / jnp.maximum(moments.weight, 1.0))


def lifelong_factor(error: jax.Array, moments: RunningMoments) -> jax.Array:
    """alpha = 1 + (err - mu_err) / sigma_err of errors [...], before clipping (NGU Eq. 4 ff.); 1 while the stream has no spread."""
    return 1.0 + _in_deviations(error - moments.mean, moments)


def distillation_reward(error: jax.Array, moments: RunningMoments) -> jax.Array:
    """r^i = err / sigma_err of errors [...], the reward of random network distillation alone; 0 while the stream has no spread.

    NGU §4.1 compares with it. Choice: Burda et al. 2018 divide by the deviation of the intrinsic return.
    """
    return _in_deviations(error, moments)


def _in_deviations(x: jax.Array, moments: RunningMoments) -> jax.Array:
    deviation = standard_deviation(moments)
    # Relative to the mean: the spread of a constant stream is rounding noise.
    spread = deviation > 1e-5 * jnp.abs(moments.mean)
    return jnp.where(spread, x / jnp.where(spread, deviation, 1.0), 0.0)
