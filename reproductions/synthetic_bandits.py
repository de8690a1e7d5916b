"""The project's own bandit before arms with Gaussian returns, the best of which changes: how soon its pulls follow, and what they cost."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax.algorithm import meta_controller
from agent57_jax.types import Array
from reproductions import common
from reproductions.common import thinned

GAP, DEVIATION = 4.0, 1.0  # of the synthetic returns: the best arm's mean above the others', and everyone's standard deviation
GAPS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
NOISES = (0.25, 0.5, 1.0)  # standard deviation over gap
MAX_POINTS = 200  # of a curve


@dataclasses.dataclass(frozen=True)
class Bandit:
    """A bandit, and how long and how often it is observed."""

    num_arms: int
    window: int
    exploration: float
    phase_episodes: int  # between two changes of the best arm
    phases: int
    seeds: int
    expected_share: float  # of the non-exploring pulls between one and two windows after a change, on the best arm: at least this
    has_control: bool  # whether one without a window is observed too


def bandits(seeds: int, windows: int, phases: int) -> dict[str, Bandit]:
    """The three bandits of the papers, with phases of so many windows; the evaluator, whose window is long, sees shorter ones."""
    return {
        "actors, N = 32": Bandit(32, 160, 0.5, 160 * windows, phases, seeds, 0.85, has_control=True),
        "actors, N = 8": Bandit(8, 160, 0.5, 160 * windows, phases, seeds, 0.95, has_control=True),
        "evaluator, N = 32": Bandit(32, 3600, 0.01, 3600 * min(windows, 3), min(phases, 3), -(-seeds // 4), 0.95, has_control=False),
    }


BANDITS = {"smoke": bandits(2, 2, 2), "cpu": bandits(32, 5, 6), "gpu": bandits(128, 5, 6)}


class Pulls(NamedTuple):
    """What a bandit did in each of its episodes. Every field [T], with seeds [S, T]."""

    arm: Array  # that it played
    choice: Array  # that it would have played without exploring
    greedy: Array  # with the largest mean


@functools.partial(jax.jit, static_argnames=("num_arms", "window", "exploration", "phase_episodes"))
@functools.partial(jax.vmap, in_axes=(0, 0, None, None, None, None, None, None))
def play(
    key: jax.Array,
    best: jax.Array,
    gap: jax.Array,
    deviation: jax.Array,
    num_arms: int,
    window: int,
    exploration: float,
    phase_episodes: int,
) -> Pulls:
    """Plays one episode after the other, for all seeds.

    Args:
      key: [S].
      best: [S, phases] int32, the best arm of each phase.
      gap: mean return of the best arm; that of the others is 0.
      deviation: standard deviation of all returns.
    """
    one = jnp.ones((1,), bool)

    def episode(bandit: meta_controller.BanditState, t: jax.Array) -> tuple[meta_controller.BanditState, Pulls]:
        key_arm, key_return = jax.random.split(jax.random.fold_in(key, t))
        select = functools.partial(meta_controller.select_arms, key_arm, bandit, one, jnp.int32(0), num_arms)
        choice, _ = select(0.0)
        greedy = meta_controller.greedy_arm(bandit, num_arms)
        arm, bandit = select(exploration)
        returns = gap * (arm == best[t // phase_episodes]) + deviation * jax.random.normal(key_return, (1,))
        return meta_controller.record_returns(bandit, one, arm, returns), Pulls(arm[0], choice[0], greedy)

    return jax.lax.scan(episode, meta_controller.init_bandit(window), jnp.arange(best.size * phase_episodes))[1]


def best_arms(seeds: int, phases: int, num_arms: int) -> np.ndarray:
    """The best arm of each phase, another one in each. [S, phases] int32."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(num_arms)[:phases] for _ in range(seeds)]).astype(np.int32)


