"""Turns the sums on the device into the values of one line of metrics."""

import resource
from collections.abc import Mapping, Sequence

import numpy as np

from agent57_jax import parallel
from agent57_jax.agent.actor import ActMetrics
from agent57_jax.agent.novelty import NoveltyMetrics, NoveltyStatistics
from agent57_jax.agent.programs import NONE, PRIORITY_SUM, Parts, UpdateMetrics
from agent57_jax.agent.replay import PRIORITY_EDGES, Replay
from agent57_jax.algorithm.lifelong_novelty import standard_deviation
from agent57_jax.config import EnvironmentKind, Settings
from agent57_jax.environments import atari57
from agent57_jax.monitoring.dashboards import Histogram
from agent57_jax.training.evaluator import Episode
from agent57_jax.training.schedule import Counters

Values = dict[str, float]


def drawable_sequences(store: Replay, appended: Sequence[int], envs_per_group: int) -> int:
    """Number of sequences that can be sampled; `appended`: timesteps per environment of each group."""
    return sum(store.drawable_sequences(timesteps) for timesteps in appended) * envs_per_group


def replay_values(store: Replay, appended: Sequence[int], envs_per_group: int) -> Values:
    """How full the replay is."""
    stored = sum(min(timesteps, store.capacity_per_env) for timesteps in appended) * envs_per_group
    return {
        "replay/timesteps": float(stored),
        "replay/fill": stored / (store.capacity_per_env * envs_per_group * len(appended)),
        "replay/sequences": float(drawable_sequences(store, appended, envs_per_group)),
    }


def speed_values(settings: Settings, counters: Counters, before: tuple[int, int, int], elapsed: float) -> Values:
    """Rates over the `elapsed` seconds since the last line; `before`: its frames, steps and updates."""
    now = zip(("frames", "steps", "updates"), (counters.frames, counters.steps, counters.updates), before, strict=True)
    values = {f"throughput/{name}_per_second": (count - earlier) / elapsed for name, count, earlier in now}
    inserted = (counters.timesteps - (counters.learning_since_timesteps or 0)) / settings.replay.period
    if counters.learning_since_timesteps is not None and inserted > 0:
        sampled = (counters.updates - counters.learning_since_updates) * settings.learner.batch_size
        values["throughput/sequences_sampled_per_insert"] = sampled / inserted
    return values


def not_finite(parts: Parts, acts: ActMetrics, updates: UpdateMetrics, timesteps: int) -> str | None:
    """Names what is not finite in the sums (NumPy) of acts and updates, `timesteps` into the run; None if nothing is."""
    bad = {name: float(acts.clean[name]) for name in parts.actor.checked_names if acts.non_finite[name]}
    if bad:
        # Non-finite values spread: the earliest are closest to the cause.
        first = min(bad.values())
        names = [name for name, since in bad.items() if since == first]
        return f"{', '.join(names)} not finite at timestep {timesteps - int(acts.timesteps) + int(first)} of this run"
    if int(updates.non_finite_update) == NONE:
        return None
    names = [name for name, total in updates.total.items() if not np.isfinite(total)]
    if PRIORITY_SUM in names:
        names = [PRIORITY_SUM]  # causes the others
    return f"update {int(updates.non_finite_update)} was not finite in {', '.join(names)}; the parameters were left as they were"


def act_values(parts: Parts, sums: ActMetrics, statistics: NoveltyStatistics | None) -> Values:
    """Means over timesteps and over episodes, from sums (NumPy); empty where there were none."""
    values: Values = {}
    timesteps, episodes = float(sums.timesteps), float(sums.episodes)
    if timesteps:
        for name, total in zip(parts.learner.value_names, sums.action_value, strict=True):
            values[f"actor/value_{name}"] = float(total) / timesteps
        if sums.novelty is not None and statistics is not None:
            values |= _novelty_values(sums.novelty, statistics, timesteps)
    if episodes:
        values["episode/return"] = float(sums.episode_return) / episodes
        values["episode/length"] = float(sums.episode_length) / episodes
        if sums.novelty is not None:
            values["episode/intrinsic_return"] = float(sums.novelty.episode_intrinsic_return) / episodes
        values |= {f"episode/{name}": float(total) / episodes for name, total in sums.episode_extras.items()}
        values["episode/truncated_share"] = float(sums.truncations) / episodes
        values |= score_values(parts, "episode/hns", values["episode/return"])
        for name, total in zip(parts.spec.action_names, sums.action_ratio, strict=True):
            values[f"action/ratio_{name}"] = float(total) / episodes
        for arm, (pulls, total) in enumerate(zip(sums.arm_pulls, sums.arm_return, strict=True)):
            values[f"arm/pulls_{arm}"] = float(pulls)
            if pulls:
                values[f"arm/return_{arm}"] = float(total) / float(pulls)
    return values


