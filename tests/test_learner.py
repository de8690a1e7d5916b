"""The learner against its float64 twin, against finite differences, and against what must not matter."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from agent57_jax import config, parallel
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
    Torso,
    Transform,
)
from agent57_jax.types import FIRST, LAST, MID, Batch, EnvironmentSpec, Experience, RecurrentState, SequenceId
from tests.oracles import error_scale
from tests.oracles import learner as oracle

B, T, A, N = 8, 6, 3, 3
BURN_IN = 4
TRAIN_TIMESTEPS = 4
SPEC = EnvironmentSpec((3,), np.dtype("float32"), A, ("a", "b", "c"), 1)
ALL, ROWS = parallel.REPLICATED, parallel.BY_ENVIRONMENT

VARIANTS: dict[str, dict[str, Any]] = {
    "agent57": {},
    "squashed mix": {"policy.combination": Combination.SQUASHED},
    "one network": {"policy.separate_networks": False, "learner.transform": Transform.IDENTITY},
    "r2d2": {
        "novelty.reward": IntrinsicReward.NONE,
        "policy.separate_networks": False,
        "policy.beta_max": 0.0,
        "learner.targets": Targets.N_STEP,
        "learner.n_step": 3,
        "replay.burn_in": BURN_IN,
        "replay.is_exponent": 0.6,
    },
    "burn-in": {"replay.burn_in": BURN_IN},
    "n-step, random embedding": {"novelty.embedding": Embedding.RANDOM, "learner.targets": Targets.N_STEP, "learner.n_step": 2},
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
    "distilled policy": {"policy.separate_networks": False, "learner.distil_policy": True},
    "distillation alone": {"novelty.reward": IntrinsicReward.LIFELONG, "policy.separate_networks": False},
}


def make_settings(changes: dict[str, Any]) -> Settings:
    settings = Settings()
    settings.network.torso = Torso.DENSE
    settings.network.dense_features = (4,)
    settings.network.torso_size = settings.network.lstm_size = 4
    settings.network.head_size = 5
    settings.novelty.embedding_size = settings.novelty.distillation_size = 4
    settings.novelty.inverse_hidden_size = 5
    settings.novelty.train_timesteps = TRAIN_TIMESTEPS
    settings.environment.num_envs, settings.environment.num_groups = 8, 1
    settings.policy.num_policies = N
    # Far apart, so that a wrong j shows.
    settings.policy.beta_max, settings.policy.gamma_0, settings.policy.gamma_1, settings.policy.gamma_2 = 0.8, 0.95, 0.7, 0.4
    settings.replay.trace, settings.replay.period, settings.replay.min_sequences, settings.replay.eta = T, 3, 8, 0.7
    settings.learner.batch_size = B
    settings.learner.target_epsilon = 0.1
    settings.learner.target_period_updates = 3
    settings.learner.embedding_l2 = 0.01
    settings.learner.adam_epsilon = 0.1  # of the size of the gradients: a step then shows how they were clipped
    settings.learner.learning_rate, settings.learner.novelty_learning_rate = 0.01, 0.03
    settings.learner.adam_b2 = 0.9
    for path, value in changes.items():
        section, name = path.split(".")
        setattr(getattr(settings, section), name, value)
    return config.finalise(settings)


def make_experience(burn_in: int = 0, has_intrinsic_reward: bool = True) -> Experience:
    """Streams with every kind of border; j is constant in an episode and changes at its FIRST. Times count from behind the burn-in."""
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
    policy = np.array(rng.integers(0, N, B))[:, None] + np.cumsum(step_type == FIRST, axis=1)
    return Experience(
        observation=rng.normal(size=(*shape, 3)).astype(np.float32),
        action=rng.integers(0, A, shape).astype(np.int32),
        extrinsic_reward=rng.normal(0.0, 3.0, shape).astype(np.float32),
        intrinsic_reward=rng.uniform(0.0, 3.0, shape).astype(np.float32) if has_intrinsic_reward else None,
        behaviour_probability=rng.uniform(0.1, 1.0, shape).astype(np.float32),
        discount=discount,
        step_type=step_type,
        policy=(policy % N).astype(np.int32),
    )


def make_batch(settings: Settings) -> Batch:
    rng = np.random.default_rng(1)
    state = rng.normal(0.0, 0.5, (2, B, settings.num_networks, 4)).astype(np.float32)
    return Batch(
        experience=make_experience(settings.replay.burn_in, settings.novelty.reward is not IntrinsicReward.NONE),
        recurrent_state=RecurrentState(state[0], state[1], rng.integers(0, A, B).astype(np.int32)),
        importance_weight=rng.uniform(0.2, 1.0, B).astype(np.float32),
        sequence=SequenceId(*np.zeros((3, B), np.int32)),
    )


class Probe(NamedTuple):
    """What one update does, and the gradients it does it with."""

    gradients: learner.Trainable
    fixed_gradients: Any  # of the same loss, with respect to the two networks that are no part of it
    output: UpdateOutput


class Case:
    """A learner, a state with random parameters everywhere (initial biases are 0), a batch, and the update on one device."""

    def __init__(self, variant: str) -> None:
        self.settings = make_settings(VARIANTS[variant])
        self.learner = programs.build(self.settings, SPEC).learner
        self.burn_in = self.settings.replay.burn_in
        self.batch = make_batch(self.settings)
        state = jax.eval_shape(self.learner.init, jax.random.key(0))
        rng = np.random.default_rng(2)

        def randomise(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: rng.normal(0.0, 0.6, leaf.shape).astype(np.float32), tree)

        parameters, target, fixed = randomise((state.parameters, state.target_q, state.random_target))
        for q in (parameters.q, target):
            for layer in ("Dense_0", "Dense_2"):  # values of several units of return, where the transforms bend
                q["heads"][layer]["kernel"] *= np.float32(5)
        embedding = randomise(state.acting_embedding)
        optimiser, updates = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), (state.optimiser, state.updates))
        average = None if state.average_q is None else randomise(state.average_q)
        variance = state.error_variance
        if variance is not None:  # of some policies larger than that of the batch
            variance = rng.uniform(0.0, 4.0, variance.shape).astype(np.float32)
        self.state = LearnerState(parameters, optimiser, target, fixed, embedding, average, variance, updates)
        self.probe = self.make_probe(1)
        family, s = self.learner.family, self.settings.learner
        self.twin = oracle.LearnerTwin(
            betas=[float(beta) for beta in family.betas],
            gammas=[float(gamma) for gamma in family.gammas],
            n_step=self.settings.learner.n_step if self.settings.learner.targets is Targets.N_STEP else None,
            trace_lambda=self.settings.learner.trace_lambda,
            trace_tolerance=self.settings.learner.trace_tolerance if self.settings.learner.targets is Targets.SOFT_WATKINS else None,
            target_epsilon=self.settings.learner.target_epsilon,
            eta=self.settings.replay.eta,
            squashed_values=self.settings.learner.transform is Transform.SQUASHED,
            squashed_mix=self.settings.policy.combination is Combination.SQUASHED,
            train_timesteps=TRAIN_TIMESTEPS,
            embedding_l2=self.settings.learner.embedding_l2,
            ends_with_episode=self.settings.novelty.ends_with_episode,
            error_variance=None if variance is None else variance.astype(np.float64),
            normalised_loss=self.settings.learner.normalise_errors is NormalisedErrors.EVERYWHERE,
            online_bootstrap=self.settings.learner.bootstrap is Bootstrap.ONLINE,
            trust_region=self.settings.learner.trust_region or None,
            combined_loss=self.settings.learner.combined_loss,
            mixture=s.cross_mixture or None,
            acted=self.batch.experience.policy[:, self.burn_in :] if s.cross_mixture else None,
            distillation=(s.policy_epsilon, s.policy_kl_limit, s.policy_temperature) if s.distil_policy else None,
        )
        self.logarithmic = self.settings.network.reward_inputs is RewardInputs.LOGARITHMIC

    def make_probe(self, num_devices: int) -> Any:
        """Learner state and batch to a `Probe`, with the batch split over devices."""

        def probe(state: LearnerState, batch: Batch) -> Probe:
            def loss(parameters: learner.Trainable, fixed: Any) -> Any:
                return self.learner.loss(parameters, state._replace(target_q=fixed[0], random_target=fixed[1]), batch)[0]

            gradients = jax.grad(loss, argnums=(0, 1))(state.parameters, (state.target_q, state.random_target))
            return Probe(*parallel.sum_over_devices(gradients), self.learner.update(state, batch))

        mesh = Mesh(np.array(jax.devices()[:num_devices]), (parallel.AXIS,))
        program = parallel.sharded(probe, mesh, (ALL, ROWS), Probe(ALL, ALL, UpdateOutput(ALL, ROWS, ALL)))
        return lambda state, batch: jax.device_get(program(state, batch))

    def trace(self, batch: Batch, q: oracle.Tree) -> Batch:
        """What is learnt from: the batch behind its burn-in, with the state to which networks q have brought themselves there."""
        return oracle.behind_burn_in(oracle.to_float64(q), batch, self.burn_in, N)

    def outputs(self, batch: Batch, q: oracle.Tree) -> tuple[np.ndarray, np.ndarray | None]:
        """Values with a loss [L, rows, T + 1, A] of networks q behind the burn-in, and the logits of a policy [rows, T + 1, A]."""
        return self.outputs_of(oracle.to_float64(q), self.trace(batch, q))

    def outputs_of(self, q: oracle.Tree, trace: Batch) -> tuple[np.ndarray, np.ndarray | None]:
        """The same from what is learnt from, `trace`."""
        found = oracle.q_values(q, trace.recurrent_state, trace.experience, N, self.logarithmic)
        return self.twin.prepared(found, self.twin.rows(trace).experience)

    def values(self, batch: Batch, q: oracle.Tree) -> np.ndarray:
        """Values with a loss alone."""
        return self.outputs(batch, q)[0]

    def twin_held(self) -> np.ndarray:
        """What the trust region keeps the twin from learning from."""
        online, targets = self.twin_values()
        x = self.twin.rows(self.trace(self.batch, self.state.parameters.q)).experience
        return self.twin.held(online, self.values(self.batch, self.state.target_q), targets, x)

    def twin_values(self, batch: Batch | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Online values and targets of the twin; the target networks have states of their own."""
        batch = self.batch if batch is None else batch
        (online, logits), target = self.outputs(batch, self.state.parameters.q), self.values(batch, self.state.target_q)
        rows = self.twin.rows(self.trace(batch, self.state.parameters.q))
        return online, self.twin.targets(online, target, rows.experience, logits)