def observe(bandit: Bandit, window: int, gap: float = GAP, deviation: float = DEVIATION) -> Pulls:
    """The bandit's pulls with a window of this length, of all its seeds."""
    best = best_arms(bandit.seeds, bandit.phases, bandit.num_arms)
    keys = jax.random.split(jax.random.key(0), bandit.seeds)
    pulls = play(keys, best, gap, deviation, bandit.num_arms, window, bandit.exploration, bandit.phase_episodes)
    return Pulls(*jax.device_get(pulls))


def measure_bandits(sizes: Mapping[str, Bandit]) -> dict[str, Any]:
    """Simulates all bandits and the effect of the returns' scale."""
    measured: dict[str, Any] = {"bandits": {}}
    for name, bandit in sizes.items():
        best = best_arms(bandit.seeds, bandit.phases, bandit.num_arms)
        control = observe(bandit, bandit.phases * bandit.phase_episodes) if bandit.has_control else None
        measured["bandits"][name] = bandit_numbers(bandit, best, observe(bandit, bandit.window), control)
    bandit = next(iter(sizes.values()))
    best = best_arms(bandit.seeds, bandit.phases, bandit.num_arms)
    measured["scale"] = [
        {"gap": gap, "noise": noise, "share": settled_share(bandit, best, observe(bandit, bandit.window, gap, noise * gap).choice)}
        for noise in NOISES
        for gap in GAPS
    ]
    return measured


def on_best(bandit: Bandit, best: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """Which of the arms [S, T] are the best ones of their phases [S, phases]. [S, phases, phase_episodes] bool."""
    return arms.reshape(*best.shape, bandit.phase_episodes) == best[:, :, None]


def settled_share(bandit: Bandit, best: np.ndarray, arms: np.ndarray) -> float:
    """Share of the arms that are best, between one and two windows after a change, or to the phase's end if that comes first."""
    return float(np.mean(on_best(bandit, best, arms)[:, 1:, bandit.window : 2 * bandit.window]))


def bandit_numbers(bandit: Bandit, best: np.ndarray, pulls: Pulls, control: Pulls | None) -> dict[str, Any]:
    """What is told of a bandit, from its pulls and from those of the one without a window. Returns are expected ones, without noise."""
    episodes = np.arange(bandit.phase_episodes)
    total = 1.0 + np.arange(best.shape[1] * bandit.phase_episodes)
    played = {"bandit": pulls} if control is None else {"bandit": pulls, "without a window": control}

    # Regret of the fixed arm that is best in hindsight at each time: the arm with the most episodes in which it was the best one so far.
    is_best = np.repeat(best[:, :, None] == np.arange(bandit.num_arms), bandit.phase_episodes, axis=1)  # [S, T, N]
    times_best = np.cumsum(is_best, axis=1, dtype=np.int32)
    missed = {name: np.cumsum(~on_best(bandit, best, of.arm).reshape(len(best), -1), axis=1).mean(axis=0) for name, of in played.items()}
    missed["best fixed arm"] = total - times_best.max(axis=2).mean(axis=0)
    missed["uniform"] = total * (1 - 1 / bandit.num_arms)
    numbers: dict[str, Any] = {
        **{key: value for key, value in dataclasses.asdict(bandit).items() if key != "has_control"},
        "regret": {name: points(total, GAP * curve) for name, curve in missed.items()},
        "mean_return": {name: float(GAP * (1 - curve[-1] / total[-1])) for name, curve in missed.items()} | {"best of each phase": GAP},
        "shares": {},
        "settled": {},
        "half_after": {},
    }
    for name, arms in (("choice", pulls.choice), ("greedy", pulls.greedy), *([] if control is None else [("control", control.choice)])):
        share = on_best(bandit, best, arms)[:, 1:].mean(axis=(0, 1))
        numbers["shares"][name] = points(episodes, share)
        numbers["settled"][name] = settled_share(bandit, best, arms)
        half = np.flatnonzero(share >= 0.5)
        numbers["half_after"][name] = int(half[0]) if half.size else None
    return numbers


def points(x: np.ndarray, y: np.ndarray) -> common.Points:
    """A curve for the record."""
    return thinned(list(zip(x.tolist(), y.tolist(), strict=True)), MAX_POINTS)
