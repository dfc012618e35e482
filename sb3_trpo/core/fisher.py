r"""Fisher-vector products of a policy, in three forms that agree.

.. math:: F v = \sum_n w_n \, J_n^T M_n J_n v

J the Jacobian of the action distribution's parameters with respect to the policy's, M the Fisher metric in the
distribution's parameters, w the weights of the states (Schraudolph 2002; Martens 2020, arXiv 1412.1193, section 9).
At the policy itself F is the Hessian of the mean KL(old || new), and it is positive semi-definite by construction.

- `gauss_newton` with an `MlpJacobian`: closed form, no graph;
- `gauss_newton` with an `AutogradJacobian`: any differentiable policy, two vector-Jacobian products;
- `kl_hessian`: double backpropagation of the KL, for distributions whose metric is not known.
"""

from collections.abc import Sequence
from typing import Protocol

import torch as th
from torch import Tensor

from sb3_trpo.core.conjugate_gradient import LinearMap
from sb3_trpo.core.distributions import Distribution, MetricDistribution, Tangents
from sb3_trpo.core.parameters import flat_gradient
from sb3_trpo.core.surrogate import weighted_mean


class Jacobian(Protocol):
    """A linear map between flat parameter tangents (P,) and tangents of distribution parameters."""

    def jvp(self, vector: Tensor) -> Tangents:
        """``J v``."""

    def vjp(self, cotangents: Tangents) -> Tensor:
        """``J^T u``."""


class AutogradJacobian:
    """Jacobian of ``outputs`` with respect to ``parameters``, through the graph that connects them.

    The forward product is the derivative of the reverse one in its cotangent, since ``u -> J^T u`` is linear:
    ``J v = d(v^T J^T u) / du``. It is built once; each product is then one pass over the graph.
    """

    def __init__(self, outputs: Tangents, parameters: Sequence[Tensor]):
        self._outputs = outputs
        self._parameters = parameters
        self._moving = [output for output in outputs if output.requires_grad]  # the others are frozen
        self._dummies = [th.zeros_like(output, requires_grad=True) for output in self._moving]
        self._cotangent_map = flat_gradient(self._moving, parameters, self._dummies, create_graph=True)

    def jvp(self, vector: Tensor) -> Tangents:
        """``J v`` by differentiating ``J^T u`` in u; zero for an output that no parameter moves."""
        tangents = iter(
            th.autograd.grad(self._cotangent_map, self._dummies, vector, retain_graph=True, materialize_grads=True)
        )
        return tuple(next(tangents) if output.requires_grad else th.zeros_like(output) for output in self._outputs)

    def vjp(self, cotangents: Tangents) -> Tensor:
        """``J^T u`` by one reverse pass."""
        moving = [u for u, output in zip(cotangents, self._outputs, strict=True) if output.requires_grad]
        return flat_gradient(self._moving, self._parameters, moving, retain_graph=True)


def gauss_newton(jacobian: Jacobian, distribution: MetricDistribution, weights: Tensor) -> LinearMap:
    """``v -> sum_n w_n J_n^T M_n J_n v`` without damping; weights (N,) sum to one."""

    def product(v: Tensor) -> Tensor:
        Jv = jacobian.jvp(v)
        MJv = distribution.fisher_metric(Jv, weights)
        return jacobian.vjp(MJv)

    return product


def kl_hessian(
    distribution: Distribution, old: Distribution, parameters: Sequence[Tensor], weights: Tensor
) -> LinearMap:
    """``v -> H v``, the Hessian of the mean KL(old || distribution) at distribution = old, without damping.

    :param distribution: the policy's, attached to the graph of ``parameters``
    :param old: the same distribution as a constant
    """
    gradient = flat_gradient([weighted_mean(old.kl_divergence(distribution), weights)], parameters, create_graph=True)

    def product(v: Tensor) -> Tensor:
        return flat_gradient([th.dot(gradient, v)], parameters, retain_graph=True)

    return product