@functools.cache
def case(variant: str) -> Case:
    return Case(variant)


@functools.cache
def probed(variant: str) -> Probe:
    """The unchanged batch's update."""
    one = case(variant)
    result: Probe = one.probe(one.state, one.batch)
    return result


def change(batch: Batch, field: str, at: Any, value: Any) -> Batch:
    """A batch with other content at some timesteps."""
    array = getattr(batch.experience, field).copy()
    array[at] = value
    return batch._replace(experience=batch.experience._replace(**{field: array}))


def assert_equal(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def differs(found: Any, expected: Any) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))


def assert_tree_close(found: Any, expected: Any, rtol: float, atol: float) -> None:
    pairs = zip(oracle.leaves(found), oracle.leaves(expected), strict=True)
    for (name, a), (other, b) in pairs:
        assert name == other
        np.testing.assert_allclose(a, b, rtol, atol, err_msg=name)


# Values -----------------------------------------------------------------------------------------------------------------------------


SLOW = ("squashed mix", "distillation alone", "n-step, random embedding")  # every variant means half a minute of compiling


@pytest.mark.parametrize("variant", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in VARIANTS])
def test_losses_priorities_and_metrics_equal_the_twins(variant: str) -> None:
    one, out = case(variant), probed(variant).output
    online, targets = one.twin_values()
    trace = one.trace(one.batch, one.state.parameters.q)
    batch, logits = one.twin.rows(trace), one.outputs(one.batch, one.state.parameters.q)[1]
    expected = one.twin.metrics(online, one.values(one.batch, one.state.target_q), targets, batch, logits)
    parameters, x = one.state.parameters, trace.experience
    if logits is not None:
        old = one.outputs(one.batch, one.state.target_q)[1]
        combined = np.array([[one.twin.combined(online[:, b, t], 0) for t in range(online.shape[2])] for b in range(online.shape[1])])
        expected["loss/policy"], expected["learner/distilled_share"] = one.twin.policy_loss(logits, old, combined, batch)
        assert 0 < expected["learner/distilled_share"] < 1
    embedding, predictor, fixed = (
        oracle.to_float64(tree) for tree in (parameters.embedding, parameters.predictor, one.state.random_target)
    )
    assert (embedding is None) == (variant in ("r2d2", "n-step, random embedding", "distillation alone"))
    assert (predictor is None) == (fixed is None) == (variant == "r2d2")
    if embedding is not None:
        expected["loss/embedding"], expected["novelty/inverse_accuracy"] = one.twin.embedding_loss(embedding, x)
    if predictor is not None:
        expected["loss/distillation"] = one.twin.distillation_loss(predictor, fixed, x)
    expected["finite"] = 1.0
    np.testing.assert_allclose(out.priorities, one.twin.priorities(online, targets, batch.experience), rtol=1e-4)
    norms = {name: value for name, value in out.metrics.items() if name.startswith("gradient_norm/")}
    assert set(out.metrics) == expected.keys() | norms.keys()
    trained = {"embedding": one.state.parameters.embedding, "distillation": one.state.parameters.predictor}
    names = [*one.learner.network_names, *(name for name, part in trained.items() if part is not None)]
    names += ["torso"] * one.settings.network.shared_torso
    assert norms.keys() == {f"gradient_norm/{name}" for name in names}
    for name, value in expected.items():
        np.testing.assert_allclose(out.metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    if one.twin.error_variance is not None:
        x = batch.experience
        errors, valid, policy = one.twin.errors(online, targets, x), one.twin.valid(x), np.asarray(x.policy)[:, :-1]
        wanted = error_scale.update_variance(one.twin.error_variance, errors, valid, policy, N)
        np.testing.assert_allclose(out.state.error_variance, wanted, rtol=1e-4)
        scales = one.twin.scale(online, targets, x)
        assert len(np.unique(scales)) == len(scales) * N  # each policy and value function has its own
    if len(online) == 2:
        # The two networks learn different things from the same transitions.
        assert abs(expected["loss/extrinsic"] - expected["loss/intrinsic"]) > 0.01


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_finite_differences_of_the_twins_losses(variant: str) -> None:
    one, (gradients, _, out) = case(variant), probed(variant)
    parameters = one.state.parameters
    # Held constant: the targets, and the state to which the burn-in has brought the networks.
    online, targets = one.twin_values()
    trace = one.trace(one.batch, parameters.q)
    batch, x = one.twin.rows(trace), trace.experience
    scale, held = one.twin.scale(online, targets, batch.experience), one.twin_held()
    old, combined = one.outputs(one.batch, one.state.target_q)[1], online[0]

    def q_gradient() -> oracle.Tree:
        """Of the sum of the value functions' losses, of which each has parameters of its own beside a shared torso."""
        q = oracle.to_float64(parameters.q)

        def loss(q: oracle.Tree) -> float:
            losses = one.twin.q_losses(one.outputs_of(q, trace)[0], targets, batch, scale, held)
            return float(losses.sum() + (one.settings.learner.intrinsic_loss_weight - 1) * losses[1:].sum())

        def policy_loss(head: oracle.Tree) -> float:
            return one.twin.policy_loss(one.outputs_of(q | {"policy": head}, trace)[1], old, combined, batch)[0]

        gradients = oracle.finite_differences(loss, q)
        # The loss of the policy trains its own head alone.
        return gradients | ({} if old is None else {"policy": oracle.finite_differences(policy_loss, q["policy"])})

    fixed = oracle.to_float64(one.state.random_target)
    embedding, predictor = (oracle.to_float64(tree) for tree in (parameters.embedding, parameters.predictor))
    expected = learner.Trainable(
        q_gradient(),
        embedding and oracle.finite_differences(lambda p: one.twin.embedding_loss(p, x)[0], embedding),
        predictor and oracle.finite_differences(lambda p: one.twin.distillation_loss(p, fixed, x), predictor),
    )
    for found, wanted in zip(gradients, expected, strict=True):
        if wanted is None:
            assert found is None
            continue
        assert_tree_close(found, wanted, rtol=1e-3, atol=1e-4)
        for name, leaf in oracle.leaves(wanted):
            assert np.abs(leaf).max() > 1e-3, f"nothing is tested at {name}"
    names = {"gradient_norm/embedding": expected.embedding, "gradient_norm/distillation": expected.predictor}
    names = {name: tree for name, tree in names.items() if tree is not None}
    for v, name in enumerate(one.learner.network_names):
        names[f"gradient_norm/{name}"] = {path: leaf[v] for path, leaf in oracle.leaves(expected.q) if not path.startswith("torso/")}
    if one.settings.network.shared_torso:
        names["gradient_norm/torso"] = expected.q["torso"]
    for name, tree in names.items():
        np.testing.assert_allclose(out.metrics[name], oracle.global_norm(tree), rtol=1e-3, err_msg=name)


def test_the_trust_region_holds_a_part_of_the_transitions_on_both_sides() -> None:
    """So that the comparison with the twin sees it."""
    one = case("trust region")
    online, held = one.twin_values()[0], one.twin_held()
    assert 0.1 < held.mean() < 0.5
    drift = (online - one.values(one.batch, one.state.target_q))[:, :, :-1]
    taken = np.take_along_axis(drift, np.broadcast_to(one.batch.experience.action[None, :, :-1, None], (*held.shape, 1)), axis=3)[..., 0]
    assert 0.2 < np.mean(taken[held] > 0) < 0.8


def test_the_two_mixes_choose_different_actions() -> None:
    """So that the comparison with the twin tells them apart."""
    one = case("squashed mix")
    online, _ = one.twin_values()
    plain = dataclasses.replace(one.twin, squashed_mix=False)
    policy = one.batch.experience.policy
    chosen = [[np.argmax(twin.combined(online[:, b, t], policy[b, t])) for b, t in np.ndindex(B, T)] for twin in (one.twin, plain)]
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_gradient_reaches_target_networks(variant: str) -> None:
    assert differs(probed(variant).gradients, jax.tree.map(np.zeros_like, probed(variant).gradients))
    for leaf in jax.tree.leaves(probed(variant).fixed_gradients):
        assert not np.any(leaf)


def test_one_network_learns_the_mixed_reward_and_two_learn_one_each() -> None:
    for variant, moved in (("agent57", {"extrinsic": False, "intrinsic": True}), ("one network", {"extrinsic": True})):
        one = case(variant)
        # At the last timestep, without bootstrapping, a reward is part of a target and no input of a value that matters.
        batch = change(one.batch, "discount", (0, T), 0.0)
        assert batch.experience.policy[0, 0] != 0  # beta_0 is 0
        before = one.probe(one.state, batch).output.metrics
        after = one.probe(one.state, change(batch, "intrinsic_reward", (0, T), 9.0)).output.metrics
        assert {name: before[f"loss/{name}"] != after[f"loss/{name}"] for name in one.learner.value_names} == moved


# Borders of episodes ----------------------------------------------------------------------------------------------------------------


def border_changes(burn_in: int = 0) -> dict[str, tuple[str, Any, Any]]:
    """Changes that must not matter: (field, timesteps, value)."""
    x = make_experience(burn_in)
    first = x.step_type == FIRST
    before = np.roll(first, -1, axis=1)
    before[:, -1] = False  # LAST, or the MID at which an interruption cut the episode
    final = np.zeros_like(first)
    final[:, -1] = True  # the action at the last timestep belongs to the next sequence
    away = before | final
    other_action = (x.action[away] + 1) % A
    return {
        "action at LAST": ("action", away, other_action),
        "mu NaN at LAST": ("behaviour_probability", away, np.nan),
        "mu 0 at LAST": ("behaviour_probability", away, 0.0),
        "extrinsic reward huge at FIRST": ("extrinsic_reward", first, 1e30),
        "extrinsic reward NaN at FIRST": ("extrinsic_reward", first, np.nan),
        "intrinsic reward huge at FIRST": ("intrinsic_reward", first, 1e30),
        "intrinsic reward infinite at FIRST": ("intrinsic_reward", first, np.inf),
        "discount huge at FIRST": ("discount", first, 1e30),
        "discount NaN at FIRST": ("discount", first, np.nan),
        "discount 0 at FIRST": ("discount", first, 0.0),
    }


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        *((variant, name) for variant in ("agent57", "one network") for name in border_changes()),
        *(("r2d2", name) for name in border_changes() if "intrinsic" not in name),
    ],
)
def test_what_stands_at_a_border_has_no_influence(name: str, variant: str) -> None:
    one, expected = case(variant), probed(variant)
    batch = change(one.batch, *border_changes(one.burn_in)[name])
    assert differs(batch.experience, one.batch.experience)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(expected.gradients))
    assert_equal(one.probe(one.state, batch), expected)


