r"""A multilayer perceptron's value, tangent and cotangent in closed form.

Layers ``l = 1..L`` with input ``a_0 = x``:

.. math:: z_l = a_{l-1} W_l^T + b_l, \qquad a_l = \phi_l(z_l), \qquad D_l = \phi_l'(z_l)

Forward tangent (J v) and reverse cotangent (J^T u) of the output with respect to all weights and biases, at
tangents ``(dW_l, db_l)`` and cotangent u:

.. math:: dz_l &= a_{l-1} dW_l^T + da_{l-1} W_l^T + db_l, \qquad da_l = D_l \, dz_l \\
          u_l &= D_l \, u, \qquad \bar W_l = u_l^T a_{l-1}, \quad \bar b_l = 1^T u_l, \quad u \leftarrow u_l W_l

(Pearlmutter 1994; Schulman 2016, appendix of the thesis.) The activations and slopes are computed once; each
product then costs two passes of matrix multiplications and no graph.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_trpo.core.activations import Activation, activate_with_slope, in_numpy, value_and_slope
from sb3_trpo.core.distributions import Metric, Tangents
from sb3_trpo.core.kronecker import STATES, WIDEST, Factors
from sb3_trpo.core.parameters import unflatten


class Layer(NamedTuple):
    """``weight`` (out, in), ``bias`` (out,), and an elementwise ``activation``, None for the identity."""

    weight: Tensor
    bias: Tensor
    activation: Activation | None


class Mlp(NamedTuple):
    """Layers of a perceptron, and ``free`` parameters: outputs which do not depend on the input (a shared log std)."""

    layers: tuple[Layer, ...]
    free: tuple[Tensor, ...] = ()

    @property
    def parameters(self) -> list[Tensor]:
        """W_1, b_1, .., W_L, b_L, then the free ones: the order of flat vectors."""
        return [tensor for layer in self.layers for tensor in (layer.weight, layer.bias)] + list(self.free)

    @property
    def n_outputs(self) -> int:
        """K, the width of the last layer."""
        return self.layers[-1].weight.shape[0]

    def detach(self) -> "Mlp":
        """The same tensors, cut from the graph: what is computed with them is recorded nowhere."""
        layers = tuple(Layer(weight.detach(), bias.detach(), activation) for weight, bias, activation in self.layers)
        return Mlp(layers, tuple(tensor.detach() for tensor in self.free))

    def __call__(self, x: Tensor) -> Tensor:
        """The value (N, K) for inputs (N, D)."""
        for weight, bias, activation in self.layers:
            x = th.addmm(bias, x, weight.t())
            if activation is not None and x.is_cpu and not x.requires_grad:
                in_numpy(activation)(x.numpy(), x.numpy())
            elif activation is not None:
                x = activation(x)
        return x


def activation_bytes(mlp: Mlp) -> int:
    """What a Jacobian holds for each row: its features, and value, slope and scratch of each unit."""
    weight = mlp.layers[0].weight
    return weight.shape[1] * weight.element_size() + 3 * sum(layer.bias.nbytes for layer in mlp.layers)


class MlpJacobian:
    """Jacobian of ``(mlp(x), *free)`` at one batch ``x`` (N, D) and at the parameters as they stand."""

    def __init__(self, mlp: Mlp, x: Tensor):
        self._weights = [layer.weight.detach() for layer in mlp.layers]
        self._like: Sequence[Tensor] = [parameter.detach() for parameter in mlp.parameters]
        self._inputs: list[Tensor] = []
        self._slopes: list[Tensor | None] = []
        for layer in mlp.layers:
            self._inputs.append(x)
            z = th.addmm(layer.bias.detach(), x, layer.weight.detach().t())
            x, slope = (z, None) if layer.activation is None else _value_and_slope(layer.activation, z)
            self._slopes.append(slope)
        self.output = x
        """The value (N, K)."""
        self._scratch = [th.empty(len(x), layer.bias.numel(), dtype=x.dtype, device=x.device) for layer in mlp.layers]

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        held = [*self._inputs, self.output, *self._scratch, *(slope for slope in self._slopes if slope is not None)]
        return sum(tensor.nbytes for tensor in held)

    def jvp(self, vector: Tensor, inputs: Tensor | None = None) -> Tangents:
        """``J v`` for the flat vector v (P,): tangents (N, K) of the output, and of the free parameters as they are.

        :param inputs: tangents (N, D) of the inputs, if they move as well
        """
        parts = unflatten(vector, self._like)
        da = inputs
        for layer, (weight, a, slope) in enumerate(zip(self._weights, self._inputs, self._slopes, strict=True)):
            dz = th.addmm(parts[2 * layer + 1], a, parts[2 * layer].t(), out=self._scratch[layer])
            if da is not None:
                dz.addmm_(da, weight.t())
            da = dz if slope is None else dz.mul_(slope)
        assert da is not None
        return (da.clone(), *parts[2 * len(self._weights) :])

    def vjp(self, cotangents: Tangents) -> Tensor:
        """``J^T u``: the flat vector (P,) for cotangents in the shapes of ``(mlp(x), *free)``."""
        return self._reverse(cotangents)[0]

    def vjp_with_inputs(self, cotangents: Tangents) -> tuple[Tensor, Tensor]:
        """The same, and the cotangents (N, D) of the inputs."""
        gradient, u = self._reverse(cotangents)
        return gradient, u @ self._weights[0]

    def _reverse(self, cotangents: Tangents) -> tuple[Tensor, Tensor]:
        """``J^T u`` and the cotangents of the first layer's ``z``."""
        u, *free = cotangents
        gradient = th.empty(sum(like.numel() for like in self._like), dtype=u.dtype, device=u.device)
        parts = unflatten(gradient, self._like)
        for layer in reversed(range(len(self._weights))):
            slope = self._slopes[layer]
            if slope is not None:
                u = th.mul(u, slope, out=self._scratch[layer])
            th.mm(u.t(), self._inputs[layer], out=parts[2 * layer])
            th.sum(u, 0, out=parts[2 * layer + 1])
            if layer > 0:
                u = th.mm(u, self._weights[layer], out=self._scratch[layer - 1])
        for part, cotangent in zip(parts[2 * len(self._weights) :], free, strict=True):
            part.copy_(cotangent)
        return gradient, u

    def kronecker_factors(self, metric: Metric, weights: Tensor) -> Factors | None:
        """Those of every k-th of the N states such that about `kronecker.STATES` remain; None for wide layers.

        :param metric: tangents -> weighted cotangents, in the shapes of ``(mlp(x), *free)``
        :param weights: (N,), those in ``metric``
        """
        if max(max(weight.shape) for weight in self._weights) > WIDEST:
            return None
        n, k = self.output.shape
        some = slice(None, None, max(1, n // STATES))
        free = [part for part in self._like[2 * len(self._weights) :]]
        unit = th.eye(k, dtype=self.output.dtype, device=self.output.device)
        none = [th.zeros_like(tensor) for tensor in free]
        # B = d z_L / d z_l and MB = M B, (n, K, H), from the output down
        B = unit.expand(len(weights[some]), k, k)
        MB = th.stack([metric((e.expand(n, k), *none))[0][some] for e in unit], 2)
        layers: list[tuple[Tensor, Tensor]] = []
        for layer in reversed(range(len(self._weights))):
            slope = self._slopes[layer]
            if slope is not None:
                B, MB = B * slope[some].unsqueeze(1), MB * slope[some].unsqueeze(1)
            G = B.flatten(0, 1).t() @ MB.flatten(0, 1)
            a = self._inputs[layer][some]
            a = th.cat([a, th.ones_like(a[:, :1])], 1)
            layers.insert(0, ((weights[some].unsqueeze(1) * a).t() @ a, G))
            B, MB = B @ self._weights[layer], MB @ self._weights[layer]
        _, *diagonals = metric((th.zeros_like(self.output), *(th.ones_like(tensor) for tensor in free)))
        diagonal = th.cat([part.flatten() for part in diagonals]) if diagonals else self.output.new_zeros(0)
        return Factors(layers, diagonal, weights[some].sum())


def _value_and_slope(activation: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    """``phi(z)`` and ``phi'(z)``; ``z`` is overwritten on a CPU."""
    if not z.is_cpu:
        return value_and_slope(activation, z)
    slope = th.empty_like(z)
    activate_with_slope(activation, z.numpy(), slope.numpy())
    return z, slope
