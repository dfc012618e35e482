"""A trust region sized by how sure the improvement is: steps that may well do harm are not made.

A candidate of the line search is accepted only when the lower bound of its improvement, on steps that the direction
was not computed from, is above zero (see `improvement`); a step that does harm then passes with probability ``level``
at most, as far as the stretches of experience that are kept aside are independent: with gamma lambda near one and noise
that is correlated they are less so, and a level of 5 % was found to be one of 8 % (0.99, pink). Its KL divergence there
must be within the radius, too: the whole rollout is then in the trust region, and not only what is learned from. The
radius shrinks when no candidate is sure enough, or when the reduction ratio is poor, and grows while improvements are
both sure and as foretold.

Source: the conservative policy improvement of Thomas, Theocharous, Ghavamzadeh (2015, High Confidence Policy
Improvement), whose test on a held-out part of the data this is, for the surrogate objective in place of importance
sampled returns; the scalar counterpart of `uncertainty`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from sb3_trpo.core.problem import Sample, TrustRegionProblem
from sb3_trpo.core.status import StepStatus
from sb3_trpo.core.trust_region import AdaptiveRadius, Outcome
from sb3_trpo.extensions.improvement import Improvement, check_fraction, check_level, margin

SURE = 0.5
"""The lower bound over the improvement itself, above which the radius may grow."""


@dataclass
class ConfidenceRadius(AdaptiveRadius):
    """The target times a factor, and a test that every step must pass.

    :param level: alpha in (0, 0.5), the probability that a step is accepted whose surrogate objective does not rise
    :param holdout: the part of the rollout, in whole stretches of experience, on which that is tested
    :raises ValueError: for numbers outside, and constants that contradict each other
    """

    level: float = 0.05
    holdout: float = 0.25
    improvement: float = field(default=math.nan, init=False)
    """Of the last candidate that was tested, on held-out steps."""
    lower: float = field(default=math.nan, init=False)
    """Its lower bound."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        super().__post_init__()
        check_level(self.level)
        check_fraction("holdout", self.holdout)

    def repose(self, problem: TrustRegionProblem, sample: Sample) -> TrustRegionProblem:
        """The same problem with one objection more."""
        self.improvement = self.lower = math.nan
        if not sample.held_out:
            return problem._replace(objection=lambda radius: StepStatus.UNCERTAIN)
        improvement = Improvement(sample.policy, sample.held_out)

        def objection(radius: float) -> StepStatus | None:
            found, kl = improvement.now()
            self.improvement, self.lower = found.mean, found.mean - margin(found, self.level)
            if not self.lower > 0.0:
                return StepStatus.UNCERTAIN
            return problem.objection(radius) if kl <= radius else StepStatus.KL_TOO_LARGE_ON_HELD_OUT

        return problem._replace(objection=objection)

    def update(self, outcome: Outcome) -> None:
        """Shrink as by the reduction ratio; grow only by what was sure as well."""
        is_sure = self.lower >= SURE * self.improvement
        if outcome.status is not StepStatus.ACCEPTED or outcome.reduction_ratio < self.good or is_sure:
            super().update(outcome)

    def measures(self) -> Mapping[str, float]:
        """The test of the last candidate."""
        return {"held_out_improvement": self.improvement, "held_out_lower_bound": self.lower}