def test_the_state_before_an_episode_has_no_influence() -> None:
    one = case("agent57")
    hidden, cell, previous = (leaf.copy() for leaf in one.batch.recurrent_state)
    starts = one.batch.experience.step_type[:, 0] == FIRST
    assert starts.any() and not starts.all()
    hidden[starts], cell[starts], previous[starts] = np.nan, 1e30, (previous[starts] + 1) % A
    batch = one.batch._replace(recurrent_state=RecurrentState(hidden, cell, previous))
    assert_equal(one.probe(one.state, batch), probed("agent57"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("action", 0), ("behaviour_probability", 0.05), ("extrinsic_reward", 9.0), ("intrinsic_reward", 9.0), ("discount", 0.0)],
)
def test_the_same_change_inside_an_episode_does_matter(field: str, value: float) -> None:
    one, expected = case("agent57"), probed("agent57")
    found = one.probe(one.state, change(one.batch, field, (0, slice(1, 6)), value))
    assert differs(found.gradients.q, expected.gradients.q)
    assert found.output.priorities[0] != expected.output.priorities[0]
    assert np.array_equal(found.output.priorities[1:], expected.output.priorities[1:])


@pytest.mark.parametrize("variant", ["agent57", "r2d2"])
@pytest.mark.parametrize(("discount", "bootstraps"), [(1.0, True), (0.0, False)])
def test_truncation_bootstraps_and_termination_does_not(discount: float, bootstraps: bool, variant: str) -> None:
    one, row = case(variant), 2
    last = one.burn_in + 3
    assert one.batch.experience.step_type[row, last] == LAST
    batch = change(one.batch, "discount", (row, last), discount)
    # The value of the last observation can reach the losses only by bootstrapping: its own transition is no experience.
    other = change(batch, "observation", (row, last), 2.0)
    before, after = one.probe(one.state, batch), one.probe(one.state, other)
    assert (before.output.priorities[row] != after.output.priorities[row]) == bootstraps
    assert differs(before.gradients.q, after.gradients.q) == bootstraps
    for name in (f"loss/{name}" for name in one.learner.value_names):
        assert (before.output.metrics[name] != after.output.metrics[name]) == bootstraps


