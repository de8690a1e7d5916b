"""LSTMs of several networks along time, with a custom gradient for long sequences (Hochreiter & Schmidhuber 1997).

All networks step together, with one batched matrix product per part, and on a GPU one for all parts. The gradient of the recurrent
kernel is one product over all timesteps; automatic differentiation would add a matrix of the kernel's size at every timestep.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Part(NamedTuple):
    """V LSTMs with stacked arrays."""

    gates: jax.Array  # [V, T, B, 4H], the input's part of the pre-activations of update, forget, candidate and output
    kernel: jax.Array  # [V, H, 4H], same dtype
    hidden: jax.Array  # [V, B, H] float32, before the first timestep
    cell: jax.Array  # [V, B, H] float32


class Unrolled(NamedTuple):
    """Results of a part."""

    outputs: jax.Array  # [V, T, B, H] float32
    hidden: jax.Array  # [V, B, H] float32, after the last timestep
    cell: jax.Array  # [V, B, H] float32


Parts = tuple[Part, ...]
Kept = tuple[jax.Array, jax.Array]  # activated gates [V, T, B, 4H] and cells [V, T, B, H] of the trained networks


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def unroll(parts: Parts, keep: jax.Array, num_trained: int) -> tuple[Unrolled, ...]:
    """Runs all LSTMs along T timesteps and returns the outputs and states of each part.

    The state is reset before a timestep where `keep` [T, B] bool is False. Only the first `num_trained` LSTMs of the first part get
    gradients; those of the others are 0.
    """
    return forward(parts, keep, num_trained)[0]


def joins_parts() -> bool:
    """Whether to run all parts as one: on a GPU, where launching a step's small kernels costs the same for any number of networks.

    On a CPU the copies that join the parts gain nothing.
    """
    return jax.default_backend() != "cpu"


def joined(parts: Parts) -> Parts:
    """All parts as one, [sum of their V, ...], in their order."""
    part: Part = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return (part,)


def separated(unrolled: Unrolled, sizes: Sequence[int]) -> tuple[Unrolled, ...]:
    """The results of the joined part, split into parts of `sizes` networks."""
    ends = list(itertools.accumulate(sizes))
    return tuple(Unrolled(*(leaf[end - size : end] for leaf in unrolled)) for size, end in zip(sizes, ends, strict=True))


def _reset(state: jax.Array, keep: jax.Array) -> jax.Array:
    """[V, ..., H] where keep [...], else 0."""
    # Not multiplied: NaN from an overflow must not leak into a new episode.
    return jnp.where(keep[None, ..., None], state, 0.0)


def _at(x: jax.Array, t: jax.Array) -> jax.Array:
    """[V, T, ...] -> [V, ...]."""
    return jax.lax.dynamic_index_in_dim(x, t, axis=1, keepdims=False)


def _put(x: jax.Array, value: jax.Array, t: jax.Array) -> jax.Array:
    """Writes [V, ...] at timestep t of an array [V, T, ...]."""
    return jax.lax.dynamic_update_index_in_dim(x, value.astype(x.dtype), t, axis=1)


def forward(parts: Parts, keep: jax.Array, num_trained: int) -> tuple[tuple[Unrolled, ...], Kept]:
    """The results of `unroll`, and the arrays that its gradient needs."""
    length = keep.shape[0]

    def step(carry: tuple[tuple[Unrolled, ...], Kept], t: jax.Array) -> tuple[tuple[tuple[Unrolled, ...], Kept], None]:
        before, (all_activated, all_cells) = carry
        keep_now = jax.lax.dynamic_index_in_dim(keep, t, keepdims=False)
        after = []
        for i, (part, (outputs, hidden, cell)) in enumerate(zip(parts, before, strict=True)):
            recurrent = jnp.einsum("vbh,vhg->vbg", _reset(hidden, keep_now).astype(part.kernel.dtype), part.kernel)
            update, forget, candidate, output = jnp.split((_at(part.gates, t) + recurrent).astype(jnp.float32), 4, axis=-1)
            # The forget gate starts open (Jozefowicz et al. 2015), so that early gradients reach far back.
            update, forget, output = jax.nn.sigmoid(update), jax.nn.sigmoid(forget + 1.0), jax.nn.sigmoid(output)
            candidate = jnp.tanh(candidate)
            new_cell = forget * _reset(cell, keep_now) + update * candidate
            new_hidden = output * jnp.tanh(new_cell)
            after.append(Unrolled(_put(outputs, new_hidden, t), new_hidden, new_cell))
            if i == 0:
                activated = jnp.concatenate([gate[:num_trained] for gate in (update, forget, candidate, output)], axis=-1)
                all_activated, all_cells = _put(all_activated, activated, t), _put(all_cells, new_cell[:num_trained], t)
        return (tuple(after), (all_activated, all_cells)), None

    def room(shape: tuple[int, ...], networks: int, width: int = 1) -> jax.Array:
        return jnp.zeros((networks, length, shape[1], width * shape[2]), jnp.float32)

    shape = parts[0].hidden.shape
    kept = room(shape, num_trained, 4), room(shape, num_trained)
    start = tuple(Unrolled(room(part.hidden.shape, part.hidden.shape[0]), part.hidden, part.cell) for part in parts)
    (results, kept), _ = jax.lax.scan(step, (start, kept), jnp.arange(length))
    return results, kept


_Residuals = tuple[Parts, jax.Array, jax.Array, jax.Array, jax.Array]


def _unroll_forward(parts: Parts, keep: jax.Array, num_trained: int) -> tuple[tuple[Unrolled, ...], _Residuals]:
    results, (activated, cells) = forward(parts, keep, num_trained)
    return results, (parts, keep, results[0].outputs[:num_trained], activated, cells)


def _unroll_backward(num_trained: int, residuals: _Residuals, cotangents: tuple[Unrolled, ...]) -> tuple[Parts, np.ndarray]:
    parts, keep, outputs, activated, cells = residuals
    first: Part = parts[0]
    kernel, hidden, cell = (leaf[:num_trained] for leaf in (first.kernel, first.hidden, first.cell))
    d_outputs, d_hidden, d_cell = (leaf[:num_trained] for leaf in cotangents[0])
    hidden_before = _reset(jnp.concatenate([hidden[:, None], outputs[:, :-1]], axis=1), keep)
    cell_before = _reset(jnp.concatenate([cell[:, None], cells[:, :-1]], axis=1), keep)

    def step(carry: tuple[jax.Array, jax.Array, jax.Array], t: jax.Array) -> tuple[tuple[jax.Array, jax.Array, jax.Array], None]:
        d_hidden, d_cell, all_d_gates = carry
        keep_now = jax.lax.dynamic_index_in_dim(keep, t, keepdims=False)
        update, forget, candidate, output = jnp.split(_at(activated, t), 4, axis=-1)
        squashed = jnp.tanh(_at(cells, t))
        d_hidden = d_hidden + _at(d_outputs, t)
        d_cell = d_cell + d_hidden * output * (1 - squashed**2)
        d_gates = jnp.concatenate(
            [
                d_cell * candidate * update * (1 - update),
                d_cell * _at(cell_before, t) * forget * (1 - forget),
                d_cell * update * (1 - candidate**2),
                d_hidden * squashed * output * (1 - output),
            ],
            axis=-1,
        ).astype(kernel.dtype)
        d_hidden = jnp.einsum("vbg,vhg->vbh", d_gates, kernel, preferred_element_type=jnp.float32)
        return (_reset(d_hidden, keep_now), _reset(d_cell * forget, keep_now), _put(all_d_gates, d_gates, t)), None

    start = (d_hidden, d_cell, jnp.zeros(activated.shape, first.gates.dtype))
    (d_hidden, d_cell, d_gates), _ = jax.lax.scan(step, start, jnp.arange(keep.shape[0]), reverse=True)
    flat = [x.astype(kernel.dtype).reshape(num_trained, -1, x.shape[-1]) for x in (hidden_before, d_gates)]
    d_kernel = jnp.einsum("vnh,vng->vhg", *flat, preferred_element_type=jnp.float32).astype(kernel.dtype)

    gradients: Parts = jax.tree.map(jnp.zeros_like, parts)
    trained = Part(d_gates, d_kernel, d_hidden, d_cell)
    if num_trained < first.kernel.shape[0]:
        trained = jax.tree.map(lambda d, zeros: jnp.concatenate([d, zeros[num_trained:]]), trained, gradients[0])
    return (trained, *gradients[1:]), np.zeros(keep.shape, jax.dtypes.float0)


unroll.defvjp(_unroll_forward, _unroll_backward)
