"""Convolutional layers with ReLU of several networks over the same images.

On GPUs they are XLA's convolutions. On CPUs these are several times slower than matrix products, so each layer is a matrix product there,
forward and backward: of patches, or of pixels whose products are added up where they belong, whichever moves fewer numbers. Blocks of
images stay in the cache through all layers, and all networks share the patches of the image. Results are equal up to rounding.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BLOCK_BYTES = 3 * 2**20  # size of a block on a CPU: bytes of the largest layer's patches


class Layer(NamedTuple):
    """A layer's parameters in V networks."""

    kernel: jax.Array  # [V, k, k, channels in, channels out]
    bias: jax.Array  # [V, channels out]


Layers = tuple[Layer, ...]
Outputs = tuple[jax.Array, jax.Array]  # [V, n, features] of the trained networks, and of the others


def convolutions(layers: Layers, observation: jax.Array, strides: Sequence[int], dtype: jnp.dtype, num_trained: int) -> Outputs:
    """Unpadded convolutions with ReLU over images divided by 255.

    Observations are [n, H, W, channels] uint8; `dtype` is that of the computation. Only the first `num_trained` of the V networks get
    gradients; those of the others are 0, and images get none. Returns the last layer's flat outputs, [num_trained, n, features] and
    [V - num_trained, n, features].
    """
    layers = tuple(jax.tree.map(lambda leaf: leaf.astype(dtype), layer) for layer in layers)
    if uses_patches():
        return by_patches(layers, observation, tuple(strides), num_trained)
    return by_convolutions(layers, observation, strides, num_trained)


def uses_patches() -> bool:
    """Whether programs run on a CPU."""
    return jax.default_backend() == "cpu"


def by_convolutions(layers: Layers, observation: jax.Array, strides: Sequence[int], num_trained: int) -> Outputs:
    """`convolutions` by XLA's. The trained networks share one first layer, as do the others, since they see the same image.
    Other layers run per network: batched over kernels they would become grouped convolutions, which are slower.
    """
    trained, others = (jax.tree.map(lambda leaf, part=part: leaf[part], layers) for part in (slice(num_trained), slice(num_trained, None)))

    def run(part: Layers) -> jax.Array:
        number = part[0].kernel.shape[0]
        first = _folded_convolution(part[0], observation, strides[0])
        outputs = []
        for v in range(number):
            x = first[..., v, :]
            for layer, stride in zip(part[1:], strides[1:], strict=True):
                x = _convolution(x, layer.kernel[v], stride)
                x = jax.nn.relu(x + layer.bias[None, None, None, v])
            outputs.append(x.reshape(x.shape[0], -1))
        return jnp.stack(outputs)

    seen = run(trained)
    return seen, run(jax.lax.stop_gradient(others)) if others[0].kernel.shape[0] else jnp.zeros((0, *seen.shape[1:]), seen.dtype)