def test_every_timestep_has_the_discount_and_weight_of_its_own_policy() -> None:
    one, row = case("agent57"), 2
    policy = one.batch.experience.policy[row]
    assert policy[3] != policy[4], "the row must span two policies"
    # Another j in the second episode leaves the first one's transitions alone: their share of the priority is that of a row cut there.
    errors = []
    for j in range(N):
        if j == policy[3]:
            continue
        batch = change(one.batch, "policy", (row, slice(4, None)), j)
        x = batch.experience
        online, targets = one.twin_values(batch)
        found = one.probe(one.state, batch).output.priorities[row]
        np.testing.assert_allclose(found, one.twin.priorities(online, targets, x)[row], rtol=1e-4)
        errors.append(one.twin.errors(online, targets, x)[:, row])
    np.testing.assert_array_equal(errors[0][:, :3], errors[1][:, :3])
    assert np.all(np.abs(errors[0][:, 4:] - errors[1][:, 4:]).max(axis=0) > 1e-3)


# Burn-in and importance weights -----------------------------------------------------------------------------------------------------


def test_burn_in_gives_each_network_the_state_of_its_own_parameters() -> None:
    """And the twin would tell if one had the other's, or the stored one."""
    one = case("burn-in")
    online, target = one.state.parameters.q, one.state.target_q
    fresh = [one.trace(one.batch, q) for q in (online, target)]
    stored = one.batch.recurrent_state
    begins = fresh[0].experience.step_type[:, 0] == FIRST
    assert begins.any() and not begins.all()
    for state in (fresh[0].recurrent_state.hidden, stored.hidden):
        assert np.all(np.abs(state - fresh[1].recurrent_state.hidden).max(axis=(1, 2)) > 1e-3)
    x = fresh[0].experience
    right = one.twin_values()[1]
    for state in (fresh[0].recurrent_state, stored._replace(previous_action=fresh[0].recurrent_state.previous_action)):
        wrong = one.twin.targets(one.values(one.batch, online), oracle.q_values(oracle.to_float64(target), state, x, N), x)
        differences = np.abs(right - wrong).max(axis=(0, 2))
        assert np.all(differences[begins] == 0) and np.all(differences[~begins] > 1e-4)


