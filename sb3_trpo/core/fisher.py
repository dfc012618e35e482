r"""A policy near its parameters: gradients of what depends on its distribution, and Fisher-vector products.

.. math:: F v = \sum_n w_n \, J_n^T M_n J_n v

J the Jacobian of the action distribution's parameters with respect to the policy's, M the Fisher metric in the
distribution's parameters, w the weights of the states (Schraudolph 2002; Martens 2020, arXiv 1412.1193, section 9).
At the policy itself F is the Hessian of the mean KL(old || new), and it is positive semi-definite by construction.

- `GaussNewton` with an `MlpJacobian`: closed form, no graph;
- `GaussNewton` with an `AutogradJacobian`: any differentiable policy, two vector-Jacobian products;
- `GaussNewton` with a `FiniteDifferenceJacobian`: a policy that can be differentiated once only, such as cuDNN's LSTM;
- `DoubleBackprop` of the KL, for distributions whose metric is not known.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch as th
from torch import Tensor

from sb3_trpo.core.distributions import Distribution, MetricDistribution, Tangents
from sb3_trpo.core.kronecker import Factors
from sb3_trpo.core.mlp import MlpJacobian
from sb3_trpo.core.parameters import elsewhere, flat_gradient, flatten
from sb3_trpo.core.surrogate import weighted_mean

KEPT_BYTES = 256 * 2**20
"""Memory that `Linearizations` keep between Fisher-vector products; what does not fit is built again for each."""


class Linearization(Protocol):
    """A policy near its current parameters, on one batch of N states."""

    @property
    def distribution(self) -> Distribution:
        """The action distributions there, as constants."""

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""

    def gradient(self, objective: Callable[[Any], Tensor]) -> tuple[Tensor, Tensor]:
        """Value () of a scalar function of the action distributions, and its gradient (P,)."""

    def fisher_vector_product(self, v: Tensor, weights: Tensor) -> Tensor:
        """``sum_n w_n J_n^T M_n J_n v`` (P,), without damping, for weights (N,)."""

    def kronecker_factors(self, weights: Tensor) -> Factors | None:
        """Factors of that matrix, for weights (N,); None where it has no such structure."""


class Linearizations:
    """The linearizations of several batches, in order, as many of them kept in memory as ``kept_bytes`` allow.

    The others are built again on each pass, at the parameters as they stand then: memory is bounded by
    ``kept_bytes`` and one batch, whatever the length of the rollout.
    """

    def __init__(
        self, linearize: Callable[[Any], Linearization], batches: Sequence[Any], kept_bytes: int | None = None
    ):
        self._linearize = linearize
        self._batches = batches
        self._room = KEPT_BYTES if kept_bytes is None else kept_bytes
        self._kept: list[Linearization] = []

    def __iter__(self) -> Iterator[Linearization]:
        """Each batch's linearization."""
        for index, batch in enumerate(self._batches):
            if index < len(self._kept):
                yield self._kept[index]
                continue
            linearization = self._linearize(batch)
            if index == len(self._kept) and linearization.nbytes <= self._room:
                self._kept.append(linearization)
                self._room -= linearization.nbytes
            yield linearization


class Jacobian(Protocol):
    """A linear map between flat parameter tangents (P,) and tangents of distribution parameters."""

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""

    def jvp(self, vector: Tensor) -> Tangents:
        """``J v``."""

    def vjp(self, cotangents: Tangents) -> Tensor:
        """``J^T u``."""


class GaussNewton:
    """Linearization by a Jacobian and a Fisher metric.

    :param distribution: the action distributions as constants
    """

    def __init__(self, jacobian: Jacobian, distribution: MetricDistribution):
        self.jacobian = jacobian
        self.distribution = distribution

    @property
    def nbytes(self) -> int:
        """Memory held by the Jacobian, in bytes."""
        return self.jacobian.nbytes

    def gradient(self, objective: Callable[[Any], Tensor]) -> tuple[Tensor, Tensor]:
        """``J^T u`` with u the gradient in the distribution's parameters."""
        parameters = tuple(p.detach().requires_grad_() for p in self.distribution.parameters)
        with th.enable_grad():
            value = objective(self.distribution.with_parameters(parameters))
        cotangents = th.autograd.grad(value, parameters, materialize_grads=True)
        return value.detach(), self.jacobian.vjp(cotangents)

    def fisher_vector_product(self, v: Tensor, weights: Tensor) -> Tensor:
        """``J^T (w M) J v``."""
        Jv = self.jacobian.jvp(v)
        MJv = self.distribution.fisher_metric(Jv, weights)
        return self.jacobian.vjp(MJv)

    def kronecker_factors(self, weights: Tensor) -> Factors | None:
        """For a perceptron."""
        if not isinstance(self.jacobian, MlpJacobian):
            return None
        return self.jacobian.kronecker_factors(partial(self.distribution.fisher_metric, weights=weights), weights)


