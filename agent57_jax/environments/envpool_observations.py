"""EnvPool's observations for the networks: one uint8 image [height, width, channels] or one float32 vector [size].

- An image of bytes keeps its values, with channels last: colours, stacked frames, or layers of a map.
- MiniGrid's numbers for object, colour, state and direction become planes of 0 and 255: the numbers are names, and the networks divide
  bytes by 255. The text of its mission is left out.
- A single integer in [0, n) becomes a one-hot vector of size n.
- All other numbers become one vector, part after part: floats unchanged, Booleans as 0 and 1, integers divided by their largest
  magnitude.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

FLOAT32, UINT8 = np.dtype(np.float32), np.dtype(np.uint8)
# MiniGrid's numbers: objects, colours, states (open, closed, locked), directions (right, down, left, up).
MINIGRID_SIZES = (11, 6, 3, 4)


class Encoder(NamedTuple):
    """How a task's observations are made."""

    shape: tuple[int, ...]  # [height, width, channels] or [size]
    dtype: np.dtype  # uint8 or float32
    encode: Callable[[Any], np.ndarray]  # EnvPool's observations of n environments -> [n, *shape]; new memory or EnvPool's own of this step


def make_encoder(task_id: str, state_spec: Mapping[str, Any]) -> Encoder:
    """The encoder for a task.

    Args:
      task_id: EnvPool's name, for messages.
      state_spec: EnvPool's `state_array_spec`.

    Raises:
      ValueError: one line, for observations that are neither an image nor numbers.
    """
    specs = {name: spec for name, spec in state_spec.items() if name == "obs" or name.startswith("obs:")}
    if set(specs) == {"obs:image", "obs:direction", "obs:mission"}:
        return _minigrid(tuple(specs["obs:image"].shape))
    images = [spec for spec in specs.values() if spec.dtype == np.uint8 and len(spec.shape) == 3 and spec.maximum == 255]
    if images and len(specs) > 1:
        raise ValueError(
            f"{task_id} is not supported: its observation is an image and other parts ({_listed(specs)}), and only one image is supported"
        )
    if images:
        return _image(tuple(images[0].shape))
    unbounded = {name: spec for name, spec in specs.items() if _is_whole(spec) and _largest(spec) >= np.iinfo(np.int32).max}
    if unbounded:
        raise ValueError(f"{task_id} is not supported: its observation has unbounded integers ({_listed(unbounded)})")
    if list(specs) == ["obs"] and _is_single(specs["obs"]) and _is_whole(specs["obs"]) and specs["obs"].minimum == 0:
        return _one_hot(int(specs["obs"].maximum) + 1)
    return _vector(specs)


def _is_whole(spec: Any) -> bool:
    return np.dtype(spec.dtype).kind in "iu"


def _is_single(spec: Any) -> bool:
    return tuple(spec.shape) in ((), (-1,))


def _largest(spec: Any) -> int:
    return max(abs(int(spec.minimum)), abs(int(spec.maximum)))


def _listed(specs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.removeprefix('obs:')} {np.dtype(spec.dtype)}{list(spec.shape)}" for name, spec in specs.items())


def _image(shape: tuple[int, ...]) -> Encoder:
    """Channels are the smallest axis; most tasks have them first."""
    if shape[0] > shape[-1]:
        return Encoder(shape, UINT8, lambda observation: observation)
    shown = (*shape[1:], shape[0])
    if shape[0] == 1:  # the same bytes, no copy
        return Encoder(shown, UINT8, lambda observation: observation.reshape(-1, *shown))
    return Encoder(shown, UINT8, lambda observation: np.ascontiguousarray(np.moveaxis(observation, 1, -1)))


def _minigrid(shape: tuple[int, ...]) -> Encoder:
    """Planes [height, width, 24]: 11 for objects, 6 for colours, 3 for states, and 4 for the direction, the same in every cell."""
    grids = np.indices(MINIGRID_SIZES).reshape(len(MINIGRID_SIZES), -1)  # all combinations, in the order of their numbers
    planes = [np.eye(size, dtype=np.uint8)[numbers] for size, numbers in zip(MINIGRID_SIZES, grids, strict=True)]
    table = np.concatenate(planes, axis=1) * np.uint8(255)
    factors = [np.uint16(math.prod(MINIGRID_SIZES[axis + 1 :])) for axis in range(3)]

    def encode(observation: Any) -> np.ndarray:
        image, direction = observation["image"], observation["direction"]
        combination = direction.astype(np.uint16).reshape(-1, 1, 1)
        for channel, factor in enumerate(factors):
            combination = combination + image[..., channel] * factor
        return np.take(table, combination, axis=0)

    return Encoder((*shape[:2], table.shape[1]), UINT8, encode)


def _one_hot(size: int) -> Encoder:
    table = np.eye(size, dtype=np.float32)
    return Encoder((size,), FLOAT32, lambda observation: table[observation.reshape(-1)])


def _vector(specs: Mapping[str, Any]) -> Encoder:
    sizes = [1 if _is_single(spec) else math.prod(spec.shape) for spec in specs.values()]
    scales = [np.float32(1.0 / max(_largest(spec), 1) if _is_whole(spec) else 1.0) for spec in specs.values()]
    if list(specs) == ["obs"] and scales == [1.0]:
        return Encoder((sizes[0],), FLOAT32, lambda observation: observation.reshape(-1, sizes[0]).astype(np.float32, copy=False))

    def encode(observation: Any) -> np.ndarray:
        parts = zip((_part(observation, name) for name in specs), sizes, scales, strict=True)
        return np.concatenate([part.reshape(-1, size).astype(np.float32) * scale for part, size, scale in parts], axis=1)

    return Encoder((sum(sizes),), FLOAT32, encode)


def _part(observation: Any, name: str) -> np.ndarray:
    """EnvPool shows "obs:position.row" as observation["position"]["row"]."""
    found = observation
    for key in name.removeprefix("obs").removeprefix(":").split("."):
        found = found[key] if key else found
    return np.asarray(found)
