"""Counted arithmetic against the products and convolutions that the programs hold."""

import functools
import math
from typing import Any

import jax
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from agent57_jax import config, parallel
from agent57_jax.agent import programs
from agent57_jax.agent.learner import acting_parameters
from agent57_jax.config import Settings
from agent57_jax.networks import convolutions
from agent57_jax.training import memory
from agent57_jax.types import EnvironmentSpec, TimeStep
from benchmarks import work
from configs.profiles import AGENTS

SPEC = EnvironmentSpec((84, 84, 1), np.dtype("uint8"), 18, tuple(str(action) for action in range(18)), 4)


def operations(jaxpr: Jaxpr) -> int:
    """Two for each multiply-add of every product and convolution, those of a loop's body as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        inner = [
            leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf for leaf in jax.tree.leaves(list(parameters.values()), is_leaf=is_jaxpr)
        ]
        times = parameters["length"] if name == "scan" else 1  # the loop over updates runs once
        total += times * sum(operations(part) for part in inner if isinstance(part, Jaxpr))
        if name == "dot_general":
            left = equation.invars[0].aval.shape
            contracted = parameters["dimension_numbers"][0][0]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        if name == "conv_general_dilated":
            total += convolution_operations(equation)
    return total


def is_jaxpr(leaf: Any) -> bool:
    return isinstance(leaf, ClosedJaxpr | Jaxpr)


def convolution_operations(equation: Any) -> int:
    """Of a convolution, of its kernel's gradient and of its image's gradient alike: multiply-adds that do not fall on padding."""
    numbers = equation.params["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    pairs = 1
    for axis in range(2):
        size, taps, places = image[numbers.lhs_spec[2 + axis]], kernel[numbers.rhs_spec[2 + axis]], out[numbers.out_spec[2 + axis]]
        stride, (low, _) = equation.params["window_strides"][axis], equation.params["padding"][axis]
        spread, apart = equation.params["lhs_dilation"][axis], equation.params["rhs_dilation"][axis]
        positions = (place * stride + tap * apart - low for place in range(places) for tap in range(taps))
        pairs *= sum(position % spread == 0 and 0 <= position // spread < size for position in positions)
    channels = kernel[numbers.rhs_spec[1]]
    return int(2 * pairs * channels * out[numbers.out_spec[0]] * out[numbers.out_spec[1]])


@functools.cache
def counted(agent: str) -> tuple[Settings, int, int]:
    """Operations of the act program and of the update at the papers' sizes."""
    settings = Settings()
    AGENTS[agent](settings)
    settings.environment.num_envs, settings.learner.batch_size = 4, 2
    settings.replay.trace = settings.replay.period = 10
    settings.replay.capacity, settings.replay.min_sequences = "2000", 2
    settings.novelty.memory_capacity = 64
    settings = config.finalise(settings)
    parts = programs.build(settings, SPEC)
    store = memory.make_replay(parts, 2_000)
    made = programs.Programs(parts, parallel.make_mesh(1), store, None)
    learner = jax.eval_shape(parts.learner.init, jax.ShapeDtypeStruct((2,), np.uint32))
    state = jax.eval_shape(lambda: store.init(parts.actor.q_network.initial_state(1)))
    actor = jax.eval_shape(parts.actor.init_state, jax.ShapeDtypeStruct((2,), np.int32))
    shared = jax.eval_shape(lambda: programs.init_shared(parts))

    def row(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((2, *shape), dtype)

    timestep = TimeStep(
        row(np.uint8, *SPEC.observation_shape), row(np.float32), row(np.float32), row(np.int32), row(np.float32), row(np.int32), extras={}
    )
    root, counter, group = jax.ShapeDtypeStruct((2,), np.uint32), jax.ShapeDtypeStruct((), np.uint32), jax.ShapeDtypeStruct((), np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutions, "uses_patches", lambda: False)
        act = jax.make_jaxpr(made.act)(acting_parameters(learner), actor, shared, state, timestep, root, counter, group)
        update = jax.make_jaxpr(made.update)(learner, state, jax.eval_shape(made.init_update_metrics), root, counter, group)
    return settings, operations(act.jaxpr), operations(update.jaxpr)


@pytest.mark.parametrize("agent", AGENTS)
def test_operations_are_those_of_the_programs(agent: str) -> None:
    settings, act, update = counted(agent)
    assert act / (2 * work.act(settings, SPEC).total) == pytest.approx(1.0, abs=0.002)
    assert update / work.update(settings, SPEC).total == pytest.approx(1.0, abs=0.01)


def test_two_precisions_take_the_time_of_both() -> None:
    assert work.Work(compute=600, float32=100).rate(compute=200.0, float32=50.0) == pytest.approx(1 / (3 + 2))
