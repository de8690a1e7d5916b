"""Adam in place: optax's numbers and its state, the twin's steps, and no copy of what it overwrites."""

import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agent57_jax.agent import adam
from tests.oracles import learner as oracle

RATE, B1, B2, EPSILON, MAX_NORM = 3e-2, 0.8, 0.95, 1e-2, 5.0
OPTIMISER = adam.Optimiser(RATE, B1, B2, EPSILON, MAX_NORM)
STEP = jax.jit(OPTIMISER.step)


def tree(seed: int, scale: float) -> dict[str, Any]:
    """Leaves of several shapes, one of them a scalar."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (5, 3), "bias": (3,), "deeper": (2, 3, 4), "scalar": ()}
    return {name: jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


@functools.cache
def gradients() -> tuple[dict[str, Any], ...]:
    """Small ones, one that is clipped to less than a hundredth, next to nothing, and small ones again."""
    return tuple(tree(seed, scale) for seed, scale in ((1, 0.1), (2, 500.0), (3, 1e-12), (4, 0.3), (5, 2.0)))


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_equals_optax_in_numbers_and_state_and_the_twin(weight_decay: float) -> None:
    ours = adam.Optimiser(RATE, B1, B2, EPSILON, MAX_NORM, weight_decay)
    theirs = optax.adamw(RATE, B1, B2, eps=EPSILON, weight_decay=weight_decay) if weight_decay else optax.adam(RATE, B1, B2, eps=EPSILON)
    chain, twin = optax.chain(optax.clip_by_global_norm(MAX_NORM), theirs), oracle.Adam(RATE, B1, B2, EPSILON, MAX_NORM, weight_decay)
    step, update, parameters = jax.jit(ours.step), jax.jit(chain.update), tree(0, 1.0)
    state, expected, expected_state = ours.init(parameters), parameters, chain.init(parameters)
    assert any(oracle.global_norm(gradient) > 50 * MAX_NORM for gradient in gradients())
    for gradient in gradients():
        before = parameters
        parameters, state = step(gradient, state, parameters, jnp.bool_(True))
        updates, expected_state = update(gradient, expected_state, expected)
        expected = optax.apply_updates(expected, updates)
        chex.assert_trees_all_close(parameters, expected, rtol=1e-6, atol=1e-7 if weight_decay else 1e-9)
        if not weight_decay:
            chex.assert_trees_all_equal_structs(state, expected_state)
            chex.assert_trees_all_close(state, expected_state, rtol=1e-6, atol=1e-9)
        for name, change in twin.step(gradient, before).items():
            found = np.asarray(parameters[name], np.float64) - before[name]
            np.testing.assert_allclose(found, change, rtol=2e-5, atol=3e-7, err_msg=name)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_a_factor_scales_the_step_and_nothing_else(weight_decay: float) -> None:
    parameters, gradient = tree(0, 1.0), gradients()[0]
    step = jax.jit(adam.Optimiser(RATE, B1, B2, EPSILON, MAX_NORM, weight_decay).step)
    whole, state = step(gradient, OPTIMISER.init(parameters), parameters, jnp.bool_(True))
    quarter, same = step(gradient, OPTIMISER.init(parameters), parameters, jnp.bool_(True), jnp.float32(0.25))
    chex.assert_trees_all_equal(state, same)
    steps = [jax.tree.map(jnp.subtract, new, parameters) for new in (whole, quarter)]
    chex.assert_trees_all_close(jax.tree.map(lambda step: 0.25 * step, steps[0]), steps[1], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("value", [0.3, np.nan, np.inf])
def test_everything_stays_where_the_update_is_not_finite(value: float) -> None:
    parameters = tree(0, 1.0)
    parameters, state = STEP(gradients()[0], OPTIMISER.init(parameters), parameters, jnp.bool_(True))
    bad = gradients()[1] | {"bias": jnp.full(3, value, jnp.float32)}
    chex.assert_trees_all_equal(STEP(bad, state, parameters, jnp.bool_(False)), (parameters, state))


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")  # the gradients' memory is free, but nothing is returned in it
def test_nothing_is_copied_that_is_overwritten() -> None:
    size = 1 << 18
    parameters = {"kernel": jnp.ones(size), "bias": jnp.ones(size)}
    state, finite = OPTIMISER.init(parameters), jnp.bool_(True)
    compiled = jax.jit(OPTIMISER.step, donate_argnums=(0, 1, 2)).lower(parameters, state, parameters, finite).compile()
    copies = [line.strip() for line in compiled.as_text().splitlines() if re.search(rf"= f32\[{size}\]\S* copy\(", line)]
    assert not copies, copies