def test_no_gradient_reaches_the_burn_in() -> None:
    """Neither its observations and rewards nor the state before it; behind it every valid transition's observation has one."""
    one = case("burn-in")

    def probe(state: LearnerState, batch: Batch) -> Any:
        def loss(observation: Any, reward: Any, hidden: Any, cell: Any) -> Any:
            x = batch.experience._replace(observation=observation, extrinsic_reward=reward)
            entered = batch.recurrent_state._replace(hidden=hidden, cell=cell)
            return one.learner.loss(state.parameters, state, batch._replace(experience=x, recurrent_state=entered))[0]

        given = batch.experience.observation, batch.experience.extrinsic_reward, batch.recurrent_state.hidden, batch.recurrent_state.cell
        return jax.grad(loss, argnums=(0, 1, 2, 3))(*given)

    mesh = Mesh(np.array(jax.devices()[:1]), (parallel.AXIS,))
    observation, reward, hidden, cell = jax.device_get(parallel.sharded(probe, mesh, (ALL, ROWS), ROWS)(one.state, one.batch))
    assert not np.any(observation[:, :BURN_IN]) and not np.any(reward[:, :BURN_IN]) and not np.any(hidden) and not np.any(cell)
    valid = one.twin.valid(one.batch.experience)[:, BURN_IN:]
    assert np.all(np.any(observation[:, BURN_IN:-1] != 0, axis=2)[valid])
    # A reward is an input of its own timestep, whose transition goes on to the next.
    assert np.all((reward[:, BURN_IN:-1] != 0)[valid & (one.batch.experience.step_type[:, BURN_IN:-1] != FIRST)])


