r"""The constrained problem that a trust-region step solves, on one batch.

.. math:: \max_\theta \; L(\theta) \quad\text{s.t.}\quad \sum_n w_n \, D(\theta_{old} \| \theta)_n \le \delta

(Schulman et al. 2015, equation 14.) L is the surrogate objective, D the KL divergence of the joint action.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_trpo.core.conjugate_gradient import LinearMap
from sb3_trpo.core.distributions import Distribution
from sb3_trpo.core.parameters import flat_gradient
from sb3_trpo.core.surrogate import surrogate_objective, weighted_mean


class Evaluation(NamedTuple):
    """Surrogate ``objective`` and mean ``kl`` = D(old || current) in nats, at the parameters as they stand."""

    objective: float
    kl: float


class TrustRegionProblem(NamedTuple):
    """``objective`` and its ``gradient`` (P,) at the old ``parameters``, curvature ``v -> F v`` of the KL there, and
    ``evaluate``, which looks at the parameters as they stand. ``old`` is a snapshot of the old policy on the batch.
    """

    parameters: Sequence[Tensor]
    objective: float
    gradient: Tensor
    fisher_vector_product: LinearMap
    evaluate: Callable[[], Evaluation]
    old: Distribution


def surrogate_problem(
    distribution: Callable[[], Distribution],
    parameters: Sequence[Tensor],
    fisher_vector_product: LinearMap,
    actions: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    weights: Tensor,
) -> TrustRegionProblem:
    """Pose the problem on a batch of N steps; the old policy is the one that ``distribution`` gives now.

    :param distribution: the current action distributions of the batch, without a graph a snapshot that keeps its values
    :param parameters: what the distribution depends on
    :param fisher_vector_product: v (P,) -> F v (P,), undamped
    :param actions: (N, ...), in the form that the distribution's ``log_prob`` takes
    :param old_log_prob: log-probabilities (N,) under the policy that acted
    :param advantages: (N,)
    :param weights: (N,), summing to one
    """

    def surrogate(policy: Distribution) -> Tensor:
        return surrogate_objective(policy.log_prob(actions), old_log_prob, advantages, weights)

    with th.no_grad():
        old = distribution()

    def evaluate() -> Evaluation:
        with th.no_grad():
            candidate = distribution()
            kl = weighted_mean(old.kl_divergence(candidate), weights)
            return Evaluation(float(surrogate(candidate)), float(kl))

    objective = surrogate(distribution())
    gradient = flat_gradient([objective], parameters)
    return TrustRegionProblem(parameters, float(objective.detach()), gradient, fisher_vector_product, evaluate, old)