def _convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _folded_convolution(layer: Layer, observation: jax.Array, stride: int) -> jax.Array:
    """The first layer's outputs [n, h, w, V, f]. Space is folded into depth: tensor cores need more channels than a grey image has."""
    number, size, _, channels, features = layer.kernel.shape
    _, seen_rows, cell, taps = _geometry(observation.shape[1], size, stride)
    _, seen_columns, _, _ = _geometry(observation.shape[2], size, stride)
    image = _folded(observation[:, :seen_rows, :seen_columns], cell).astype(layer.kernel.dtype)
    kernel = jax.vmap(lambda kernel: _matrix(kernel, stride))(layer.kernel) / 255  # [V, K, f]
    kernel = jnp.moveaxis(kernel, 0, 1).reshape(taps, taps, cell * cell * channels, number * features)
    x = _convolution(image, kernel, stride // cell)
    return jax.nn.relu(x.reshape(*x.shape[:-1], number, features) + layer.bias[None, None, None])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def by_patches(layers: Layers, observation: jax.Array, strides: tuple[int, ...], num_trained: int, block: int | None = None) -> Outputs:
    """`convolutions` by matrix products, `block` images at a time; None: as many as the cache holds."""
    return _patches_forward(layers, observation, strides, num_trained, block, keep=False)[0]


_Kept = list[list[jax.Array]]  # for each trained network the outputs [n, h, w, f] of all layers except the first


def _patches_forward(
    layers: Layers, observation: jax.Array, strides: tuple[int, ...], num_trained: int, block: int | None, keep: bool = True
) -> tuple[Outputs, tuple[Layers, jax.Array, _Kept]]:
    """Outputs, and with `keep` those of all layers but the first, the largest, which the gradient recomputes with its patches."""
    num_networks = layers[0].kernel.shape[0]

    def one_block(images: jax.Array) -> tuple[list[jax.Array], _Kept]:
        first = _first_layer(layers[0], images, strides[0])  # [b, h, w, V, f]
        further: _Kept = []
        for v in range(num_networks):
            x = first[..., v, :]
            outputs = []
            for layer, stride in zip(layers[1:], strides[1:], strict=True):
                kernel = layer.kernel[v]
                # Without the barrier XLA would recompute this for every tap of the next layer.
                x = jax.lax.optimization_barrier(jax.nn.relu(_outputs(x, kernel, stride) + layer.bias[None, None, None, v]))
                outputs.append(x)
            further.append(outputs)
        last = [outputs[-1] for outputs in further] if len(layers) > 1 else [first[..., v, :] for v in range(num_networks)]
        flat = [x.reshape(x.shape[0], -1) for x in last]
        nothing = jnp.zeros((0, *flat[0].shape), flat[0].dtype)
        parts = [jnp.stack(part) if part else nothing for part in (flat[:num_trained], flat[num_trained:])]
        return parts, further[:num_trained] if keep else []

    blocks = _Blocks.of(observation.shape[0], block or _cached_images(layers, observation.shape, strides))
    if blocks.number == 1:  # outside a loop XLA shares common subexpressions with the rest of the program
        (trained, others), kept = one_block(observation)
        return (trained, others), (layers, observation, kept)

    shapes = jax.eval_shape(one_block, blocks.cut(observation, jnp.int32(0)))
    outputs, further = shapes
    axes = [1 for _ in outputs], [[0 for _ in leaves] for leaves in further]  # of the images
    rooms = jax.tree.map(blocks.room, shapes, axes)

    def step(rooms: Any, i: jax.Array) -> tuple[Any, None]:
        found = one_block(blocks.cut(observation, i))
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=blocks.start(i))
        return jax.tree.map(lambda room, leaf, axis: put(room, leaf, axis=axis), rooms, found, axes), None

    (results, kept), _ = jax.lax.scan(step, rooms, jnp.arange(blocks.number))
    return (results[0], results[1]), (layers, observation, kept)


