"""How a computation ended, as values whose text is the sentence a user reads."""

from enum import Enum


class CGStatus(Enum):
    """How the conjugate gradient method ended."""

    CONVERGED = "the residual fell below the tolerance"
    MAX_STEPS = "the step limit was reached before the tolerance"
    NON_POSITIVE_CURVATURE = "a direction of negligible or negative curvature was met"
    NON_FINITE = "a matrix-vector product was not finite"


class StepStatus(Enum):
    """How the natural step ended; every value but ``ACCEPTED`` means that the parameters were left untouched."""

    ACCEPTED = "accepted"
    ZERO_GRADIENT = "refused: the gradient is zero, the batch prefers no action"
    ZERO_RADIUS = "refused: the trust-region radius is zero"
    NON_FINITE_OBJECTIVE = "refused: the objective is not finite, look for NaN in rewards or observations"
    NON_FINITE_GRADIENT = "refused: the gradient is not finite"
    NON_FINITE_DIRECTION = "refused: a Fisher-vector product was not finite"
    NO_CURVATURE = "refused: no direction of positive curvature, raise cg_damping"
    NON_FINITE_CANDIDATE = "refused: the objective or the KL was not finite at the last candidate of the line search"
    KL_TOO_LARGE = "refused: the KL was still above the radius at the last candidate of the line search"
    NO_IMPROVEMENT = "refused: the objective had not risen at the last candidate of the line search"
    UNCERTAIN = "refused: the improvement was not certain at the last candidate of the line search"
    FELL_ON_HELD_OUT = "refused: the objective fell on held-out steps at the last candidate of the line search"
    KL_TOO_LARGE_ON_HELD_OUT = "refused: the KL on held-out steps was above the radius at the last candidate"

    @property
    def is_numeric_failure(self) -> bool:
        """Whether the refusal comes from NaN or infinity, which no healthy run produces."""
        return self in (
            StepStatus.NON_FINITE_OBJECTIVE,
            StepStatus.NON_FINITE_GRADIENT,
            StepStatus.NON_FINITE_DIRECTION,
            StepStatus.NON_FINITE_CANDIDATE,
        )

    @property
    def is_line_search_failure(self) -> bool:
        """Whether the region was too large for the models: no candidate of the line search passed."""
        return self in (
            StepStatus.NON_FINITE_CANDIDATE,
            StepStatus.KL_TOO_LARGE,
            StepStatus.NO_IMPROVEMENT,
            StepStatus.UNCERTAIN,
            StepStatus.FELL_ON_HELD_OUT,
            StepStatus.KL_TOO_LARGE_ON_HELD_OUT,
        )
