r"""How much a candidate improves the surrogate objective, and how sure that is.

.. math:: L(\theta) - L(\theta_{old}) = \sum_n w_n \bigl(\rho_n(\theta) - \rho_n(\theta_{old})\bigr) A_n

with a one-sided bound at ``mu -+ t_{1-alpha} s``, the quantile of Student's t distribution with a degree of freedom
less than there are clusters (see `sb3_trpo.core.intervals`).

On the steps that a direction was computed from, the improvement is what the direction was made for: it is positive
also where advantages are nothing but noise. On steps kept aside it is not.
"""

import math
from collections.abc import Sequence

import torch as th
from scipy.special import stdtrit
from torch import Tensor

from sb3_trpo.core.intervals import Estimate, clustered_mean
from sb3_trpo.core.problem import Policy, SurrogateBatch
from sb3_trpo.core.surrogate import weighted_mean


class Improvement:
    """Of candidates over the policy as it is now, on ``batches`` whose weights sum to one."""

    def __init__(self, policy: Policy, batches: Sequence[SurrogateBatch]):
        self._policy = policy
        self._batches = batches
        self._olds = [policy.distribution(batch.observations) for batch in batches]
        self._old_terms = self._terms(self._olds)

    @th.no_grad()
    def now(self) -> tuple[Estimate, float]:
        """That of the policy as it stands, and its mean KL(old || now) in nats."""
        candidates = [self._policy.distribution(batch.observations) for batch in self._batches]
        kl = sum(
            float(weighted_mean(old.kl_divergence(candidate), batch.weights))
            for old, candidate, batch in zip(self._olds, candidates, self._batches, strict=True)
        )
        weights = th.cat([batch.weights for batch in self._batches])
        return clustered_mean(self._terms(candidates) - self._old_terms, weights, self._clusters()), kl

    @th.no_grad()
    def _terms(self, distributions: Sequence[object]) -> Tensor:
        return th.cat([batch.objective.terms(found) for batch, found in zip(self._batches, distributions, strict=True)])

    def _clusters(self) -> Tensor | None:
        clusters = [batch.clusters for batch in self._batches if batch.clusters is not None]
        return th.cat(clusters) if len(clusters) == len(self._batches) else None


def margin(estimate: Estimate, level: float) -> float:
    """``t_{1-alpha} s``: the mean lies that far above what it estimates with probability ``level`` = alpha at most.

    Infinite where nothing is known of the error.
    """
    if not math.isfinite(estimate.standard_error):
        return math.inf
    return float(stdtrit(estimate.clusters - 1, 1.0 - level)) * estimate.standard_error


def check_level(level: float) -> None:
    """Refuse what is no probability of a mistake.

    :raises ValueError: outside (0, 0.5)
    """
    if not 0.0 < level < 0.5:
        raise ValueError(f"level={level!r} must be a number in (0, 0.5): 0.05 for a confidence of 95 %")


def check_fraction(name: str, value: float) -> None:
    """Refuse what is no part of a rollout.

    :raises ValueError: outside (0, 1)
    """
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name}={value!r} must be a number in (0, 1): the part of the rollout that is kept aside")
