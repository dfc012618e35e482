r"""Gradient tracking: history smooths the policy gradient.

.. math:: y_t = g_t(\theta_t) + (1 - a)\,\bigl(y_{t-1} - g_t(\theta_{t-1})\bigr)

The carried estimate is brought to the present policy by what the *previous* policy's gradient is on the *new* batch,
so that what is subtracted and what was carried have the same mean and errors that cancel: with a = 1 it is the
plain gradient, with a = 0 the recursion of decentralised optimisation whose consensus version averages y over workers.

.. math:: g_t(\theta_{t-1}) = \sum_n w_n \min(\rho_n, c) \, \nabla \log \pi_{\theta_{t-1}}(a_n | s_n) \, A_n, \qquad
          \rho_n = \pi_{\theta_{t-1}}(a_n | s_n) / \pi_{\theta_t}(a_n | s_n)

which is the gradient of the surrogate objective at the previous parameters, its ratios truncated at c.

Source: STORM-PG (Yuan, Lian, Liu, Zhou 2020, arXiv 2003.04302). Differs from it: ratios are those of single actions and
not of whole trajectories, whose variance grows with their length, and advantages are those of the present policy. Both
errors are of first order in the step between the two policies, which the trust region keeps small; they can be as large
as the correction itself. `sb3_trpo.extensions.hessian_tracking` is without the former.

Advantages that are standardised are divided by a number that changes from batch to batch. The estimate is carried in
the units of the advantages before that, y sigma_t, so that it is the same whether they are standardised or not; the
mean that is subtracted is a baseline, which changes no expectation. What an entropy bonus adds to the gradient is known
where the policy is, and is not tracked.

The tracked gradient belongs to an objective, on which the line search is to decide:
``L(theta) + (y_t - g_t)^T (theta - theta_t)``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch as th
from torch import Tensor

from sb3_trpo.core.natural_step import NaturalStep
from sb3_trpo.core.parameters import elsewhere, flatten
from sb3_trpo.core.problem import Evaluation, Sample, TrustRegionProblem


@dataclass
class GradientTracking:
    """The estimate ``y_t`` in place of the batch's gradient.

    :param weight: a in (0, 1], the part of the fresh gradient
    :param truncation: c >= 1, the largest probability ratio
    :raises ValueError: for numbers outside
    """

    weight: float = 0.5
    truncation: float = 2.0
    estimate: Tensor | None = field(default=None, init=False)
    """``y sigma`` of the last update (P,), in units of the advantages before they were standardised."""
    previous: Tensor | None = field(default=None, init=False)
    """The parameters ``theta`` (P,) that it belongs to."""
    cosine: float = field(default=math.nan, init=False)
    """Between the last estimate and its batch's own gradient; NaN before there is a history."""

    def __post_init__(self) -> None:
        """Refuse what is no average."""
        if not 0.0 < self.weight <= 1.0:
            raise ValueError(f"weight={self.weight!r} must be a number in (0, 1]: the part of the fresh gradient")
        if not 1.0 <= self.truncation < math.inf:
            raise ValueError(f"truncation={self.truncation!r} must be a finite number >= 1")

    def repose(self, problem: TrustRegionProblem, sample: Sample) -> TrustRegionProblem:
        """The same problem with the tracked gradient, and the objective that it is the gradient of."""
        self.cosine = math.nan
        if sample.scale == 0.0:
            return problem  # advantages without a signal have no units to carry anything into
        here, fresh = flatten(problem.parameters), problem.gradient
        if any(batch.objective.entropy_coefficient for batch in sample.batches):
            fresh = gradient_at(here, problem, sample, [batch.objective.truncated() for batch in sample.batches])
        tracked = fresh
        if self.previous is not None and self.estimate is not None and len(self.previous) == len(here):
            there = self.earlier_gradient(self.previous.to(fresh), fresh, problem, sample)
            tracked = fresh + (1.0 - self.weight) * (self.estimate.to(fresh) / sample.scale - there)
            self.cosine = float(th.cosine_similarity(tracked, fresh, dim=0))
        if not th.isfinite(tracked).all():
            self.estimate = self.previous = None  # the history begins anew
            return problem
        self.estimate, self.previous = tracked * sample.scale, here
        correction = tracked - fresh

        def evaluate() -> Evaluation:
            found = problem.evaluate()
            moved = flatten(problem.parameters) - here
            return found._replace(objective=found.objective + float(th.dot(correction, moved)))

        return problem._replace(gradient=problem.gradient + correction, evaluate=evaluate)

    def earlier_gradient(self, previous: Tensor, fresh: Tensor, problem: TrustRegionProblem, sample: Sample) -> Tensor:
        """``g_t(theta_{t-1})`` (P,).

        :param previous: theta_{t-1} (P,)
        :param fresh: g_t(theta_t) (P,)
        """
        truncated = [batch.objective.truncated(self.truncation) for batch in sample.batches]
        return gradient_at(previous, problem, sample, truncated)

    def update(self, step: NaturalStep) -> None:
        """Nothing to learn: where the step led is seen at the next one."""

    def measures(self) -> Mapping[str, float]:
        """How far history turned the gradient."""
        return {"tracking_cosine": self.cosine}


def gradient_at(
    parameters: Tensor, problem: TrustRegionProblem, sample: Sample, objectives: Sequence[Callable[[Any], Tensor]]
) -> Tensor:
    """The gradient (P,) of ``objectives``, one for each batch, at ``parameters`` (P,).

    The problem's own parameters are then as before.
    """
    with elsewhere(problem.parameters, parameters):
        gradients = [
            sample.policy.linearize(batch.observations).gradient(objective)[1]
            for batch, objective in zip(sample.batches, objectives, strict=True)
        ]
    return reduce(th.add, gradients)