def test_a_gradient_through_the_burn_in_would_be_another() -> None:
    """So that the comparison with finite differences tells whether it is stopped."""
    one, gradients = case("burn-in"), probed("burn-in").gradients
    _, targets = one.twin_values()
    direction = np.random.default_rng(5).normal(size=gradients.q["recurrent"].shape)

    def slope(fixed: bool) -> float:
        """Of the loss along the direction, with or without the burn-in's state held constant."""
        losses = []
        for step in (1e-6, -1e-6):
            q = oracle.to_float64(one.state.parameters.q)
            start = one.trace(one.batch, q)
            q["recurrent"] += step * direction
            trace = start if fixed else one.trace(one.batch, q)
            values = oracle.q_values(q, trace.recurrent_state, trace.experience, N)
            losses.append(one.twin.q_losses(values, targets, trace).sum())
        return float(losses[0] - losses[1]) / 2e-6

    found = float(np.sum(gradients.q["recurrent"] * direction))
    np.testing.assert_allclose(found, slope(fixed=True), rtol=1e-3)
    assert abs(found - slope(fixed=False)) > 0.01 * abs(found)


def test_burn_in_is_not_learnt_from_but_seen() -> None:
    one, expected = case("r2d2"), probed("r2d2")
    inside = (slice(None), slice(BURN_IN))
    for field, value in (("behaviour_probability", 0.01), ("discount", 0.5)):
        batch = change(one.batch, field, inside, value)
        assert differs(batch.experience, one.batch.experience)
        assert_equal(one.probe(one.state, batch), expected)
    # What the networks see changes the state that they bring along, unless an episode begins on the way.
    untouched = np.any(one.batch.experience.step_type[:, 1 : BURN_IN + 1] == FIRST, axis=1)
    assert untouched.any() and not untouched.all()
    for field, value in (("observation", 2.0), ("extrinsic_reward", 9.0), ("action", A - 1)):
        found = one.probe(one.state, change(one.batch, field, (slice(None), 0), value)).output.priorities
        same = found == expected.output.priorities
        assert np.all(same[untouched])
        # A FIRST at the start hears of no reward.
        heard = one.batch.experience.step_type[:, 0] != FIRST if field == "extrinsic_reward" else np.ones(B, bool)
        if field == "action":
            heard &= one.batch.experience.action[:, 0] != value
        assert not np.any(same[~untouched & heard])
        assert np.sum(~untouched & heard) > 1
    # So does the state before it.
    hidden = one.batch.recurrent_state.hidden + 0.5
    found = one.probe(one.state, one.batch._replace(recurrent_state=one.batch.recurrent_state._replace(hidden=hidden))).output.priorities
    resets = np.any(one.batch.experience.step_type[:, : BURN_IN + 1] == FIRST, axis=1)
    np.testing.assert_array_equal(found == expected.output.priorities, resets)


