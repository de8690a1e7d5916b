"""The LSTM along time against loops in float64, its gradient against differences of them and against automatic differentiation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.networks import lstm
from tests.networks.builders import assert_close
from tests.oracles.q_network import lstm as lstm_step

T, V, B, H = 9, 3, 4, 5


def arguments() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "gates": rng.normal(size=(V, T, B, 4 * H)).astype(np.float32),
        "kernel": 0.5 * rng.normal(size=(V, H, 4 * H)).astype(np.float32),
        "hidden": rng.normal(size=(V, B, H)).astype(np.float32),
        "cell": rng.normal(size=(V, B, H)).astype(np.float32),
    }


def resets() -> np.ndarray:
    """Keep everywhere but at the start of one stream, twice in a row in another, and at the end of a third."""
    keep = np.ones((T, B), bool)
    keep[0, 0] = keep[3, 1] = keep[4, 1] = keep[T - 1, 2] = False
    return keep


def twin(x: dict[str, np.ndarray], keep: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = {name: np.asarray(leaf, np.float64) for name, leaf in x.items()}
    outputs, hidden, cell = np.zeros((V, T, B, H)), x["hidden"].copy(), x["cell"].copy()
    for v, b, t in np.ndindex(V, B, T):
        if not keep[t, b]:
            hidden[v, b] = cell[v, b] = 0.0
        gates = x["gates"][v, t, b] + hidden[v, b] @ x["kernel"][v]
        hidden[v, b], cell[v, b] = lstm_step(gates, cell[v, b])
        outputs[v, t, b] = hidden[v, b]
    return outputs, hidden, cell


def part(x: dict[str, Any], networks: slice = slice(None)) -> lstm.Part:
    return lstm.Part(*(x[name][networks] for name in lstm.Part._fields))


def unroll(x: dict[str, Any], keep: np.ndarray, num_trained: int = V) -> lstm.Unrolled:
    result: lstm.Unrolled = lstm.unroll((part(x),), keep, num_trained)[0]
    return result


def weights() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(V, T, B, H)), rng.normal(size=(V, B, H)), rng.normal(size=(V, B, H))


def test_equals_the_twin() -> None:
    assert_close(jax.jit(unroll)(arguments(), resets()), twin(arguments(), resets()))


def total(results: Any) -> Any:
    return sum((leaf * weight).sum() for leaf, weight in zip(results, weights(), strict=True))


@functools.cache
def gradients() -> dict[str, jax.Array]:
    found: dict[str, jax.Array] = jax.jit(jax.grad(lambda x: total(unroll(x, resets()))))(arguments())
    return found


@pytest.mark.parametrize("name", ["gates", "kernel", "hidden", "cell"])
def test_gradients_equal_differences_of_the_twin(name: str) -> None:
    x = arguments()
    direction = np.random.default_rng(2).normal(size=x[name].shape)

    def moved(step: float) -> float:
        return float(total(twin({**x, name: x[name].astype(np.float64) + step * direction}, resets())))

    assert float(np.sum(np.asarray(gradients()[name]) * direction)) == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_equal_automatic_ones_and_stop_at_networks_that_are_not_trained(dtype: Any) -> None:
    trained, keep = 2, resets()
    x = arguments() | {name: jnp.asarray(arguments()[name], dtype) for name in ("gates", "kernel")}
    factors = [jnp.asarray(weight, jnp.float32).at[trained:].set(0.0) for weight in weights()]

    def weighted(results: Any) -> jax.Array:
        return sum((jnp.sum(leaf * weight) for leaf, weight in zip(results, factors, strict=True)), jnp.float32(0))

    automatic = jax.jit(jax.grad(lambda x: weighted(lstm.forward((part(x),), keep, 0)[0][0])))(x)
    ours = jax.jit(jax.grad(lambda x: weighted(unroll(x, keep, trained))))(x)
    tolerance = 1e-5 if dtype is jnp.float32 else 0.05
    for name in x:
        assert ours[name].dtype == x[name].dtype
        got, expected = (np.asarray(leaf[name], np.float32) for leaf in (ours, automatic))
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * float(np.max(np.abs(expected))))
        assert np.any(got[:trained]) and not np.any(got[trained:])


def test_parts_are_networks_side_by_side_and_only_the_first_has_a_gradient() -> None:
    x, keep, first = arguments(), resets(), 2

    def run(parts: tuple[lstm.Part, ...]) -> tuple[lstm.Unrolled, ...]:
        results: tuple[lstm.Unrolled, ...] = lstm.unroll(parts, keep, first)
        return results

    parts = part(x, slice(first)), part(x, slice(first, None))
    together: lstm.Unrolled = jax.tree.map(lambda *leaves: np.concatenate(leaves), *jax.jit(run)(parts))
    assert_close(together, twin(x, keep))

    gradient = jax.jit(jax.grad(lambda parts: sum(jnp.sum(leaf) for result in run(parts) for leaf in result)))(parts)
    alone = jax.jit(jax.grad(lambda part: sum(jnp.sum(leaf) for leaf in run((part,))[0])))(parts[0])
    assert_close(gradient[0], alone, atol=1e-6)
    assert not any(map(np.any, gradient[1]))
