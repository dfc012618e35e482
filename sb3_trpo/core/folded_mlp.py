r"""A perceptron for few rows on a CPU: numpy arrays made once, biases folded into the weights, rows as columns.

With few rows a layer costs less than the calls that compute it, so there are two calls per layer here and nothing is
allocated. An activation is (H + 1, n) and its last row is one, so that

.. math:: a_l = \phi_l([W_l \; b_l] \, a_{l-1})

is one product and one activation. All weights are views of one flat vector ``theta`` and all derivatives of another,
``gradient``, so that an optimiser sees a single array. Their layout differs from that of `Mlp.parameters`: the blocks
are ``[W_l b_l]``, (out, in + 1).
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import Tensor

from sb3_trpo.core.activations import Activation, Array, activate_with_slope, in_numpy
from sb3_trpo.core.mlp import Mlp


class Room(NamedTuple):
    """A layer's arrays.

    ``block`` [W b] and its ``gradient``; ``value`` (H + 1, n), whose last row is one, and ``z``, the other rows of it;
    ``slope`` (H, n); ``cotangent`` (H + 1, n). ``kernel`` is ``activation`` in numpy, both None for the identity.
    """

    block: Array
    gradient: Array
    value: Array
    z: Array
    activation: Activation | None
    kernel: Callable[[Array, Array], Any] | None
    slope: Array
    cotangent: Array


class FoldedMlp:
    """A copy of ``mlp``, which must be on a CPU, for batches of ``n_rows``.

    Inputs and outputs are columns: `as_columns` brings rows (n, D) into the form (D + 1, n) that is wanted here.
    """

    def __init__(self, mlp: Mlp, n_rows: int):
        self._activations = [layer.activation for layer in mlp.layers]
        self._shapes = [(layer.weight.shape[0], layer.weight.shape[1] + 1) for layer in mlp.layers]
        self.theta = self.fold([tensor for layer in mlp.layers for tensor in (layer.weight, layer.bias)])
        """Weights and biases (P,)."""
        self.gradient = np.zeros_like(self.theta)
        """Derivatives (P,) in the layout of ``theta``, written by `backward`."""
        self._make_room(n_rows)

    def _make_room(self, n_rows: int) -> None:
        self.n_rows = n_rows
        self._rooms = []
        layers = zip(self._cut(self.theta), self._cut(self.gradient), self._activations, strict=True)
        for block, gradient, activation in layers:
            value = np.ones((len(block) + 1, n_rows), self.theta.dtype)
            kernel = None if activation is None else in_numpy(activation)
            slope, cotangent = np.empty_like(value[:-1]), np.empty_like(value)
            self._rooms.append(Room(block, gradient, value, value[:-1], activation, kernel, slope, cotangent))
        self.output = self._rooms[-1].z
        """The value (K, n), written by `forward`."""

    def for_rows(self, n_rows: int) -> "FoldedMlp":
        """The same weights and the same gradient for batches of another size."""
        if n_rows == self.n_rows:
            return self
        other = copy.copy(self)
        other._make_room(n_rows)
        return other

    def as_columns(self, rows: Array) -> Array:
        """Rows (n, D) as columns (D + 1, n) with a last row of ones."""
        columns = np.ones((rows.shape[1] + 1, len(rows)), self.theta.dtype)
        columns[:-1] = rows.T
        return columns

    def forward(self, x: Array) -> Array:
        """The value (K, n) at the columns ``x`` (D + 1, n)."""
        for room in self._rooms:
            np.dot(room.block, x, room.z)
            if room.kernel is not None:
                room.kernel(room.z, room.z)
            x = room.value
        return self.output

    def forward_with_slopes(self, x: Array) -> Array:
        """`forward`, and what `backward` needs."""
        for room in self._rooms:
            np.dot(room.block, x, room.z)
            if room.activation is not None:
                activate_with_slope(room.activation, room.z, room.slope)
            x = room.value
        return self.output

    def backward(self, x: Array, cotangent: Array) -> None:
        """Write ``J^T u`` for the ``cotangent`` u (K, n) of the output into ``gradient``; u is overwritten."""
        u = cotangent
        for room, below in zip(self._rooms[:0:-1], self._rooms[-2::-1], strict=True):
            if room.activation is not None:
                u *= room.slope
            np.dot(u, below.value.T, room.gradient)
            np.dot(room.block.T, u, below.cotangent)
            u = below.cotangent[:-1]
        first = self._rooms[0]
        if first.activation is not None:
            u *= first.slope
        np.dot(u, x.T, first.gradient)

    def fold(self, tensors: Sequence[Tensor]) -> Array:
        """``W_1, b_1, .., W_L, b_L``, or tensors like them, as a flat vector in the layout of ``theta``."""
        pairs = zip(tensors[0::2], tensors[1::2], strict=True)
        blocks = [th.cat([weight.detach(), bias.detach().unsqueeze(1)], 1).reshape(-1) for weight, bias in pairs]
        return th.cat(blocks).numpy()

    def unfold(self, vector: Array, into: Sequence[Tensor]) -> None:
        """Copy a vector in the layout of ``theta`` into ``W_1, b_1, .., W_L, b_L`` or tensors like them."""
        with th.no_grad():
            for block, weight, bias in zip(self._cut(vector), into[0::2], into[1::2], strict=True):
                weight.copy_(th.from_numpy(block[:, :-1]))
                bias.copy_(th.from_numpy(block[:, -1]))

    def _cut(self, vector: Array) -> list[Array]:
        ends = np.cumsum([rows * columns for rows, columns in self._shapes])
        return [part.reshape(shape) for part, shape in zip(np.split(vector, ends[:-1]), self._shapes, strict=True)]
