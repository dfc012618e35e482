r"""A trust region that shrinks in the directions in which the batch is not sure of its gradient.

.. math:: \tfrac12 s^T (F + c R^2 \Sigma) s \le \delta, \qquad
          R^2 = \frac{1}{n}\Bigl(d + 2\sqrt{d \ln(1/\alpha)} + 2\ln(1/\alpha)\Bigr)

Sigma (P, P) is the covariance of the gradient that one of n independent groups of steps gives, and R the radius of
the ellipsoid around the mean of all groups in whose metric Sigma^-1 the true gradient lies with probability
1 - alpha (a tail bound of Hsu, Kakade, Zhang 2012, for sub-Gaussian vectors of dimension d). Where the gradient is
uncertain the step is made shorter and turned away.

Source: UA-TRPO (Queeney, Paschalidis, Cassandras 2021, arXiv 2012.10791). Differs from it: Sigma is not projected on
random directions and inverted, but multiplied with, as conjugate gradient needs no more; it has the rank of the
groups that it was estimated from, d = groups - 1, and groups are stretches of consecutive steps, which depend on each
other within and hardly between. Its scale is that of F: both belong to advantages of standard deviation one where
they are standardised, and to ``c`` otherwise. The line search bounds the KL divergence of a candidate by all of delta,
where theirs bounds it by the part of delta that F has in the metric. With a tracked gradient Sigma is still that of the
batch, whose gradient is the less certain of the two.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral

import torch as th
from torch import Tensor

from sb3_trpo.core.problem import Sample, TrustRegionProblem
from sb3_trpo.core.trust_region import FixedRadius


@dataclass
class UncertaintyRegion(FixedRadius):
    """The radius is the target, the metric that of the uncertainty.

    :param level: alpha in (0, 1), the probability that the true gradient lies outside the ellipsoid
    :param scale: c >= 0, how much uncertainty counts beside the KL divergence; 0 is the plain region
    :param groups: into how many groups a batch is cut, at least 2
    :raises ValueError: for numbers outside
    """

    level: float = 0.05
    scale: float = 0.1
    groups: int = 32
    signal_to_noise: float = field(default=math.nan, init=False)
    """Squared length of the last gradient over the trace of its covariance."""

    def __post_init__(self) -> None:
        """Refuse what is no level, scale or number of groups."""
        if not 0.0 < self.level < 1.0:
            raise ValueError(f"level={self.level!r} must be a number in (0, 1): 0.05 for a confidence of 95 %")
        if not 0.0 <= self.scale < math.inf:
            raise ValueError(f"scale={self.scale!r} must be a finite number >= 0")
        if not (isinstance(self.groups, Integral) and self.groups >= 2):
            raise ValueError(f"groups={self.groups!r} must be an integer >= 2: one group has no covariance")

    def repose(self, problem: TrustRegionProblem, sample: Sample) -> TrustRegionProblem:
        """The same problem in the metric ``F + c R^2 Sigma``."""
        self.signal_to_noise = math.nan
        deviations = group_deviations(sample, self.groups)
        n = len(deviations)
        if n < 2 or not th.isfinite(deviations).all():
            return problem  # one group says nothing of its error; what is not finite is refused with its reason
        self.signal_to_noise = float(problem.gradient.square().sum() * n * (n - 1) / deviations.square().sum())
        share = self.scale * squared_confidence_radius(n, n - 1, self.level) / (n - 1)

        def penalty(v: Tensor) -> Tensor:
            return share * (deviations.T @ (deviations @ v))

        return problem._replace(penalty=penalty)

    def measures(self) -> Mapping[str, float]:
        """How much of the gradient is signal."""
        return {"signal_to_noise": self.signal_to_noise}


def group_deviations(sample: Sample, groups: int) -> Tensor:
    """``g_k - mean`` (K, P) of K groups' gradients, each scaled to estimate the gradient of the whole.

    Their covariance is ``sum_k d_k d_k^T / (K - 1)``, that of the mean a K-th of it.
    """
    pieces = sample.pieces(groups)
    gradients = th.stack(
        [
            sample.policy.linearize(piece.observations).gradient(piece.objective)[1] / piece.weights.sum()
            for piece in pieces
        ]
    )
    return gradients - gradients.mean(0)


def squared_confidence_radius(n: int, dimension: int, level: float) -> float:
    """``R^2`` for the mean of n observations."""
    tail = math.log(1.0 / level)
    return (dimension + 2.0 * math.sqrt(dimension * tail) + 2.0 * tail) / n
