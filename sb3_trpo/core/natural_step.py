r"""One trust-region step of the natural gradient.

.. math:: \max_s \; g^T s \quad\text{s.t.}\quad \tfrac12 s^T (F + \lambda I) s \le \delta
          \quad\Rightarrow\quad s = \sqrt{2\delta / x^T (F + \lambda I) x}\; x, \qquad (F + \lambda I)\, x = g

followed by a line search on the true objective and KL (Schulman et al. 2015, section 6 and appendix C).

Symbols: g (P,) gradient of the surrogate objective, F (P, P) Fisher information matrix, lambda damping,
delta trust-region radius in nats, s (P,) the full step. Where the problem has a penalty Q, F + lambda I + Q takes the
place of F + lambda I.

The step does not depend on the scale of g, and neither does the way to it: tiny and huge advantages go the same way.
Differs from sb3-contrib: the step length needs no product of its own, a step is
refused with its reason instead of leaving NaN behind, and the KL that is tested is KL(old || new).
"""

import math
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_trpo.core.conjugate_gradient import CGSolution, LinearMap, conjugate_gradient
from sb3_trpo.core.kronecker import kronecker_preconditioner
from sb3_trpo.core.line_search import backtracking_line_search
from sb3_trpo.core.problem import TrustRegionProblem
from sb3_trpo.core.status import CGStatus, StepStatus


class NaturalStep(NamedTuple):
    """Everything an update did.

    ``full_step`` s (P,) or None when there was none; ``expected_improvement`` is ``fraction * g^T s`` and
    ``quadratic_kl`` is ``fraction^2 * s^T F s / 2`` in nats, both of the step that was taken; ``objective`` and
    ``kl`` hold at the parameters as they were left.
    """

    status: StepStatus
    radius: float
    gradient_norm: float
    objective: float
    improvement: float
    expected_improvement: float
    kl: float
    quadratic_kl: float
    fraction: float
    backtracks: int
    cg: CGSolution | None
    full_step: Tensor | None

    @property
    def accepted(self) -> bool:
        """Whether the parameters moved."""
        return self.status is StepStatus.ACCEPTED

    @property
    def reduction_ratio(self) -> float:
        """rho, actual over predicted improvement; NaN for a refused step."""
        return self.improvement / self.expected_improvement if self.accepted else math.nan


def natural_step(
    problem: TrustRegionProblem,
    *,
    radius: float,
    damping: float,
    cg_max_steps: int,
    cg_tolerance: float,
    shrinking_factor: float,
    max_candidates: int,
    precondition: bool = False,
) -> NaturalStep:
    """Take the largest natural-gradient step that stays inside the trust region and improves the objective.

    :param problem: its parameters are moved in place by an accepted step, untouched bit for bit by a refused one
    :param radius: delta, in nats
    :param damping: lambda >= 0
    :param cg_max_steps: most conjugate gradient steps
    :param cg_tolerance: relative residual at which conjugate gradient stops
    :param shrinking_factor: backtracking fraction in (0, 1)
    :param max_candidates: candidates the line search may try
    :param precondition: conjugate gradient by the curvature's Kronecker factors, where it has some
    """
    gradient_norm = float(th.linalg.vector_norm(problem.gradient.double()))

    def refused(status: StepStatus, cg: CGSolution | None = None) -> NaturalStep:
        return NaturalStep(status, radius, gradient_norm, problem.objective, 0.0, 0.0, 0.0, 0.0, 0.0, 0, cg, None)

    obstacle = _obstacle(problem.objective, gradient_norm, radius)
    if obstacle is not None:
        return refused(obstacle)

    def added(v: Tensor) -> Tensor:
        return damping * v if problem.penalty is None else damping * v + problem.penalty(v)

    def damped(v: Tensor) -> Tensor:
        return problem.fisher_vector_product(v) + added(v)

    cg = conjugate_gradient(
        damped,
        problem.gradient,
        max_steps=cg_max_steps,
        tolerance=cg_tolerance,
        preconditioner=_preconditioner(problem, damping) if precondition else None,
    )
    if cg.status is CGStatus.NON_FINITE or not math.isfinite(cg.curvature):
        return refused(StepStatus.NON_FINITE_DIRECTION, cg)
    if cg.curvature <= 0.0:
        return refused(StepStatus.NO_CURVATURE, cg)
    full_step = math.sqrt(2.0 * radius / cg.curvature) * cg.x
    if not th.isfinite(full_step).all():
        return refused(StepStatus.NON_FINITE_DIRECTION, cg)

    search = backtracking_line_search(
        problem, full_step, radius=radius, shrinking_factor=shrinking_factor, max_candidates=max_candidates
    )
    directional_derivative = float(th.dot(problem.gradient, full_step))
    full_quadratic_kl = radius - 0.5 * float(th.dot(full_step, added(full_step)))
    return NaturalStep(
        status=search.status,
        radius=radius,
        gradient_norm=gradient_norm,
        objective=search.evaluation.objective,
        improvement=search.evaluation.objective - problem.objective,
        expected_improvement=search.fraction * directional_derivative,
        kl=search.evaluation.kl,
        quadratic_kl=search.fraction**2 * full_quadratic_kl,
        fraction=search.fraction,
        backtracks=search.backtracks,
        cg=cg,
        full_step=full_step,
    )


def _preconditioner(problem: TrustRegionProblem, damping: float) -> LinearMap | None:
    factors = problem.kronecker_factors()
    return None if factors is None else kronecker_preconditioner(factors, damping)


def _obstacle(objective: float, gradient_norm: float, radius: float) -> StepStatus | None:
    """What makes a step impossible before any product is spent on it."""
    if not math.isfinite(objective):
        return StepStatus.NON_FINITE_OBJECTIVE
    if not math.isfinite(gradient_norm):
        return StepStatus.NON_FINITE_GRADIENT
    if gradient_norm == 0.0:
        return StepStatus.ZERO_GRADIENT
    if radius == 0.0:
        return StepStatus.ZERO_RADIUS
    return None