class DoubleBackprop:
    """Linearization by the graph of a distribution of which only torch's KL formula is known.

    :param attached: the policy's distribution, in the graph of ``parameters``
    :param distribution: the same distribution as a constant
    """

    def __init__(self, attached: Distribution, distribution: Distribution, parameters: Sequence[Tensor], nbytes: int):
        self.distribution = distribution
        self.nbytes = nbytes
        self._attached = attached
        self._parameters = parameters
        self._kl_gradient: tuple[Tensor, Tensor] | None = None

    def gradient(self, objective: Callable[[Any], Tensor]) -> tuple[Tensor, Tensor]:
        """By backpropagation."""
        with th.enable_grad():
            value = objective(self._attached)
        return value.detach(), flat_gradient([value], self._parameters, retain_graph=True)

    def fisher_vector_product(self, v: Tensor, weights: Tensor) -> Tensor:
        """``H v``, the Hessian of the mean KL(distribution || attached) where both are equal."""
        if self._kl_gradient is None or self._kl_gradient[0] is not weights:
            with th.enable_grad():
                kl = weighted_mean(self.distribution.kl_divergence(self._attached), weights)
            self._kl_gradient = weights, flat_gradient([kl], self._parameters, create_graph=True)
        return flat_gradient([th.dot(self._kl_gradient[1], v)], self._parameters, retain_graph=True)

    def kronecker_factors(self, weights: Tensor) -> None:
        """None: nothing is known of the structure."""


class AutogradJacobian:
    """Jacobian of ``outputs`` with respect to ``parameters``, through the graph that connects them.

    The forward product is the derivative of the reverse one in its cotangent, since ``u -> J^T u`` is linear:
    ``J v = d(v^T J^T u) / du``. The reverse one is differentiated once; each product is then one pass over a graph.

    :param nbytes: memory that the graphs hold, for `Linearizations`
    """

    def __init__(self, outputs: Tangents, parameters: Sequence[Tensor], nbytes: int = 0):
        self.nbytes = nbytes
        self._outputs = outputs
        self._parameters = parameters
        self._moving = [output for output in outputs if output.requires_grad]  # the others are frozen
        self._dummies = [th.zeros_like(output, requires_grad=True) for output in self._moving]
        self._cotangent_map: Tensor | None = None

    def jvp(self, vector: Tensor) -> Tangents:
        """``J v`` by differentiating ``J^T u`` in u; zero for an output that no parameter moves."""
        if self._cotangent_map is None:
            self._cotangent_map = flat_gradient(self._moving, self._parameters, self._dummies, create_graph=True)
        tangents = iter(
            th.autograd.grad(self._cotangent_map, self._dummies, vector, retain_graph=True, materialize_grads=True)
        )
        return tuple(next(tangents) if output.requires_grad else th.zeros_like(output) for output in self._outputs)

    def vjp(self, cotangents: Tangents) -> Tensor:
        """``J^T u`` by one reverse pass."""
        moving = [u for u, output in zip(cotangents, self._outputs, strict=True) if output.requires_grad]
        return flat_gradient(self._moving, self._parameters, moving, retain_graph=True)


class FiniteDifferenceJacobian:
    """The same Jacobian for ``outputs`` that can be differentiated once only, as those of cuDNN's LSTM.

    The reverse product is one pass over their graph; the forward one is a central difference of two evaluations,
    ``J v = (phi(theta + h v) - phi(theta - h v)) / 2 h + O(h^2)``, with ``h |v|`` the cube root of the rounding unit
    times ``|theta|``, where the errors of truncation and of rounding meet.

    :param evaluate: the same outputs at the parameters as they stand, without a graph
    :param nbytes: memory that the graph holds, for `Linearizations`
    """

    def __init__(
        self,
        outputs: Tangents,
        parameters: Sequence[Tensor],
        evaluate: Callable[[], Tangents],
        nbytes: int = 0,
    ):
        self._reverse = AutogradJacobian(outputs, parameters, nbytes)
        self.nbytes = nbytes
        self._parameters = parameters
        self._evaluate = evaluate

    def jvp(self, vector: Tensor) -> Tangents:
        """``J v``; the parameters are moved for the two evaluations and are the same bit for bit afterwards."""
        length = float(th.linalg.vector_norm(vector))
        if length == 0.0:
            return tuple(th.zeros_like(output) for output in self._evaluate())
        size = max(float(sum(p.detach().square().sum() for p in self._parameters)) ** 0.5, 1.0)
        h = th.finfo(vector.dtype).eps ** (1 / 3) * size / length
        ahead, behind = self._at(vector, h), self._at(vector, -h)
        return tuple((plus - minus) / (2.0 * h) for plus, minus in zip(ahead, behind, strict=True))

    def vjp(self, cotangents: Tangents) -> Tensor:
        """``J^T u`` by one reverse pass."""
        return self._reverse.vjp(cotangents)

    def _at(self, vector: Tensor, h: float) -> Tangents:
        """The outputs at ``theta + h v``; the graph still holds at theta."""
        with elsewhere(self._parameters, flatten(self._parameters) + h * vector):
            return tuple(output.clone() for output in self._evaluate())  # one may be a parameter itself