def test_importance_weights_scale_loss_and_gradient() -> None:
    one, expected = case("r2d2"), probed("r2d2")
    weight = one.batch.importance_weight
    halves = weight * (np.arange(B) < 3), weight * (np.arange(B) >= 3)
    found = [one.probe(one.state, one.batch._replace(importance_weight=w.astype(np.float32))) for w in (2 * weight, *halves)]
    doubled, low, high = found
    for name in ("loss/extrinsic", "gradient_norm/extrinsic"):
        np.testing.assert_allclose(doubled.output.metrics[name], 2 * expected.output.metrics[name], rtol=1e-6)
    assert_tree_close(doubled.gradients.q, jax.tree.map(lambda g: 2 * g, expected.gradients.q), rtol=1e-5, atol=1e-6)
    assert_tree_close(jax.tree.map(np.add, low.gradients.q, high.gradients.q), expected.gradients.q, rtol=1e-4, atol=1e-5)
    total = low.output.metrics["loss/extrinsic"] + high.output.metrics["loss/extrinsic"]
    np.testing.assert_allclose(total, expected.output.metrics["loss/extrinsic"], rtol=1e-5)
    assert differs(low.gradients.q, jax.tree.map(np.zeros_like, low.gradients.q))
    # They correct how often a sequence is drawn, which its priority and everything else that is reported knows nothing of.
    for one_of in found:
        np.testing.assert_array_equal(one_of.output.priorities, expected.output.priorities)
        for name in ("learner/td_error_extrinsic", "learner/value_extrinsic", "learner/priority"):
            assert one_of.output.metrics[name] == expected.output.metrics[name]


def test_importance_weights_are_for_the_value_functions_alone() -> None:
    one, expected = case("agent57"), probed("agent57")
    found = one.probe(one.state, one.batch._replace(importance_weight=4 * one.batch.importance_weight))
    for name in ("extrinsic", "intrinsic"):
        np.testing.assert_allclose(found.output.metrics[f"loss/{name}"], 4 * expected.output.metrics[f"loss/{name}"], rtol=1e-6)
    for part in ("embedding", "predictor"):
        assert_tree_close(getattr(found.gradients, part), getattr(expected.gradients, part), rtol=1e-6, atol=1e-8)


# Optimisers and copies --------------------------------------------------------------------------------------------------------------


def parts_of(tree: learner.Trainable, num_values: int) -> dict[str, Any]:
    """The trees that have an optimiser each."""
    values = {f"q{v}": {path: leaf[v] for path, leaf in oracle.leaves(tree.q) if not path.startswith("torso/")} for v in range(num_values)}
    values |= {"torso": tree.q["torso"]} if "torso" in tree.q else {}
    return values | {"embedding": tree.embedding, "predictor": tree.predictor}


@pytest.mark.parametrize("variant", ["agent57", "one network", "small budget"])
def test_every_part_has_its_own_adam_and_its_own_clipping(variant: str) -> None:
    one = case(variant)
    s = one.settings.learner
    num_values = one.settings.num_values
    rates = {"embedding": s.novelty_learning_rate, "predictor": s.novelty_learning_rate}
    optimisers: dict[str, oracle.Adam] = {}
    # A reward that is a target but no input: at the last timestep. It blows up the first value function's gradient alone.
    batch = change(change(one.batch, "extrinsic_reward", (slice(None), T), 1e6), "discount", (slice(None), T), 0.0)
    state = one.state
    for update in range(3):
        gradients, _, out = one.probe(state, batch if update == 0 else one.batch)
        before, after = parts_of(state.parameters, num_values), parts_of(out.state.parameters, num_values)
        for name, gradient in parts_of(gradients, num_values).items():
            norm = oracle.global_norm(gradient)
            # Normalised errors do not grow with a reward.
            assert (norm > 10 * s.max_gradient_norm) == (update == 0 and name == "q0" and variant != "small budget"), name
            rate = rates.get(name, s.learning_rate)
            adam = optimisers.setdefault(name, oracle.Adam(rate, s.adam_b1, s.adam_b2, s.adam_epsilon, s.max_gradient_norm))
            steps = adam.step(gradient)
            for (path, new), (_, old) in zip(oracle.leaves(after[name]), oracle.leaves(before[name]), strict=True):
                np.testing.assert_allclose(new - old, steps[path], rtol=1e-3, atol=2e-6, err_msg=f"{name} {path}")
                if update == 0:
                    # The known form of a first step: the moments' biases cancel.
                    g = np.asarray(dict(oracle.leaves(gradient))[path], np.float64) * min(1.0, s.max_gradient_norm / norm)
                    np.testing.assert_allclose(new - old, -rate * g / (np.abs(g) + s.adam_epsilon), rtol=1e-3, atol=2e-6)
        state = out.state


def test_targets_are_copied_on_time_the_acting_embedding_follows_and_the_random_network_never() -> None:
    one = case("agent57")
    state = one.state
    target_period = one.settings.learner.target_period_updates
    assert target_period == 3
    for update in range(1, 8):
        before, state = state, one.probe(state, one.batch).output.state
        assert state.updates == update
        assert differs(state.parameters.q, before.parameters.q)
        assert differs(state.parameters.embedding, before.parameters.embedding)
        assert differs(state.parameters.predictor, before.parameters.predictor)
        assert_equal(state.target_q, state.parameters.q if update % target_period == 0 else before.target_q)
        assert_equal(state.acting_embedding, state.parameters.embedding["embedding"])
        assert_equal(state.random_target, one.state.random_target)


