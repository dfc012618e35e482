r"""The constrained problem that a trust-region step solves, on one rollout.

.. math:: \max_\theta \; L(\theta) \quad\text{s.t.}\quad \sum_n w_n \, D(\theta_{old} \| \theta)_n \le \delta

(Schulman et al. 2015, equation 14.) L is what is to rise, the surrogate objective for an actor; D is the KL divergence
of the joint action. A rollout comes in batches, whose sums add up to its means, so that a long one needs no more
memory than a batch.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple, Protocol

import torch as th
from torch import Tensor

from sb3_trpo.core.conjugate_gradient import LinearMap
from sb3_trpo.core.distributions import Distribution
from sb3_trpo.core.fisher import Linearization, Linearizations
from sb3_trpo.core.kronecker import Factors
from sb3_trpo.core.status import StepStatus
from sb3_trpo.core.surrogate import Surrogate, weighted_mean


class Policy(Protocol):
    """What the problem asks of a policy; what its observations are is its own affair."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """The trainable tensors that the action distribution depends on."""

    def distribution(self, observations: Any) -> Distribution:
        """The action distributions of a batch at the parameters as they stand, as constants."""

    def linearize(self, observations: Any) -> Linearization:
        """The policy near the parameters as they stand, on a batch."""


class Batch(NamedTuple):
    """N states of a rollout, its part ``objective`` of the whole: action distributions -> scalar, and ``weights`` (N,).

    The objectives of all batches add up to L, and the weights of all batches to one.
    """

    observations: Any
    weights: Tensor
    objective: Callable[[Any], Tensor]


class AnyBatch(Protocol):
    """What is common to batches, whatever their objective is."""

    @property
    def observations(self) -> Any:
        """Of N states."""

    @property
    def weights(self) -> Tensor:
        """(N,)."""

    @property
    def objective(self) -> Callable[[Any], Tensor]:
        """Action distributions -> scalar."""


class SurrogateBatch(NamedTuple):
    """A batch whose objective is the surrogate of a policy.

    ``clusters`` (N,) numbers the stretches of experience within which steps depend on each other, None where each
    stands for itself.
    """

    observations: Any
    weights: Tensor
    objective: Surrogate
    clusters: Tensor | None = None


class States(NamedTuple):
    """States of the Fisher estimate, with ``weights`` (N,) that sum to one over all batches."""

    observations: Any
    weights: Tensor


class Evaluation(NamedTuple):
    """Surrogate ``objective`` and mean ``kl`` = D(old || current) in nats, at the parameters as they stand."""

    objective: float
    kl: float


class TrustRegionProblem(NamedTuple):
    """``objective`` and its ``gradient`` (P,) at the old ``parameters``, curvature ``v -> F v`` of the KL there, and
    ``evaluate``, which looks at the parameters as they stand. ``entropy`` is the old policy's mean in nats, NaN
    without a closed form; ``kronecker_factors`` are those of the curvature, None where it has no such structure.
    ``penalty`` ``v -> Q v`` (positive semi-definite) makes the region smaller where it is large, ``s^T (F + Q) s / 2``
    instead of ``s^T F s / 2``. ``objection`` tells what speaks against a candidate, given the radius, that is inside
    the region and improves the objective; it looks at the parameters as they stand.
    """

    parameters: Sequence[Tensor]
    objective: float
    gradient: Tensor
    fisher_vector_product: LinearMap
    evaluate: Callable[[], Evaluation]
    entropy: float = math.nan
    kronecker_factors: Callable[[], Factors | None] = lambda: None
    penalty: LinearMap | None = None
    objection: Callable[[float], StepStatus | None] = lambda radius: None


class Sample(NamedTuple):
    """The experience behind a problem: the ``policy``, at its old parameters, and the ``batches`` that it learns from.

    ``held_out`` are batches kept aside, whose weights sum to one among themselves; ``pieces`` cuts what is learned from
    into about so many batches, however few the problem is posed on. ``scale`` is what the advantages were divided by,
    zero where they carry no signal.
    """

    policy: Policy
    batches: Sequence[SurrogateBatch]
    held_out: Sequence[SurrogateBatch]
    pieces: Callable[[int], Sequence[SurrogateBatch]]
    scale: float = 1.0


def constrained_problem(
    policy: Policy,
    batches: Sequence[AnyBatch],
    fisher_batches: Sequence[States] | None = None,
) -> TrustRegionProblem:
    """Pose the problem on a rollout; the old policy is the one that ``policy`` is now.

    :param batches: the rollout
    :param fisher_batches: the states of the Fisher estimate, those of the rollout by default
    """
    linearizations = Linearizations(policy.linearize, [batch.observations for batch in batches])
    objective = gradient = entropy = th.zeros(())
    olds: list[Distribution] = []
    for linearization, batch in zip(linearizations, batches, strict=True):
        value, slope = linearization.gradient(batch.objective)
        objective, gradient = value + objective, slope + gradient
        entropies = linearization.distribution.entropy()
        entropy = entropy + (math.nan if entropies is None else weighted_mean(entropies.detach(), batch.weights))
        olds.append(linearization.distribution)

    if fisher_batches is None:
        fisher_batches = [States(batch.observations, batch.weights) for batch in batches]
    else:
        linearizations = Linearizations(policy.linearize, [states.observations for states in fisher_batches])

    def fisher_vector_product(v: Tensor) -> Tensor:
        products = (
            linearization.fisher_vector_product(v, states.weights)
            for linearization, states in zip(linearizations, fisher_batches, strict=True)
        )
        return reduce(th.add, products)

    @th.no_grad()
    def evaluate() -> Evaluation:
        new_objective = kl = th.zeros(())
        for old, batch in zip(olds, batches, strict=True):
            candidate = policy.distribution(batch.observations)
            new_objective = batch.objective(candidate) + new_objective
            kl = weighted_mean(old.kl_divergence(candidate), batch.weights) + kl
        return Evaluation(float(new_objective), float(kl))

    def kronecker_factors() -> Factors | None:
        total: Factors | None = None
        for linearization, states in zip(linearizations, fisher_batches, strict=True):
            factors = linearization.kronecker_factors(states.weights)
            if factors is None:
                return None
            total = factors if total is None else total + factors
        return total

    return TrustRegionProblem(
        policy.parameters,
        float(objective),
        gradient,
        fisher_vector_product,
        evaluate,
        float(entropy),
        kronecker_factors,
    )
