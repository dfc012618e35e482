r"""Controllers of the trust-region radius delta, the bound on the mean KL(old || new) in nats.

A controller turns the user's target radius at this point of training into the radius of the coming update, and
is shown each update's outcome. The reduction ratio compares what happened with what the model foretold,

.. math:: \rho = \frac{L(\theta_{new}) - L(\theta_{old})}{g^T s}

(Nocedal & Wright 2006, section 4.1; the model of TRPO is the linear one inside the region).
"""

import math
from dataclasses import dataclass
from typing import Protocol

from sb3_trpo.core.status import StepStatus


class Outcome(Protocol):
    """What a controller looks at: a `NaturalStep` has it."""

    @property
    def status(self) -> StepStatus:
        """How the step ended."""

    @property
    def reduction_ratio(self) -> float:
        """Actual over predicted improvement; NaN for a refused step."""


class RadiusController(Protocol):
    """The slot: anything with these two methods sizes the trust region."""

    def radius(self, target: float, progress_remaining: float) -> float:
        """Radius of the coming update from the target, at a progress that falls from 1 to 0 over training."""

    def update(self, outcome: Outcome) -> None:
        """Learn from the update that was made with the last radius."""


@dataclass
class FixedRadius:
    """The radius is the target (which may itself be a schedule)."""

    def radius(self, target: float, progress_remaining: float) -> float:
        """The target."""
        return target

    def update(self, outcome: Outcome) -> None:
        """Nothing to learn."""


@dataclass
class ScheduledRadius:
    """Linear from the target to ``final_factor`` times the target at the end of training.

    The schedule of TRPO+ (Engstrom et al. 2020, arXiv 2005.12729), whose tuned radii both shrink and grow.

    :raises ValueError: when ``final_factor`` is negative or not finite.
    """

    final_factor: float = 0.1

    def __post_init__(self) -> None:
        """Refuse factors that would make the radius negative."""
        if not (math.isfinite(self.final_factor) and self.final_factor >= 0.0):
            raise ValueError(f"final_factor={self.final_factor!r} must be a finite number >= 0")

    def radius(self, target: float, progress_remaining: float) -> float:
        """``target * (final_factor + (1 - final_factor) * progress_remaining)``."""
        return target * (self.final_factor + (1.0 - self.final_factor) * progress_remaining)

    def update(self, outcome: Outcome) -> None:
        """Nothing to learn."""


@dataclass
class AdaptiveRadius:
    """The target times a factor that grows while the model foretells well and shrinks when it does not.

    ``rho >= good`` multiplies the factor by ``grow``; ``rho <= poor`` or a failed line search by ``shrink``; a step
    refused for other reasons tells nothing of the region. It stays within [``min_factor``, ``max_factor``].
    Thresholds of Nocedal & Wright 2006, algorithm 4.1.

    :raises ValueError: when the constants contradict each other.
    """

    good: float = 0.75
    poor: float = 0.25
    grow: float = 1.5
    shrink: float = 0.5
    min_factor: float = 0.1
    max_factor: float = 4.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        """Refuse constants that contradict each other."""
        in_order = self.poor < self.good and 0.0 < self.shrink < 1.0 < self.grow < math.inf
        bounded = 0.0 < self.min_factor <= self.factor <= self.max_factor < math.inf
        if not (in_order and bounded):
            raise ValueError(
                f"{self!r} needs poor < good, 0 < shrink < 1 < grow and 0 < min_factor <= factor <= max_factor"
            )

    def radius(self, target: float, progress_remaining: float) -> float:
        """``target * factor``."""
        return target * self.factor

    def update(self, outcome: Outcome) -> None:
        """Grow or shrink the factor by the reduction ratio of the last step."""
        if outcome.status.is_line_search_failure or outcome.reduction_ratio <= self.poor:
            self.factor = max(self.factor * self.shrink, self.min_factor)
        elif outcome.reduction_ratio >= self.good:
            self.factor = min(self.factor * self.grow, self.max_factor)
