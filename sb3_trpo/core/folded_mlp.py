r"""A perceptron for few rows on a CPU: numpy arrays made once, biases folded into the weights, rows as columns.

With few rows a layer costs less than the calls that compute it, so there are two calls per layer here and nothing is
allocated. An activation is (H + 1, n) and its last row is one, so that

.. math:: a_l = \phi_l([W_l \; b_l] \, a_{l-1})

is one product and one activation. All weights are views of one flat vector ``theta`` and all derivatives of another,
``gradient``, so that an optimiser sees a single array. Their layout differs from that of `Mlp.parameters`: the blocks
are ``[W_l b_l]``, (out, in + 1).
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch as th
from torch import Tensor

from sb3_trpo.core.activations import Array, activate_with_slope, in_numpy
from sb3_trpo.core.mlp import Mlp


class FoldedMlp:
    """A copy of ``mlp``, which must be on a CPU, for batches of ``n_rows``."""

    def __init__(self, mlp: Mlp, n_rows: int):
        self._activations = [layer.activation for layer in mlp.layers]
        self._shapes = [(layer.weight.shape[0], layer.weight.shape[1] + 1) for layer in mlp.layers]
        self.theta = self.fold([tensor for layer in mlp.layers for tensor in (layer.weight, layer.bias)])
        """Weights and biases (P,)."""
        self.gradient = np.zeros_like(self.theta)
        """Derivatives (P,) in the layout of ``theta``, written by `backward`."""
        self._blocks, self._gradients = self._cut(self.theta), self._cut(self.gradient)
        self._make_room(n_rows)

    def _make_room(self, n_rows: int) -> None:
        dtype = self.theta.dtype
        self.n_rows = n_rows
        self.inputs = np.ones((self._shapes[0][1], n_rows), dtype)
        """(D + 1, n): write the rows into ``inputs[:-1]`` as columns."""
        self._hidden = [np.ones((width + 1, n_rows), dtype) for width, _ in self._shapes]
        self.output = self._hidden[-1][:-1]
        """(K, n), written by `forward`."""
        self._cotangents = [np.empty_like(hidden) for hidden in self._hidden]
        self._slopes = [np.empty_like(hidden[:-1]) for hidden in self._hidden]
        kernels = [None if activation is None else in_numpy(activation) for activation in self._activations]
        self._layers = list(
            zip(
                self._blocks,
                [self.inputs, *self._hidden[:-1]],
                [hidden[:-1] for hidden in self._hidden],
                kernels,
                self._activations,
                self._slopes,
                strict=True,
            )
        )

    def for_rows(self, n_rows: int) -> "FoldedMlp":
        """The same weights and the same gradient for batches of another size."""
        if n_rows == self.n_rows:
            return self
        other = copy.copy(self)
        other._make_room(n_rows)
        return other

    def forward(self) -> Array:
        """The value (K, n) at ``inputs``."""
        for block, below, z, activation, _, _ in self._layers:
            np.dot(block, below, z)
            if activation is not None:
                activation(z, z)
        return self.output

    def forward_with_slopes(self) -> Array:
        """`forward`, and what `backward` needs."""
        for block, below, z, _, phi, slope in self._layers:
            np.dot(block, below, z)
            if phi is not None:
                activate_with_slope(phi, z, slope)
        return self.output

    def backward(self, cotangent: Array) -> None:
        """Write ``J^T u`` for the ``cotangent`` u (K, n) of the output into ``gradient``; u is overwritten."""
        u = cotangent
        for layer in reversed(range(len(self._blocks))):
            if self._activations[layer] is not None:
                u *= self._slopes[layer]
            below = self._hidden[layer - 1] if layer else self.inputs
            np.dot(u, below.T, out=self._gradients[layer])
            if layer:
                into = self._cotangents[layer - 1]
                np.dot(self._blocks[layer].T, u, out=into)
                u = into[:-1]

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