class _Blocks(NamedTuple):
    """Images [n, ...] in blocks of equal size; the last block overlaps the one before it if necessary."""

    images: int
    number: int
    size: int

    @classmethod
    def of(cls, images: int, block: int) -> "_Blocks":
        """Blocks of at most `block` images."""
        number = -(-images // block)
        return cls(images, number, -(-images // number))

    def start(self, i: jax.Array) -> jax.Array:
        """First image of block i."""
        return jnp.minimum(i * self.size, self.images - self.size)

    def cut(self, x: jax.Array, i: jax.Array, axis: int = 0) -> jax.Array:
        """Block i of an array."""
        return jax.lax.dynamic_slice_in_dim(x, self.start(i), self.size, axis)

    def room(self, part: jax.Array | jax.ShapeDtypeStruct, axis: int) -> jax.Array:
        """Zeros for all blocks."""
        return jnp.zeros((*part.shape[:axis], self.images, *part.shape[axis + 1 :]), part.dtype)


def _patches_backward(
    strides: tuple[int, ...],
    num_trained: int,
    block: int | None,
    residuals: tuple[Layers, jax.Array, _Kept],
    cotangents: Outputs,
) -> tuple[Layers, np.ndarray]:
    layers, observation, kept = residuals
    cotangent = cotangents[0]
    trained: Layer = jax.tree.map(lambda leaf: leaf[:num_trained], layers[0])

    def one_block(images: jax.Array, further: _Kept, gradient: jax.Array) -> Layers:
        first = _first_layer(trained, images, strides[0])
        gradients: list[list[Layer]] = []
        firsts = []
        for v in range(num_trained):
            outputs = [first[..., v, :], *further[v]]
            d = gradient[v].reshape(outputs[-1].shape)
            of_network: list[Layer] = []
            for level in range(len(layers) - 1, 0, -1):
                d = jnp.where(outputs[level] > 0, d, 0)
                gradient_of_layer, d = _gradients(outputs[level - 1], d, layers[level].kernel[v], strides[level])
                of_network.insert(0, gradient_of_layer)
            gradients.append(of_network)
            firsts.append(jnp.where(outputs[0] > 0, d, 0))
        # All networks share the first layer's patches.
        d = jnp.concatenate(firsts, axis=-1)
        *sides, channels, features = layers[0].kernel.shape[1:]
        taps = _taps(images.astype(d.dtype), sides[0], strides[0])
        wide = _parameter_gradients(taps, d, (*sides, channels, num_trained * features), strides[0])
        kernel = wide.kernel.reshape(*sides, channels, num_trained, features)
        lowest = Layer(jnp.moveaxis(kernel, -2, 0) / 255, wide.bias.reshape(num_trained, features))
        rest = [Layer(*(jnp.stack(leaves) for leaves in zip(*level, strict=True))) for level in zip(*gradients, strict=True)]
        return (lowest, *rest)

    blocks = _Blocks.of(observation.shape[0], block or _cached_images(layers, observation.shape, strides))

    def step(sums: Layers, i: jax.Array) -> tuple[Layers, None]:
        gradient = blocks.cut(cotangent, i, axis=1)
        if blocks.number * blocks.size > blocks.images:
            is_new = blocks.start(i) + jnp.arange(blocks.size) >= i * blocks.size  # in no earlier block
            gradient = jnp.where(is_new[None, :, None], gradient, 0)
        further = jax.tree.map(lambda leaf: blocks.cut(leaf, i), kept)
        return jax.tree.map(jnp.add, sums, one_block(blocks.cut(observation, i), further, gradient)), None

    # Always summed in float32: a block's part is small compared with the sum of hundreds.
    sums: Layers = jax.tree.map(lambda leaf: jnp.zeros((num_trained, *leaf.shape[1:]), jnp.float32), layers)
    if blocks.number == 1:
        sums = one_block(observation, kept, cotangent)
    else:
        sums, _ = jax.lax.scan(step, sums, jnp.arange(blocks.number))
    others = layers[0].kernel.shape[0] - num_trained
    filled = jax.tree.map(
        lambda leaf, layer: jnp.concatenate([leaf, jnp.zeros((others, *leaf.shape[1:]))]).astype(layer.dtype), sums, layers
    )
    return filled, np.zeros(observation.shape, jax.dtypes.float0)


by_patches.defvjp(_patches_forward, _patches_backward)


def _first_layer(layer: Layer, images: jax.Array, stride: int) -> jax.Array:
    """The outputs of all V networks [b, h, w, V, f] as one product of the shared patches."""
    num_networks, size = layer.kernel.shape[:2]
    matrix = jnp.moveaxis(jax.vmap(lambda kernel: _matrix(kernel, stride))(layer.kernel), 0, 1) / 255  # [K, V, f]
    wide = _product(_taps(images.astype(matrix.dtype), size, stride), matrix.reshape(matrix.shape[0], -1))
    return jax.lax.optimization_barrier(jax.nn.relu(wide.reshape(*wide.shape[:-1], num_networks, -1) + layer.bias[None, None, None]))


def _outputs(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution [n, h, w, f] of images [n, H, W, c], without its bias."""
    if not _is_wide(x.shape, kernel.shape, stride):
        return _product(_taps(x, kernel.shape[0], stride), _matrix(kernel, stride))
    cells, places = _cells(x, kernel.shape[0], stride), _places(x.shape, kernel.shape[0], stride)
    wide = _product(cells, _wide_matrix(kernel, stride))
    parts = jnp.split(wide, len(places), axis=-1)
    total = parts[0][places[0]]
    for part, place in zip(parts[1:], places[1:], strict=True):
        total += part[place]
    return total


def _gradients(x: jax.Array, d: jax.Array, kernel: jax.Array, stride: int) -> tuple[Layer, jax.Array]:
    """The gradient of `_outputs` plus bias for d [n, h, w, f]: of the layer, in float32, and of x."""
    size = kernel.shape[0]
    if not _is_wide(x.shape, kernel.shape, stride):
        layer = _parameter_gradients(_taps(x, size, stride), d, kernel.shape, stride)
        return layer, _image_gradient(_product(d, _matrix(kernel, stride).T), x.shape, size, stride)
    cells, places = _cells(x, size, stride), _places(x.shape, size, stride)
    wide = jnp.concatenate([_placed(d, place, cells.shape) for place in places], axis=-1)
    matrix = _correlated(cells, wide).reshape(-1, len(places), kernel.shape[-1]).swapaxes(0, 1)  # [taps, depth, f]: the rows of `_matrix`
    layer = Layer(_kernel(matrix, kernel.shape, stride), jnp.sum(d, axis=(0, 1, 2), dtype=jnp.float32))
    return layer, _pixels(_product(wide, _wide_matrix(kernel, stride).T), x.shape, _cell(size, stride))


def _is_wide(shape: Sequence[int], kernel_shape: Sequence[int], stride: int) -> bool:
    """Whether multiplying every cell by all taps, and adding up afterwards, moves fewer numbers than patches."""
    _, height, width, channels = shape
    size, features = kernel_shape[0], kernel_shape[-1]
    (rows, seen_rows, cell, taps), (columns, seen_columns, _, _) = (_geometry(side, size, stride) for side in (height, width))
    return (seen_rows // cell) * (seen_columns // cell) * taps**2 * features < rows * columns * size**2 * channels


def _cells(x: jax.Array, kernel_size: int, stride: int) -> jax.Array:
    """The part of images that the kernel sees, folded into cells."""
    seen_rows, seen_columns = (_geometry(side, kernel_size, stride)[1] for side in x.shape[1:3])
    return _folded(x[:, :seen_rows, :seen_columns], _cell(kernel_size, stride))


def _places(shape: Sequence[int], kernel_size: int, stride: int) -> list[tuple[slice, ...]]:
    """For each tap of the kernel, the cells that it meets as it moves over the image."""
    (rows, _, cell, taps), (columns, _, _, _) = (_geometry(side, kernel_size, stride) for side in shape[1:3])
    step = stride // cell
    starts = [(i, j) for i in range(taps) for j in range(taps)]
    return [(slice(None), slice(i, i + (rows - 1) * step + 1, step), slice(j, j + (columns - 1) * step + 1, step)) for i, j in starts]


def _cached_images(layers: Layers, shape: Sequence[int], strides: Sequence[int]) -> int:
    """Number of images whose patches fit into BLOCK_BYTES."""
    _, height, width, _ = shape
    largest = 1
    for layer, stride in zip(layers, strides, strict=True):
        _, size, _, channels, _ = layer.kernel.shape
        height, width = (height - size) // stride + 1, (width - size) // stride + 1
        largest = max(largest, height * width * size * size * channels * layer.kernel.dtype.itemsize)
    return max(1, BLOCK_BYTES // largest)


def _cell(kernel_size: int, stride: int) -> int:
    """Side of the cells into which space is folded: the stride if it divides the kernel size, else 1."""
    return stride if kernel_size % stride == 0 else 1


def _folded(x: jax.Array, cell: int) -> jax.Array:
    """Space to depth: [n, H, W, c] -> [n, H / cell, W / cell, cell * cell * c]."""
    n, height, width, channels = x.shape
    if cell == 1:
        return x
    x = x.reshape(n, height // cell, cell, width // cell, cell, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // cell, width // cell, cell * cell * channels)


def _unfolded(x: jax.Array, cell: int) -> jax.Array:
    """Depth to space, the inverse of `_folded`."""
    n, height, width, channels = x.shape
    if cell == 1:
        return x
    x = x.reshape(n, height, width, cell, cell, channels // cell**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height * cell, width * cell, channels // cell**2)


def _geometry(size: int, kernel_size: int, stride: int) -> tuple[int, int, int, int]:
    """For one side of an image: outputs, visible pixels, cell size, taps in cells."""
    outputs = (size - kernel_size) // stride + 1
    cell = _cell(kernel_size, stride)
    return outputs, (outputs - 1) * stride + kernel_size, cell, kernel_size // cell


def _taps(x: jax.Array, kernel_size: int, stride: int) -> jax.Array:
    """Patches [n, h, w, taps * taps * cell * cell * c] of images [n, H, W, c]."""
    cells = _cells(x, kernel_size, stride)
    return jnp.concatenate([cells[place] for place in _places(x.shape, kernel_size, stride)], axis=-1)


def _image_gradient(taps: jax.Array, shape: Sequence[int], kernel_size: int, stride: int) -> jax.Array:
    """The transpose of `_taps`: gradients of patches [n, h, w, K] to gradients of images [n, H, W, c]."""
    _, height, width, channels = shape
    (_, seen_rows, cell, _), (_, seen_columns, _, _) = (_geometry(side, kernel_size, stride) for side in (height, width))
    cells = seen_rows // cell, seen_columns // cell
    places = _places(shape, kernel_size, stride)
    total = jnp.zeros((taps.shape[0], *cells, cell * cell * channels), taps.dtype)
    for part, place in zip(jnp.split(taps, len(places), axis=-1), places, strict=True):
        total += _placed(part, place, total.shape)
    return _pixels(total, shape, cell)


def _placed(part: jax.Array, place: tuple[slice, ...], shape: Sequence[int]) -> jax.Array:
    """[n, h, w, f] at the cells [n, H, W, ...] that a tap meets, zeros elsewhere."""
    room = [(along.start, size - along.stop, along.step - 1) for along, size in zip(place[1:], shape[1:3], strict=True)]
    return jax.lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *room, (0, 0, 0)])


def _pixels(cells: jax.Array, shape: Sequence[int], cell: int) -> jax.Array:
    """Cells as an image [n, H, W, c], with zeros where the kernel sees nothing."""
    image = _unfolded(cells, cell)
    unseen = [(0, whole - seen) for whole, seen in zip(shape[1:3], image.shape[1:3], strict=True)]
    return jnp.pad(image, ((0, 0), *unseen, (0, 0)))


def _parameter_gradients(taps: jax.Array, gradient: jax.Array, shape: Sequence[int], stride: int) -> Layer:
    """Float32 gradients of a kernel of this shape and its bias, from patches [n, h, w, K] and the gradient before the bias [n, h, w, f]."""
    return Layer(_kernel(_correlated(taps, gradient), shape, stride), jnp.sum(gradient, axis=(0, 1, 2), dtype=jnp.float32))


def _matrix(kernel: jax.Array, stride: int) -> jax.Array:
    """A kernel [k, k, c, f] as the matrix [K, f] that patches are multiplied by."""
    size, _, channels, features = kernel.shape
    cell = _cell(size, stride)
    count = size // cell
    folded = kernel.reshape(count, cell, count, cell, channels, features).transpose(0, 2, 1, 3, 4, 5)
    return folded.reshape(size * size * channels, features)


def _wide_matrix(kernel: jax.Array, stride: int) -> jax.Array:
    """A kernel [k, k, c, f] as the matrix [depth of a cell, taps * f] that cells are multiplied by."""
    size, features = kernel.shape[0], kernel.shape[-1]
    taps = (size // _cell(size, stride)) ** 2
    return _matrix(kernel, stride).reshape(taps, -1, features).swapaxes(0, 1).reshape(-1, taps * features)


def _kernel(matrix: jax.Array, shape: Sequence[int], stride: int) -> jax.Array:
    """The inverse of `_matrix`."""
    size, _, channels, features = shape
    cell = _cell(size, stride)
    count = size // cell
    return matrix.reshape(count, count, cell, cell, channels, features).transpose(0, 2, 1, 3, 4, 5).reshape(tuple(shape))


def _correlated(x: jax.Array, d: jax.Array) -> jax.Array:
    """The sum over images and places of x [n, h, w, K] times d [n, h, w, f]: [K, f] float32."""
    # One matrix product: over three axes XLA would copy both sides. Transposing the narrower side first costs less than a product along
    # both first axes. The barriers keep XLA from undoing this.
    x, d = x.reshape(-1, x.shape[-1]), d.reshape(-1, d.shape[-1])
    narrow, wide = (d, x) if d.shape[-1] < x.shape[-1] else (x, d)
    transposed = jax.lax.optimization_barrier(narrow.T)
    product = jax.lax.optimization_barrier(jnp.dot(transposed, wide, preferred_element_type=jnp.float32))
    return product if narrow is x else product.T


def _product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """[n, h, w, K] times [K, f], as one large product."""
    return jnp.dot(x.reshape(-1, x.shape[-1]), matrix).reshape(*x.shape[:-1], matrix.shape[-1])