def test_the_evaluator_plays_an_average_that_soon_forgets_where_it_began() -> None:
    one = case("small budget")
    state = one.state
    expected = state.average_q
    for update in range(1, 4):
        state = one.probe(state, one.batch).output.state
        decay = min(0.6, update / (update + 10))
        expected = jax.tree.map(lambda kept, new, decay=decay: decay * kept + (1 - decay) * new, expected, state.parameters.q)
        assert_tree_close(state.average_q, expected, rtol=1e-5, atol=1e-6)
    assert_equal(learner.evaluation_parameters(state).q, state.average_q)
    assert_equal(learner.acting_parameters(state).q, state.parameters.q)
    newest = one.state._replace(average_q=None)
    assert_equal(learner.evaluation_parameters(newest), learner.acting_parameters(newest))


@functools.cache
def new_state(variant: str) -> LearnerState:
    state: LearnerState = jax.device_get(jax.jit(case(variant).learner.init)(jax.random.key(3)))
    return state


def test_a_random_embedding_stays_as_it_began() -> None:
    one = case("n-step, random embedding")
    assert_equal(new_state("n-step, random embedding").acting_embedding, new_state("agent57").acting_embedding)
    state = one.state
    for _ in range(3):
        state = one.probe(state, one.batch).output.state
    assert_equal(state.acting_embedding, one.state.acting_embedding)
    assert differs(state.parameters.predictor, one.state.parameters.predictor)


def test_a_new_learner_starts_with_its_targets_equal_and_its_networks_different() -> None:
    state = new_state("agent57")
    assert_equal(state.target_q, state.parameters.q)
    assert_equal(state.acting_embedding, state.parameters.embedding["embedding"])
    assert differs(state.parameters.predictor, state.random_target)
    kernels = dict(oracle.leaves(state.parameters.q))["recurrent"]
    assert not np.array_equal(kernels[0], kernels[1])
    acting = learner.acting_parameters(state._replace(acting_embedding="acting", random_target="random"))
    assert (acting.embedding, acting.random_target) == ("acting", "random")
    assert_equal((acting.q, acting.predictor), (state.parameters.q, state.parameters.predictor))


@pytest.mark.parametrize("poison", ["reward", "observation", "weight", "q", "embedding", "predictor", "target_q", "overflow"])
def test_an_update_that_is_not_finite_changes_nothing(poison: str) -> None:
    one = case("agent57")
    state, batch = one.probe(one.state, one.batch).output.state, one.batch  # with optimisers that hold something
    if poison == "reward":
        batch = change(batch, "extrinsic_reward", (5, 2), np.nan)
    elif poison == "observation":
        batch = change(batch, "observation", (5, T), np.inf)
    elif poison == "weight":
        batch = batch._replace(importance_weight=np.where(np.arange(B) == 3, np.inf, 1.0).astype(np.float32))
    elif poison == "overflow":  # the error is finite, its square is not
        batch = change(batch, "intrinsic_reward", (0, T), 1e38)
        batch = batch._replace(importance_weight=np.full(B, 1e30, np.float32))
    elif poison == "target_q":
        state = state._replace(target_q=jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), state.target_q))
    else:
        part = jax.tree.map(lambda leaf: leaf.copy(), getattr(state.parameters, poison))
        oracle.leaves(part)[0][1][0] = np.nan
        state = state._replace(parameters=state.parameters._replace(**{poison: part}))
    out = one.probe(state, batch).output
    assert out.metrics["finite"] == 0
    assert_equal(out.state, state)
    # The next batch is learnt from as if nothing had been.
    if poison in ("reward", "observation", "weight", "overflow"):
        assert_equal(one.probe(out.state, one.batch), one.probe(state, one.batch))


# Devices ----------------------------------------------------------------------------------------------------------------------------


@functools.cache
def eight_devices(variant: str = "agent57") -> Any:
    return case(variant).make_probe(8)


@pytest.mark.parametrize("variant", ["agent57", pytest.param("meme", marks=pytest.mark.slow)])
def test_eight_devices_learn_what_one_does(variant: str) -> None:
    """Running deviations of errors are then the same on all of them too."""
    one = case(variant)
    # Devices hold different numbers of valid transitions, so that a mean of means would differ from the mean.
    valid = one.twin.valid(one.batch.experience)
    assert len({int(count) for count in valid.sum(axis=1)}) > 1
    single = many = one.state
    for update in range(3):
        expected, found = one.probe(single, one.batch), eight_devices(variant)(many, one.batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
        assert found.output.metrics["finite"] == 1 and found.output.state.updates == update + 1
        single, many = expected.output.state, found.output.state


def test_one_poisoned_sequence_stops_the_update_on_every_device() -> None:
    one = case("agent57")
    out = eight_devices()(one.state, change(one.batch, "extrinsic_reward", (5, 2), np.nan)).output
    assert out.metrics["finite"] == 0
    assert_equal(out.state, one.state)


def test_a_batch_without_a_valid_last_transition_gives_no_nan() -> None:
    one = case("agent57")
    batch = change(one.batch, "step_type", (slice(None), slice(1, None)), FIRST)
    out = one.probe(one.state, batch).output
    assert out.metrics["finite"] == 1
    assert out.metrics["learner/valid_share"] == 0
    assert out.metrics["loss/extrinsic"] == 0
    norm = oracle.global_norm(one.state.parameters.embedding)
    np.testing.assert_allclose(out.metrics["loss/embedding"], 0.5 * one.settings.learner.embedding_l2 * norm**2, rtol=1e-5)
