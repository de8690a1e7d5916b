"""The LSTM of several networks along time, with a gradient written for long sequences (Hochreiter & Schmidhuber 1997).

All networks go through time together: a step is one batched matrix product, however many there are. The derivative of the recurrent kernel
is one product over all timesteps at the end; differentiated as it stands, the loop would add a matrix of the kernel's size at every
timestep.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def unroll(
    gates: jax.Array, kernel: jax.Array, hidden: jax.Array, cell: jax.Array, keep: jax.Array, num_trained: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Runs V LSTMs along T timesteps.

    Args:
      gates: [T, V, B, 4H], the input's part of the gates' pre-activations, in the order update, forget, candidate, output.
      kernel: [V, H, 4H], of the same type.
      hidden, cell: [V, B, H] float32, before the first timestep.
      keep: [T, B] bool, False where the state is reset before the timestep.
      num_trained: gradients are computed for so many of the V, the first ones; those of the others are 0.

    Returns:
      outputs [T, V, B, H] float32; hidden and cell state [V, B, H] after the last timestep.
    """
    return forward(gates, kernel, hidden, cell, keep, num_trained)[0]


def _reset(state: jax.Array, keep: jax.Array) -> jax.Array:
    """[..., V, B, H] where keep [..., B], else 0."""
    # Selected, not multiplied: a state that overflowed in the old episode must not leak NaN into the new one.
    return jnp.where(keep[..., None, :, None], state, 0.0)


def forward(
    gates: jax.Array, kernel: jax.Array, hidden: jax.Array, cell: jax.Array, keep: jax.Array, num_trained: int
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The results of `unroll`, and what its gradient needs beside them, of the trained networks alone: activated gates [T, V, B, 4H] and
    cells [T, V, B, H].
    """

    def step(
        carry: tuple[jax.Array, jax.Array], x: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
        from_input, keep = x
        hidden, cell = _reset(carry[0], keep), _reset(carry[1], keep)
        recurrent = jnp.einsum("vbh,vhg->vbg", hidden.astype(kernel.dtype), kernel)
        update, forget, candidate, output = jnp.split((from_input + recurrent).astype(jnp.float32), 4, axis=-1)
        # The forget gate starts open (Jozefowicz et al. 2015), so that gradients reach far back from the beginning.
        update, forget, output = jax.nn.sigmoid(update), jax.nn.sigmoid(forget + 1.0), jax.nn.sigmoid(output)
        candidate = jnp.tanh(candidate)
        cell = forget * cell + update * candidate
        hidden = output * jnp.tanh(cell)
        activated = jnp.concatenate([gate[:num_trained] for gate in (update, forget, candidate, output)], axis=-1)
        return (hidden, cell), (hidden, cell[:num_trained], activated)

    (hidden, cell), (outputs, cells, activated) = jax.lax.scan(step, (hidden, cell), (gates, keep))
    return (outputs, hidden, cell), (activated, cells)


def _unroll_forward(
    gates: jax.Array, kernel: jax.Array, hidden: jax.Array, cell: jax.Array, keep: jax.Array, num_trained: int
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    results, (activated, cells) = forward(gates, kernel, hidden, cell, keep, num_trained)
    mine = slice(num_trained)
    residuals = (kernel, hidden[mine], cell[mine], keep, results[0][:, mine], activated, cells)
    return results, residuals


def _unroll_backward(
    num_trained: int, residuals: tuple[jax.Array, ...], cotangents: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, np.ndarray]:
    kernel, hidden, cell, keep, outputs, activated, cells = residuals
    d_outputs, d_hidden, d_cell = (leaf[:, :num_trained] if leaf.ndim == 4 else leaf[:num_trained] for leaf in cotangents)
    trained = kernel[:num_trained]
    hidden_before = _reset(jnp.concatenate([hidden[None], outputs[:-1]]), keep)
    cell_before = _reset(jnp.concatenate([cell[None], cells[:-1]]), keep)

    def step(carry: tuple[jax.Array, jax.Array], x: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        d_hidden, d_cell = carry
        d_output, activated, cell, cell_before, keep = x
        update, forget, candidate, output = jnp.split(activated, 4, axis=-1)
        squashed = jnp.tanh(cell)
        d_hidden = d_hidden + d_output
        d_cell = d_cell + d_hidden * output * (1 - squashed**2)
        d_gates = jnp.concatenate(
            [
                d_cell * candidate * update * (1 - update),
                d_cell * cell_before * forget * (1 - forget),
                d_cell * update * (1 - candidate**2),
                d_hidden * squashed * output * (1 - output),
            ],
            axis=-1,
        ).astype(kernel.dtype)
        d_hidden = jnp.einsum("vbg,vhg->vbh", d_gates, trained, preferred_element_type=jnp.float32)
        return (_reset(d_hidden, keep), _reset(d_cell * forget, keep)), d_gates

    carry = (d_hidden, d_cell)
    (d_hidden, d_cell), d_gates = jax.lax.scan(step, carry, (d_outputs, activated, cells, cell_before, keep), reverse=True)
    d_kernel = jnp.einsum("tvbh,tvbg->vhg", hidden_before.astype(kernel.dtype), d_gates, preferred_element_type=jnp.float32)

    def filled(leaf: jax.Array, axis: int) -> jax.Array:
        others = list(leaf.shape)
        others[axis] = kernel.shape[0] - num_trained
        return jnp.concatenate([leaf, jnp.zeros(others, leaf.dtype)], axis=axis)

    no_gradient = np.zeros(keep.shape, jax.dtypes.float0)
    return filled(d_gates, 1), filled(d_kernel.astype(kernel.dtype), 0), filled(d_hidden, 0), filled(d_cell, 0), no_gradient


unroll.defvjp(_unroll_forward, _unroll_backward)
