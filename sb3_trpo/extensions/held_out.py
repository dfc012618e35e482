"""Validation of each update on steps that it was not computed from: what does harm there is undone.

A candidate of the line search is refused when its KL divergence on the held-out steps is above the radius, or when
the surrogate objective falls there significantly: when the upper bound of the improvement is below zero (see
`improvement`). Smaller fractions of the step are tried then; when none passes, the policy stays what it was.

That is a guard, and gives the benefit of the doubt; `confidence` gives none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from sb3_trpo.core.natural_step import NaturalStep
from sb3_trpo.core.problem import Sample, TrustRegionProblem
from sb3_trpo.core.status import StepStatus
from sb3_trpo.extensions.improvement import Improvement, check_fraction, check_level, margin


@dataclass
class HeldOutValidation:
    """The guard.

    :param holdout: the part of the rollout, in whole stretches of experience, that is kept aside
    :param level: alpha in (0, 0.5), the probability that a step is refused whose surrogate objective does not fall
    :param kl_factor: the held-out KL may be so many times the radius, >= 1
    :raises ValueError: for numbers outside
    """

    holdout: float = 0.2
    level: float = 0.05
    kl_factor: float = 1.0
    improvement: float = field(default=math.nan, init=False)
    """Of the last candidate that was looked at, on held-out steps."""
    kl: float = field(default=math.nan, init=False)
    """Its KL divergence there, in nats."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        check_fraction("holdout", self.holdout)
        check_level(self.level)
        if not 1.0 <= self.kl_factor < math.inf:
            raise ValueError(f"kl_factor={self.kl_factor!r} must be a finite number >= 1")

    def repose(self, problem: TrustRegionProblem, sample: Sample) -> TrustRegionProblem:
        """The same problem with two objections more."""
        self.improvement = self.kl = math.nan
        if not sample.held_out:
            return problem
        improvement = Improvement(sample.policy, sample.held_out)

        def objection(radius: float) -> StepStatus | None:
            found, self.kl = improvement.now()
            self.improvement = found.mean
            if not self.kl <= self.kl_factor * radius:
                return StepStatus.KL_TOO_LARGE_ON_HELD_OUT
            if not found.mean + margin(found, self.level) >= 0.0:
                return StepStatus.FELL_ON_HELD_OUT
            return problem.objection(radius)

        return problem._replace(objection=objection)

    def update(self, step: NaturalStep) -> None:
        """Nothing to learn."""

    def measures(self) -> Mapping[str, float]:
        """The last candidate as the held-out steps see it."""
        return {"held_out_improvement": self.improvement, "held_out_kl": self.kl}
