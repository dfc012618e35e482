r"""Backtracking line search along the full step, inside the trust region.

.. math:: \theta_i = \theta_{old} + \beta^i s, \quad i = 0, 1, \ldots \quad\text{until}\quad
          D(\theta_{old} \| \theta_i) \le \delta \;\text{ and }\; L(\theta_i) > L(\theta_{old})

(Schulman et al. 2015, appendix C), and until nothing else speaks against it. All or nothing: when no candidate passes,
or when anything is raised in between, the parameters are what they were, bit for bit.
"""

import math
from typing import NamedTuple

from torch import Tensor

from sb3_trpo.core.parameters import assign, flatten
from sb3_trpo.core.problem import Evaluation, TrustRegionProblem
from sb3_trpo.core.status import StepStatus


class LineSearchResult(NamedTuple):
    """Outcome of the search; a refused one has ``fraction`` 0 and the start's evaluation.

    ``fraction`` of the full step that was taken, ``backtracks`` the number of candidates refused.
    """

    status: StepStatus
    fraction: float
    backtracks: int
    evaluation: Evaluation


def backtracking_line_search(
    problem: TrustRegionProblem,
    full_step: Tensor,
    *,
    radius: float,
    shrinking_factor: float,
    max_candidates: int,
) -> LineSearchResult:
    """Move the problem's parameters to the first candidate inside the region that improves the objective, unobjected.

    :param full_step: s (P,)
    :param radius: delta, the largest mean KL(old || new) allowed, in nats
    :param shrinking_factor: backtracking fraction beta in (0, 1)
    :param max_candidates: how many candidates to try before the step is refused
    """
    start = flatten(problem.parameters)
    fraction, refusal = 1.0, StepStatus.NO_IMPROVEMENT
    accepted = False
    try:
        for backtracks in range(max_candidates):
            assign(problem.parameters, start + fraction * full_step)
            candidate = problem.evaluate()
            if not (math.isfinite(candidate.objective) and math.isfinite(candidate.kl)):
                refusal = StepStatus.NON_FINITE_CANDIDATE
            elif candidate.kl > radius:
                refusal = StepStatus.KL_TOO_LARGE
            elif candidate.objective <= problem.objective:
                refusal = StepStatus.NO_IMPROVEMENT
            elif (objection := problem.objection(radius)) is not None:
                refusal = objection
            else:
                accepted = True
                return LineSearchResult(StepStatus.ACCEPTED, fraction, backtracks, candidate)
            fraction *= shrinking_factor
        return LineSearchResult(refusal, 0.0, max_candidates, Evaluation(problem.objective, 0.0))
    finally:
        if not accepted:
            assign(problem.parameters, start)
