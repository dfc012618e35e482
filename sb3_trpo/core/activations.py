"""Elementwise activations of a perceptron and their slopes on numpy arrays.

Tanh and ReLU, which nearly every policy uses, are written out: numpy's vectorised tanh is several times faster than
torch's on a CPU. Any other elementwise activation is evaluated by torch on the same memory.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch as th
from torch import Tensor, nn

Activation: TypeAlias = Callable[[Tensor], Tensor]
Array: TypeAlias = np.ndarray[Any, Any]


def in_numpy(activation: Activation) -> Callable[[Array, Array], Any]:
    """``phi`` as a function that writes ``phi(z)`` of its first argument into its second, which may be the same."""
    if type(activation) is nn.Tanh:
        return np.tanh
    if type(activation) is nn.ReLU:
        return _relu

    def by_torch(z: Array, out: Array) -> None:
        with th.no_grad():
            out[...] = activation(th.from_numpy(z)).numpy()

    return by_torch


def _relu(z: Array, out: Array) -> None:
    np.maximum(z, 0.0, out=out)


def activate_with_slope(activation: Activation, z: Array, slope: Array) -> None:
    """Replace ``z`` by ``phi(z)`` and write ``phi'(z)`` into ``slope``."""
    if type(activation) is nn.Tanh:
        np.tanh(z, out=z)
        np.multiply(z, z, out=slope)
        np.subtract(1.0, slope, out=slope)
    elif type(activation) is nn.ReLU:
        np.greater(z, 0.0, out=slope)
        np.maximum(z, 0.0, out=z)
    else:
        value, derivative = value_and_slope(activation, th.from_numpy(z))
        slope[...] = derivative.numpy()
        z[...] = value.numpy()


def value_and_slope(activation: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    """``phi(z)`` and ``phi'(z)`` on any device; ``z`` is left as it is."""
    with th.enable_grad():
        z = z.detach().requires_grad_()
        value = activation(z)
        (slope,) = th.autograd.grad(value, z, th.ones_like(value))
    return value.detach(), slope
