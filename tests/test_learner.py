"""The learner against its float64 twin and finite differences, what an update makes of its state, and on any number of devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax.agent import learner
from agent57_jax.agent.learner import LearnerState
from agent57_jax.types import FIRST
from tests.learner_rig import VARIANTS, B, N, T, assert_gradient, case, change, differs, probed
from tests.oracles import error_scale
from tests.oracles import learner as oracle
from tests.tiny import assert_close, assert_equal

# Values -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_priorities_and_metrics_equal_the_twins(variant: str) -> None:
    one, out = case(variant), probed(variant).output
    twin, want, parameters = one.twin, one.wanted, one.state.parameters
    x = want.rows.experience
    expected = {"finite": 1.0} | twin.metrics(want.online, want.target, want.targets, want.rows, want.logits)
    if want.logits is not None:
        losses = twin.policy_loss(want.logits, want.old_logits, want.online[0], want.rows)
        expected["loss/policy"], expected["learner/distilled_share"] = losses
        assert 0 < expected["learner/distilled_share"] < 1
    trees = parameters.embedding, parameters.predictor, one.state.random_target
    embedding, predictor, fixed = (oracle.to_float64(tree) for tree in trees)
    assert (embedding is None) == (variant in ("r2d2", "trust region", "distillation alone"))
    assert (predictor is None) == (fixed is None) == (variant == "r2d2")
    if embedding is not None:
        expected["loss/embedding"], expected["novelty/inverse_accuracy"] = twin.embedding_loss(embedding, want.trace.experience)
    if predictor is not None:
        expected["loss/distillation"] = twin.distillation_loss(predictor, fixed, want.trace.experience)
    assert set(out.metrics) == expected.keys() | {f"gradient_norm/{name}" for name in one.parts(parameters)}
    for name, value in expected.items():
        np.testing.assert_allclose(out.metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(out.priorities, twin.priorities(want.online, want.targets, x), rtol=1e-4)
    if twin.error_variance is not None:
        errors, policy = twin.errors(want.online, want.targets, x), np.asarray(x.policy)[:, :-1]
        variance = error_scale.update_variance(twin.error_variance, errors, twin.valid(x), policy, N)
        np.testing.assert_allclose(out.state.error_variance, variance, rtol=1e-4)
        scales = twin.scale(want.online, want.targets, x)
        assert len(np.unique(scales)) == len(scales) * N  # each policy and value function has its own
    if len(want.online) == 2:
        # The two networks learn different things from the same transitions.
        assert abs(expected["loss/extrinsic"] - expected["loss/intrinsic"]) > 0.01


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_finite_differences_of_the_twins_losses(variant: str) -> None:
    one, (gradients, fixed_gradients, out) = case(variant), probed(variant)
    # Held constant: the targets, and the state to which the burn-in has brought the networks.
    twin, want = one.twin, one.wanted
    trace, x = want.trace, want.trace.experience
    scale = twin.scale(want.online, want.targets, want.rows.experience)

    q, embedding, predictor = (oracle.to_float64(tree) for tree in one.state.parameters)
    fixed = oracle.to_float64(one.state.random_target)
    values = {name: part for name, part in q.items() if name != "policy"}

    def value_loss(values: oracle.Tree) -> float:
        """Of all value functions, of which each has parameters of its own beside a shared torso."""
        losses = twin.q_losses(one.outputs(q | values, trace)[0], want.targets, want.rows, scale, want.held)
        return float(losses.sum() + (one.settings.learner.intrinsic_loss_weight - 1) * losses[1:].sum())

    def policy_loss(head: oracle.Tree) -> float:
        return twin.policy_loss(one.outputs(q | {"policy": head}, trace)[1], want.old_logits, want.online[0], want.rows)[0]

    assert_gradient({name: gradients.q[name] for name in values}, value_loss, values)
    assert ("policy" in q) == (want.logits is not None)
    if "policy" in q:  # which its own loss trains alone
        assert_gradient(gradients.q["policy"], policy_loss, q["policy"])
    assert ((gradients.embedding is None), (gradients.predictor is None)) == ((embedding is None), (predictor is None))
    if embedding is not None:
        assert_gradient(gradients.embedding, lambda p: twin.embedding_loss(p, x)[0], embedding)
    if predictor is not None:
        assert_gradient(gradients.predictor, lambda p: twin.distillation_loss(p, fixed, x), predictor)
    for name, part in one.parts(gradients).items():
        np.testing.assert_allclose(out.metrics[f"gradient_norm/{name}"], oracle.global_norm(part), rtol=1e-5, err_msg=name)
    for leaf in jax.tree.leaves(fixed_gradients):
        assert not np.any(leaf), "a gradient reaches a target network"


# Optimisers and copies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["agent57", "one network", "small budget"])
def test_every_part_has_its_own_adam_and_its_own_clipping(variant: str) -> None:
    one = case(variant)
    s, state, largest = one.settings.learner, one.state, one.learner.network_names[0]
    rates = {"embedding": s.novelty_learning_rate, "distillation": s.novelty_learning_rate}
    optimisers: dict[str, oracle.Adam] = {}
    # A reward that is a target but no input: at the last timestep. It blows up the first value function's gradient alone.
    batch = change(change(one.batch, "extrinsic_reward", (slice(None), T), 1e6), "discount", (slice(None), T), 0.0)
    for update in range(3):
        gradients, _, out = one.probe(state, batch if update == 0 else one.batch)
        before, after = one.parts(state.parameters), one.parts(out.state.parameters)
        for name, gradient in one.parts(gradients).items():
            # Normalised errors do not grow with a reward.
            is_clipped = update == 0 and name == largest and variant != "small budget"
            assert (oracle.global_norm(gradient) > 10 * s.max_gradient_norm) == is_clipped, name
            rate = rates.get(name, s.learning_rate)
            adam = optimisers.setdefault(name, oracle.Adam(rate, s.adam_b1, s.adam_b2, s.adam_epsilon, s.max_gradient_norm, s.weight_decay))
            steps = adam.step(gradient, before[name])
            for (path, new), (_, old) in zip(oracle.leaves(after[name]), oracle.leaves(before[name]), strict=True):
                np.testing.assert_allclose(new - old, steps[path], rtol=1e-3, atol=2e-6, err_msg=f"{name} {path}")
        state = out.state


def test_targets_are_copied_on_time_the_acting_embedding_follows_and_the_random_network_never() -> None:
    one = case("agent57")
    state = one.state
    for update in range(1, 8):
        before, state = state, one.probe(state, one.batch).output.state
        assert state.updates == update
        for part in ("q", "embedding", "predictor"):
            assert differs(getattr(state.parameters, part), getattr(before.parameters, part))
        assert_equal(state.target_q, state.parameters.q if update in (3, 6) else before.target_q)
        assert_equal(state.acting_embedding, state.parameters.embedding["embedding"])
        assert_equal(state.random_target, one.state.random_target)


def test_a_target_network_may_be_a_moving_average() -> None:
    one = case("trust region")
    state, expected = one.state, one.state.target_q
    for _ in range(4):  # a copy would have come after three
        state = one.probe(state, one.batch).output.state
        expected = jax.tree.map(lambda kept, new: 0.75 * kept + 0.25 * new, expected, state.parameters.q)
        assert_close(state.target_q, expected)


def test_the_evaluator_plays_an_average_that_soon_forgets_where_it_began() -> None:
    one = case("small budget")
    state, expected = one.state, one.state.average_q
    for update in range(1, 4):
        state = one.probe(state, one.batch).output.state
        decay = min(0.6, update / (update + 10))
        expected = jax.tree.map(lambda kept, new, decay=decay: decay * kept + (1 - decay) * new, expected, state.parameters.q)
        assert_close(state.average_q, expected)
    assert_equal(learner.evaluation_parameters(state).q, state.average_q)
    assert_equal(learner.acting_parameters(state).q, state.parameters.q)
    newest = state._replace(average_q=None)
    assert_equal(learner.evaluation_parameters(newest), learner.acting_parameters(newest))


def new_state(variant: str, part: Callable[[LearnerState], Any]) -> Any:
    """A part of the state before the first update. XLA compiles its own generator far faster than the usual one."""
    return jax.device_get(jax.jit(lambda key: part(case(variant).learner.init(key)))(jax.random.key(3, impl="rbg")))


def test_a_random_embedding_stays_as_it_began() -> None:
    one = case("trust region")
    random, learnt = (new_state(variant, lambda state: state.acting_embedding) for variant in ("trust region", "agent57"))
    assert_equal(random, learnt)
    state = one.probe(one.probe(one.state, one.batch).output.state, one.batch).output.state
    assert_equal(state.acting_embedding, one.state.acting_embedding)
    assert differs(state.parameters.predictor, one.state.parameters.predictor)


def test_a_new_learner_starts_with_its_targets_equal_and_its_networks_different() -> None:
    state: LearnerState = new_state("agent57", lambda state: state)
    assert_equal(state.target_q, state.parameters.q)
    assert_equal(state.acting_embedding, state.parameters.embedding["embedding"])
    assert differs(state.parameters.predictor, state.random_target)
    kernels = dict(oracle.leaves(state.parameters.q))["recurrent"]
    assert not np.array_equal(kernels[0], kernels[1])
    acting = learner.acting_parameters(state._replace(acting_embedding="acting", random_target="random"))
    assert (acting.embedding, acting.random_target) == ("acting", "random")
    assert_equal((acting.q, acting.predictor), (state.parameters.q, state.parameters.predictor))


POISONS = ("reward", "observation", "weight", "overflow", "q", "embedding", "predictor", "target_q")
AVERAGES = (("reward", "trust region"), ("reward", "small budget"))  # of the target network, and for the evaluator


@pytest.mark.parametrize(("poison", "variant"), [*((poison, "agent57") for poison in POISONS), *AVERAGES])
def test_an_update_that_is_not_finite_changes_nothing(poison: str, variant: str) -> None:
    one = case(variant)
    state, batch = one.probe(one.state, one.batch).output.state, one.batch  # with optimisers that hold something
    if poison == "target_q":
        state = state._replace(target_q=jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), state.target_q))
    elif poison in state.parameters._fields:
        part = jax.tree.map(np.copy, getattr(state.parameters, poison))
        oracle.leaves(part)[0][1][0] = np.nan
        state = state._replace(parameters=state.parameters._replace(**{poison: part}))
    else:
        batch = {
            "reward": change(batch, "extrinsic_reward", (5, 2), np.nan),
            "observation": change(batch, "observation", (5, T), np.inf),
            "weight": batch._replace(importance_weight=np.where(np.arange(B) == 3, np.inf, 1.0).astype(np.float32)),
            # The error is finite, its square is not.
            "overflow": change(batch, "intrinsic_reward", (0, T), 1e38)._replace(importance_weight=np.full(B, 1e30, np.float32)),
        }[poison]
    out = one.probe(state, batch).output
    assert out.metrics["finite"] == 0
    assert_equal(out.state, state)


def test_a_batch_without_a_valid_last_transition_gives_no_nan() -> None:
    one = case("agent57")
    metrics = one.probe(one.state, change(one.batch, "step_type", (slice(None), slice(1, None)), FIRST)).output.metrics
    assert (metrics["finite"], metrics["learner/valid_share"], metrics["loss/extrinsic"]) == (1, 0, 0)
    norm = oracle.global_norm(one.state.parameters.embedding)
    np.testing.assert_allclose(metrics["loss/embedding"], 0.5 * one.settings.learner.embedding_l2 * norm**2, rtol=1e-5)


# Devices ----------------------------------------------------------------------------------------------------------------------------


@functools.cache
def eight_devices(variant: str) -> Any:
    return case(variant).make_probe(8)


@pytest.mark.parametrize("variant", ["agent57", pytest.param("meme", marks=pytest.mark.slow)])
def test_eight_devices_learn_what_one_does(variant: str) -> None:
    """Running deviations of errors are then the same on all of them too."""
    one = case(variant)
    # Devices hold different numbers of valid transitions, so that a mean of means would differ from the mean.
    assert len(set(one.twin.valid(one.batch.experience).sum(axis=1).tolist())) > 1
    single = many = one.state
    for update in range(3):
        expected, found = one.probe(single, one.batch), eight_devices(variant)(many, one.batch)
        assert_close(found, expected)
        assert found.output.metrics["finite"] == 1 and found.output.state.updates == update + 1
        single, many = expected.output.state, found.output.state


def test_one_poisoned_sequence_stops_the_update_on_every_device() -> None:
    one = case("agent57")
    out = eight_devices("agent57")(one.state, change(one.batch, "extrinsic_reward", (5, 2), np.nan)).output
    assert out.metrics["finite"] == 0
    assert_equal(out.state, one.state)
