"""Twin of the convolutional torso: loops over pixels (Agent57 App. F)."""

from collections.abc import Sequence

import numpy as np


def torso(kernels: Sequence[np.ndarray], biases: Sequence[np.ndarray], strides: Sequence[int], image: np.ndarray) -> np.ndarray:
    """Unpadded convolutions with ReLU over one image [H, W, channels] / 255, flat."""
    x = np.asarray(image, np.float64) / 255
    for kernel, bias, stride in zip(kernels, biases, strides, strict=True):
        x = np.maximum(convolve(x, np.asarray(kernel, np.float64), np.asarray(bias, np.float64), stride), 0.0)
    return x.reshape(-1)


def convolve(image: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """One unpadded convolution of [H, W, channels]."""
    size = kernel.shape[0]
    height, width = (image.shape[0] - size) // stride + 1, (image.shape[1] - size) // stride + 1
    out = np.zeros((height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            out[i, j] = np.tensordot(image[i * stride : i * stride + size, j * stride : j * stride + size], kernel, axes=3) + bias
    return out
