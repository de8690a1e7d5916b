"""What tests of formulas share: strategies for arguments, and the comparison with a twin in float64."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.strategies import SearchStrategy

from agent57_jax.algorithm.value_transform import IDENTITY, SQUASHED, ValueTransform
from tests.oracles import value_transform as oracle


class Transform(NamedTuple):
    """A value transform and its twins."""

    ours: ValueTransform
    apply: Callable[[float], float]
    invert: Callable[[float], float]


TRANSFORMS = {
    "squashed": Transform(SQUASHED, oracle.squash, oracle.unsquash),
    "identity": Transform(IDENTITY, oracle.identity, oracle.identity),
}


def floats(low: float, high: float, *shape: int) -> SearchStrategy[np.ndarray]:
    """float32 arrays. XLA takes numbers below the smallest normal one for 0 on CPUs, so there are none."""
    return hnp.arrays(np.float32, shape, elements=st.floats(np.float32(low), np.float32(high), width=32, allow_subnormal=False))


def choices(values: list[float], *shape: int) -> SearchStrategy[np.ndarray]:
    """float32 arrays of a few values, which therefore meet often."""
    return hnp.arrays(np.float32, shape, elements=st.sampled_from(values))


def masks(*shape: int) -> SearchStrategy[np.ndarray]:
    """bool arrays."""
    return hnp.arrays(np.bool_, shape)


def assert_equals_twin(
    function: Callable[..., Any],
    twin: Callable[..., Any],
    *arguments: SearchStrategy[Any],
    rtol: float = 1e-5,
    atol: float = 0.0,
    examples: int = 60,
) -> None:
    """Compares the compiled function with its twin, to which it gives all floats in float64; results are finite and of float32."""
    compiled = jax.jit(function)

    @settings(max_examples=examples)
    @given(st.tuples(*arguments))
    def compare(drawn: tuple[Any, ...]) -> None:
        found = np.asarray(compiled(*drawn))
        expected = twin(*(x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x for x in drawn))
        assert found.dtype in (np.float32, np.bool_) and np.all(np.isfinite(found))
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)

    compare()