def _novelty_values(sums: NoveltyMetrics, statistics: NoveltyStatistics, timesteps: float) -> Values:
    values = {
        "novelty/intrinsic_reward": float(sums.intrinsic_reward) / timesteps,
        "novelty/alpha": float(sums.alpha) / timesteps,
        "novelty/distillation_error": float(statistics.distillation_error.mean),
        "novelty/distillation_deviation": float(standard_deviation(statistics.distillation_error)),
    }
    if sums.episodic_reward is not None and statistics.squared_distance is not None:
        values["novelty/episodic_reward"] = float(sums.episodic_reward) / timesteps
        values["novelty/mean_squared_distance"] = float(statistics.squared_distance.mean)
    return values


def update_values(sums: UpdateMetrics) -> Values:
    """Means of the learner's metrics (NumPy) over the updates; empty if there were none."""
    updates = float(sums.updates)
    return {name: float(total) / updates for name, total in sums.total.items()} if updates else {}


def evaluation_values(parts: Parts, episodes: Sequence[Episode], greedy_so_far: int) -> Values:
    """Means over the evaluator's finished episodes; the score is the mean return of the greedy ones."""
    values: Values = {}
    greedy = [episode for episode in episodes if episode.is_greedy]
    if greedy:
        values["evaluation/return"] = float(np.mean([episode.episode_return for episode in greedy]))
        values["evaluation/length"] = float(np.mean([episode.length for episode in greedy]))
        values["evaluation/arm"] = float(greedy[-1].policy)
        values |= {f"evaluation/{name}": float(np.mean([episode.extras[name] for episode in greedy])) for name in greedy[0].extras}
        values["evaluation/episodes"] = float(greedy_so_far)
        values |= score_values(parts, "evaluation/hns", values["evaluation/return"])
    others = [episode.episode_return for episode in episodes if not episode.is_greedy]
    if others:
        values["evaluation/bandit_return"] = float(np.mean(others))
    return values


def score_values(parts: Parts, key: str, score: float) -> Values:
    """The human-normalised score under `key`, for the 57 games that have one."""
    environment = parts.settings.environment
    if environment.kind is not EnvironmentKind.ENVPOOL:  # the same name may mean other rules elsewhere
        return {}
    normalised = atari57.human_normalised_score(environment.task_id, score)
    return {} if normalised is None else {key: normalised}


def histograms(priorities: np.ndarray) -> dict[str, Histogram]:
    """Histogram of the replay's counts [K] of priorities. The open outer buckets get the width of the others."""
    step = float(PRIORITY_EDGES[1] / PRIORITY_EDGES[0])
    edges = np.concatenate([[PRIORITY_EDGES[0] / step], PRIORITY_EDGES, [PRIORITY_EDGES[-1] * step]])
    return {"replay/priorities": Histogram(edges, priorities)}


def time_values(elapsed: float, sums: Mapping[str, float]) -> Values:
    """Shares of wall time, from the stopwatch's sums by label; the rest is the host's work."""
    values = {f"throughput/share_{label}": sums.get(label, 0.0) / elapsed for label in ("learning", "acting", "evaluation", "saving")}
    if "environment" in sums:  # else part of acting
        values["throughput/share_environment"] = sums["environment"] / elapsed
    return values | {"throughput/share_host": max(0.0, 1.0 - sum(values.values()))}


def memory_values() -> Values:
    """Memory of this process and its first device, bytes."""
    values = {"memory/host_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}
    device = parallel.device_memory_bytes()
    if device is not None:
        values["memory/device_bytes"], values["memory/device_limit_bytes"] = map(float, device)
    return values
