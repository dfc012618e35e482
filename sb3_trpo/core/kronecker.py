r"""A Kronecker-factored preconditioner for conjugate gradient on the damped Fisher matrix of a perceptron.

The block of layer l, with weights and bias as one matrix (out, in + 1), is nearly a Kronecker product,

.. math:: F_l \approx G_l \otimes A_l, \qquad A_l = E[\bar a_{l-1} \bar a_{l-1}^T], \qquad
          G_l = E\Big[\frac{\partial z_L}{\partial z_l}^T M \, \frac{\partial z_L}{\partial z_l}\Big]

(K-FAC, Martens & Grosse 2015, arXiv 1503.05671; for policies Wu et al. 2017, arXiv 1708.05144). With the
eigenvectors of both factors the damped block is inverted exactly:

.. math:: (G \otimes A + \lambda I)^{-1} V = U_G \left[ \frac{U_G^T V U_A}{g \, a^T + \lambda} \right] U_A^T

The matrix that conjugate gradient solves with stays the exact Fisher: the factors, of a few hundred states, only make
it converge sooner.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_trpo.core.conjugate_gradient import LinearMap

STATES = 256
"""States that the factors are estimated from, about."""

WIDEST = 512
"""Units of the widest layer up to which eigenvectors cost less than the products they save."""


class Factors(NamedTuple):
    """Sums over states.

    ``layers``: (A, G) of each layer of a perceptron, (in + 1, in + 1) and (out, out); ``diagonal`` (F,) of the Fisher
    matrix of the free parameters; ``weight`` of the states in A and G.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    diagonal: Tensor
    weight: Tensor

    def __add__(self, other: "Factors") -> "Factors":  # type: ignore[override]  # a sum, not a longer tuple
        """Those of the states of both."""
        layers = [(a + b, g + h) for (a, g), (b, h) in zip(self.layers, other.layers, strict=True)]
        return Factors(layers, self.diagonal + other.diagonal, self.weight + other.weight)


def kronecker_preconditioner(factors: Factors, damping: float) -> LinearMap | None:
    """``r (P,) -> M^-1 r (P,)`` near the inverse of ``F + damping * I``, in the order of `Mlp.parameters`.

    :return: None where the factors are not finite, or have no eigenvectors that could be found
    """
    everything = [factors.diagonal, factors.weight, *(factor for layer in factors.layers for factor in layer)]
    if not all(th.isfinite(tensor).all() for tensor in everything):
        return None
    try:
        pairs = [[th.linalg.eigh(factor / factors.weight) for factor in layer] for layer in factors.layers]
    except th.linalg.LinAlgError:  # type: ignore[attr-defined]
        return None
    largest = max(float(A.eigenvalues[-1] * G.eigenvalues[-1]) for A, G in pairs)
    damping = max(damping, th.finfo(factors.diagonal.dtype).eps * max(largest, 1.0))  # a direction without curvature
    blocks = [
        (G.eigenvectors, A.eigenvectors, 1.0 / (th.outer(G.eigenvalues.relu(), A.eigenvalues.relu()) + damping))
        for A, G in pairs
    ]
    free = 1.0 / (factors.diagonal + damping)

    def precondition(r: Tensor) -> Tensor:
        result, start = th.empty_like(r), 0
        for U_G, U_A, inverse in blocks:
            height, width = len(U_G), len(U_A) - 1
            bias = start + height * width
            end = bias + height
            V = th.cat([r[start:bias].view(height, width), r[bias:end].unsqueeze(1)], 1)
            V = U_G @ ((U_G.t() @ V @ U_A) * inverse) @ U_A.t()
            result[start:bias].view(height, width).copy_(V[:, :-1])
            result[bias:end] = V[:, -1]
            start = end
        result[start:] = free * r[start:]
        return result

    return precondition
