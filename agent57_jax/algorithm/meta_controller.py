"""The bandit that selects the policy of an episode, by sliding-window UCB (Agent57 §3.2, §4, App. D)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class BanditState(NamedTuple):
    """The last W episodes of a bandit, which several actors may share."""

    arms: jax.Array  # [W] int32
    returns: jax.Array  # [W] float32, undiscounted extrinsic returns
    recorded: jax.Array  # scalar int32, episodes recorded since the start
    started: jax.Array  # scalar int32, episodes started since the start


class PooledArms(NamedTuple):
    """Statistics over the windows of several bandits."""

    counts: jax.Array  # [N] float32, episodes of each arm
    means: jax.Array  # [N] float32, mean returns; 0 where the count is 0
    deviation: jax.Array  # scalar float32, standard deviation of all returns of all arms


def init_bandit(window: int) -> BanditState:
    """A new bandit; `window` is W, in episodes."""
    return BanditState(jnp.zeros((window,), jnp.int32), jnp.zeros((window,), jnp.float32), jnp.int32(0), jnp.int32(0))


def arm_statistics(bandit: BanditState, num_arms: int) -> tuple[jax.Array, jax.Array]:
    """Counts [N] float32 and mean returns [N] of the arms in the window; the mean is 0 where the count is 0."""
    held = jnp.arange(bandit.arms.shape[0]) < bandit.recorded
    pulls = jnp.where(held[:, None], jax.nn.one_hot(bandit.arms, num_arms), 0.0)
    counts = jnp.sum(pulls, axis=0)
    totals = jnp.sum(pulls * bandit.returns[:, None], axis=0)
    return counts, totals / jnp.maximum(counts, 1.0)


def greedy_arm(bandit: BanditState, num_arms: int) -> jax.Array:
    """The arm with the largest mean return in the window, scalar int32; arm 0 if it is empty."""
    counts, means = arm_statistics(bandit, num_arms)
    return jnp.argmax(jnp.where(counts > 0, means, -jnp.inf)).astype(jnp.int32)


def pooled_arm_statistics(bandits: BanditState, num_arms: int) -> PooledArms:
    """Statistics of the episodes in the windows of n bandits: arms and returns [n, W], recorded [n]."""
    held = (jnp.arange(bandits.arms.shape[1])[None] < bandits.recorded[:, None]).reshape(-1)
    returns = jnp.where(held, bandits.returns.reshape(-1), 0.0)
    pulls = jnp.where(held[:, None], jax.nn.one_hot(bandits.arms.reshape(-1), num_arms), 0.0)
    counts = jnp.sum(pulls, axis=0)
    totals = jnp.sum(pulls * returns[:, None], axis=0)
    number = jnp.maximum(jnp.sum(counts), 1.0)
    # Differences from the mean: with large squares a small deviation would be lost to rounding.
    squares = jnp.where(held, jnp.square(returns - jnp.sum(totals) / number), 0.0)
    return PooledArms(counts, totals / jnp.maximum(counts, 1.0), jnp.sqrt(jnp.sum(squares) / number))


def reliable_arm(arms: PooledArms) -> jax.Array:
    """argmax_a mean_a - deviation sqrt(1 / count_a), scalar int32: a lucky episode does not beat the mean of many. Arm 0 without pulls."""
    bound = arms.means - arms.deviation * jnp.sqrt(1.0 / jnp.maximum(arms.counts, 1.0))
    return jnp.argmax(jnp.where(arms.counts > 0, bound, -jnp.inf)).astype(jnp.int32)


def select_arms(
    key: jax.Array,
    bandit: BanditState,
    starting: jax.Array,
    first_arm: jax.Array,
    num_arms: int,
    exploration: float,
    ucb_bonus: float = 1.0,
) -> tuple[jax.Array, BanditState]:
    """Selects an arm for every actor of this bandit that starts an episode.

    The k-th episode plays arm (first_arm + k) mod N while k < N. Later ones are uniform with probability `exploration`, and else play
    argmax_a mean_a + ucb_bonus sqrt(1 / count_a), which is infinite for an arm without a pull in the window.

    Different `first_arm` let a fleet of bandits cover all arms at once. Returns arms [m] int32, valid where `starting` [m] of the m actors
    that share the bandit, and the bandit after these starts.
    """
    counts, means = arm_statistics(bandit, num_arms)
    bound = jnp.where(counts > 0, means + ucb_bonus * jnp.sqrt(1.0 / jnp.maximum(counts, 1.0)), jnp.inf)
    best = jnp.argmax(bound).astype(jnp.int32)
    key_uniform, key_arm = jax.random.split(key)
    uniform = jax.random.uniform(key_uniform, starting.shape) < exploration
    arms = jnp.where(uniform, jax.random.randint(key_arm, starting.shape, 0, num_arms), best)
    episode = bandit.started + jnp.cumsum(starting.astype(jnp.int32)) - 1
    arms = jnp.where(episode < num_arms, (first_arm + episode) % num_arms, arms)
    return arms, bandit._replace(started=bandit.started + jnp.sum(starting.astype(jnp.int32)))


def record_returns(bandit: BanditState, finished: jax.Array, arms: jax.Array, returns: jax.Array) -> BanditState:
    """Adds the episodes of m <= W actors to the window where `finished` [m]; the oldest drop out. Arms and returns are [m]."""
    window = bandit.arms.shape[0]
    if finished.shape[0] > window:
        raise ValueError(f"{finished.shape[0]} actors share a bandit with a window of {window} episodes; they must not be more")
    position = bandit.recorded + jnp.cumsum(finished.astype(jnp.int32)) - 1
    # Others write out of range, which is dropped.
    slot = jnp.where(finished, position % window, window)
    return bandit._replace(
        arms=bandit.arms.at[slot].set(arms, mode="drop"),
        returns=bandit.returns.at[slot].set(returns, mode="drop"),
        recorded=bandit.recorded + jnp.sum(finished.astype(jnp.int32)),
    )
