"""Learners of a few units, each with its float64 reference, for test_learner.py.

Each variant costs its compilation, so settings that do not touch each other share one.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from agent57_jax import parallel
from agent57_jax.agent import learner, programs
from agent57_jax.agent.learner import LearnerState, UpdateOutput
from agent57_jax.config import (
    Bootstrap,
    Combination,
    Embedding,
    IntrinsicReward,
    NormalisedErrors,
    RewardInputs,
    Settings,
    Targets,
    Transform,
)
from agent57_jax.types import FIRST, LAST, MID, Batch, EnvironmentSpec, Experience, RecurrentState, SequenceId
from tests import tiny
from tests.oracles import learner as oracle

B, T, A, N = 8, 6, 3, 3
BURN_IN = 4
SPEC = EnvironmentSpec((3,), np.dtype("float32"), A, ("a", "b", "c"), 1)
ALL, ROWS = parallel.REPLICATED, parallel.BY_ENVIRONMENT

VARIANTS: dict[str, dict[str, Any]] = {
    "agent57": {},
    "one network": {"policy.separate_networks": False, "learner.transform": Transform.IDENTITY, "learner.weight_decay": 0.3},
    "r2d2": {
        "novelty.reward": IntrinsicReward.NONE,
        "policy.separate_networks": False,
        "policy.beta_max": 0.0,
        "learner.targets": Targets.N_STEP,
        "learner.n_step": 3,
        "replay.burn_in": BURN_IN,
        "replay.is_exponent": 0.6,
    },
    "small budget": {
        "network.shared_torso": True,
        "network.reward_inputs": RewardInputs.LOGARITHMIC,
        "novelty.ends_with_episode": False,
        "learner.normalise_errors": NormalisedErrors.EVERYWHERE,
        "learner.intrinsic_loss_weight": 0.25,
        "learner.average_decay": 0.6,
        "learner.targets": Targets.SOFT_WATKINS,
        "learner.trace_tolerance": 0.2,
    },
    "trust region": {
        "learner.bootstrap": Bootstrap.ONLINE,
        "learner.trust_region": 0.5,
        "learner.normalise_errors": NormalisedErrors.PRIORITIES,
        "learner.targets": Targets.N_STEP,
        "learner.n_step": 2,
        "learner.target_rate": 0.25,
        "policy.combination": Combination.SQUASHED,
        "novelty.embedding": Embedding.RANDOM,
    },
    "meme": {
        "network.policy_heads": True,
        "learner.combined_loss": True,
        "learner.bootstrap": Bootstrap.ONLINE,
        "learner.trust_region": 0.5,
        "learner.normalise_errors": NormalisedErrors.EVERYWHERE,
        "learner.targets": Targets.SOFT_WATKINS,
        "learner.trace_tolerance": 0.2,
        "learner.cross_mixture": 0.4,
        "learner.distil_policy": True,
        "learner.policy_epsilon": 0.1,
        "learner.policy_temperature": 0.5,
        "learner.policy_kl_limit": 0.3,
    },
    "heads per policy": {"network.policy_heads": True, "replay.burn_in": BURN_IN},
    "distillation alone": {
        "novelty.reward": IntrinsicReward.LIFELONG,
        "policy.separate_networks": False,
        "learner.distil_policy": True,
        "learner.policy_kl_limit": 0.3,
    },
}


def make_settings(changes: dict[str, Any]) -> Settings:
    settings = tiny.vector_settings()
    settings.novelty.train_timesteps = 4
    settings.policy.num_policies = N
    settings.policy.gamma_0, settings.policy.gamma_1, settings.policy.gamma_2 = 0.95, 0.7, 0.4  # far apart, so that a wrong j shows
    settings.replay.trace, settings.replay.period, settings.replay.min_sequences, settings.replay.eta = T, 3, 8, 0.7
    settings.learner.batch_size = B
    settings.learner.target_epsilon = 0.1
    settings.learner.target_period_updates = 3
    settings.learner.embedding_l2 = 0.01
    settings.learner.adam_epsilon = 0.1  # of the size of the gradients: a step then shows how they were clipped
    settings.learner.learning_rate, settings.learner.novelty_learning_rate = 0.01, 0.03
    settings.learner.adam_b2 = 0.9
    return tiny.finalised(settings, changes)


def make_experience(burn_in: int, has_intrinsic_reward: bool) -> Experience:
    """Streams with every kind of border; j is constant in an episode and changes at its FIRST. Times count from behind the burn-in.

    What must not matter is huge or not finite: rewards and discounts at FIRST, probabilities at LAST, both in the burn-in. The learner
    and its reference can only agree if neither hears of it.
    """
    rng = np.random.default_rng(0)
    shape = (B, burn_in + T + 1)
    step_type = np.full(shape, MID, np.int32)
    discount = np.ones(shape, np.float32)

    def end(b: int, t: int, d: float) -> None:
        step_type[b, burn_in + t], discount[b, burn_in + t] = LAST, d
        if t < T:
            step_type[b, burn_in + t + 1] = FIRST

    end(1, 3, 0.0)  # terminated
    end(2, 3, 1.0)  # truncated
    step_type[3, burn_in + 3] = FIRST  # cut: an interrupted run goes on with new episodes
    end(4, 1, 0.0)
    end(4, 3, 1.0)  # an episode of one step
    end(5, T, 0.0)  # the sequence ends with an episode
    end(6, T - 1, 1.0)  # the last transition is a border
    step_type[7, burn_in] = FIRST  # what is learnt from begins with an episode
    if burn_in:
        step_type[5, 0] = FIRST  # the burn-in begins with one
        end(1, -3, 0.0)  # inside it
        end(6, -1, 1.0)  # at its end: the first timestep behind it is FIRST
    first = step_type == FIRST
    unheard = np.where(np.arange(B) % 2, np.nan, 1e30)[:, None]
    unused = np.arange(shape[1]) < burn_in
    policy = np.array(rng.integers(0, N, B))[:, None] + np.cumsum(first, axis=1)
    observation, action = rng.normal(size=(*shape, 3)), rng.integers(0, A, shape)
    extrinsic, intrinsic = rng.normal(0.0, 3.0, shape), rng.uniform(0.0, 3.0, shape)
    leaves = np.roll(first, -1, axis=1)
    return Experience(
        observation=observation.astype(np.float32),
        action=action.astype(np.int32),
        extrinsic_reward=np.where(first, unheard, extrinsic).astype(np.float32),
        intrinsic_reward=np.where(first, unheard, intrinsic).astype(np.float32) if has_intrinsic_reward else None,
        behaviour_probability=np.where(leaves | unused, np.nan, rng.uniform(0.1, 1.0, shape)).astype(np.float32),
        discount=np.where(first | unused, unheard, discount).astype(np.float32),
        step_type=step_type,
        policy=(policy % N).astype(np.int32),
    )


def make_batch(settings: Settings) -> Batch:
    """The state before an episode must not matter either."""
    rng = np.random.default_rng(1)
    x = make_experience(settings.replay.burn_in, settings.novelty.reward is not IntrinsicReward.NONE)
    hidden, cell = rng.normal(0.0, 0.5, (2, B, settings.num_networks, settings.network.lstm_size)).astype(np.float32)
    starts = x.step_type[:, 0] == FIRST
    hidden[starts], cell[starts] = np.nan, 1e30
    return Batch(
        experience=x,
        recurrent_state=RecurrentState(hidden, cell, rng.integers(0, A, B).astype(np.int32)),
        importance_weight=rng.uniform(0.2, 1.0, B).astype(np.float32),
        sequence=SequenceId(*np.zeros((3, B), np.int32)),
    )


def make_state(initial: LearnerState) -> LearnerState:
    """Random parameters everywhere, and optimisers that have seen nothing."""
    rng = np.random.default_rng(2)
    parameters, target, fixed = tiny.random_like((initial.parameters, initial.target_q, initial.random_target), rng, 0.6)
    for q in (parameters.q, target):
        for layer in ("Dense_0", "Dense_2"):  # values of several units of return, where the transforms bend
            q["heads"][layer]["kernel"] *= np.float32(5)
    embedding = tiny.random_like(initial.acting_embedding, rng, 0.6)
    optimiser, updates = tiny.zeros_like((initial.optimiser, initial.updates))
    average = tiny.random_like(initial.average_q, rng, 0.6)
    variance = initial.error_variance
    if variance is not None:  # of some policies larger than that of the batch
        variance = rng.uniform(0.0, 4.0, variance.shape).astype(np.float32)
    return LearnerState(parameters, optimiser, target, fixed, embedding, average, variance, updates)


class Probe(NamedTuple):
    """What one update does, and the gradients it does it with."""

    gradients: learner.Trainable
    fixed_gradients: Any  # of the same loss, with respect to the two networks that it is not to train
    output: UpdateOutput


class Wanted(NamedTuple):
    """What the reference makes of a batch: rows are sequences, or all pairs of a policy and a sequence."""

    trace: Batch  # behind the burn-in, with the state to which the online networks have brought themselves there
    rows: Batch  # that has a loss
    online: np.ndarray  # values with a loss [L, rows, T + 1, A]
    target: np.ndarray  # those of the target networks, which have states of their own
    logits: np.ndarray | None  # of a distilled policy [rows, T + 1, A]
    old_logits: np.ndarray | None  # of the target networks
    targets: np.ndarray  # [L, rows, T]
    held: np.ndarray  # what the trust region keeps from being learnt from [L, rows, T]


class Case:
    """A learner, a state, a batch, and the update on one device."""

    def __init__(self, variant: str) -> None:
        self.settings = make_settings(VARIANTS[variant])
        self.learner = programs.build(self.settings, SPEC).learner
        self.batch = make_batch(self.settings)
        self.state = make_state(jax.eval_shape(self.learner.init, jax.random.key(0)))
        family, acted = self.learner.family, self.batch.experience.policy[:, self.settings.replay.burn_in :]
        self.twin = oracle.LearnerTwin(self.settings, family.betas, family.gammas, self.state.error_variance, acted)
        self.probe = self.make_probe(1)

    def make_probe(self, num_devices: int) -> Any:
        """Learner state and batch to a `Probe`, with the batch split over devices."""

        def probe(state: LearnerState, batch: Batch) -> Probe:
            def loss(fixed: Any) -> Any:
                return self.learner.loss(state.parameters, state._replace(target_q=fixed[0], random_target=fixed[1]), batch)[0]

            total, sums = parallel.sum_over_devices, []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(parallel, "sum_over_devices", lambda tree: sums.append(total(tree)) or sums[-1])
                output = self.learner.update(state, batch)
            gradients, _ = sums[-1]  # what an update sums last
            return Probe(gradients, jax.grad(loss)((state.target_q, state.random_target)), output)

        out = Probe(ALL, ALL, UpdateOutput(ALL, ROWS, ALL))
        program = parallel.sharded(probe, parallel.make_mesh(num_devices), (ALL, ROWS), out)
        return lambda state, batch: jax.device_get(program(state, batch))

    def outputs(self, q: oracle.Tree, trace: Batch) -> tuple[np.ndarray, np.ndarray | None]:
        """Values and logits, as in `Wanted`, of networks q along a trace."""
        is_logarithmic = self.settings.network.reward_inputs is RewardInputs.LOGARITHMIC
        found = oracle.unrolled(oracle.to_float64(q), trace.recurrent_state, trace.experience, N, is_logarithmic)[0]
        return self.twin.prepared(found, self.twin.rows(trace).experience)

    @functools.cached_property
    def wanted(self) -> Wanted:
        """What the reference makes of the batch."""
        q, target_q = self.state.parameters.q, self.state.target_q
        trace, of_target = (
            oracle.behind_burn_in(oracle.to_float64(it), self.batch, self.settings.replay.burn_in, N) for it in (q, target_q)
        )
        rows = self.twin.rows(trace)
        (online, logits), (target, old) = self.outputs(q, trace), self.outputs(target_q, of_target)
        targets = self.twin.targets(online, target, rows.experience, logits)
        held = self.twin.held(online, target, targets, rows.experience)
        return Wanted(trace, rows, online, target, logits, old, targets, held)

    def parts(self, tree: learner.Trainable) -> dict[str, oracle.Tree]:
        """What has an optimiser and a gradient norm of its own, by its name in metrics."""
        separate = [(path, leaf) for path, leaf in oracle.leaves(tree.q) if not path.startswith("torso/")]
        networks = {name: {path: leaf[w] for path, leaf in separate} for w, name in enumerate(self.learner.network_names)}
        others = {"torso": tree.q.get("torso"), "embedding": tree.embedding, "distillation": tree.predictor}
        return networks | {name: part for name, part in others.items() if part is not None}


@functools.cache
def case(variant: str) -> Case:
    return Case(variant)


@functools.cache
def probed(variant: str) -> Probe:
    """The update with the unchanged batch."""
    one = case(variant)
    result: Probe = one.probe(one.state, one.batch)
    return result


def change(batch: Batch, field: str, at: Any, value: Any) -> Batch:
    """A batch with other content at some timesteps."""
    array = getattr(batch.experience, field).copy()
    array[at] = value
    return batch._replace(experience=batch.experience._replace(**{field: array}))


def differs(found: Any, expected: Any) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))


def assert_gradient(found: Any, loss: Callable[[oracle.Tree], float], parameters: oracle.Tree) -> None:
    """The slope of a loss along random directions of each leaf, by central differences, is that of the gradient that was found."""
    rng, step = np.random.default_rng(3), 1e-6
    for (name, gradient), (other, leaf) in zip(oracle.leaves(found), oracle.leaves(parameters), strict=True):
        assert name == other and np.abs(gradient).max() > 1e-3, f"nothing is tested at {name}"
        for direction in rng.normal(size=(3, *leaf.shape)):
            kept, losses = leaf.copy(), []
            for moved in (kept + step * direction, kept - step * direction):
                leaf[...] = moved
                losses.append(loss(parameters))
            leaf[...] = kept
            slope = (losses[0] - losses[1]) / (2 * step)
            np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=0, atol=5e-5 * np.linalg.norm(gradient), err_msg=name)
