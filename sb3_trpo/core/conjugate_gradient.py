"""Conjugate gradient method for ``A x = b`` with a symmetric positive definite ``A`` known by its products.

Hestenes & Stiefel 1952; preconditioned form of Nocedal & Wright 2006, algorithm 5.3.

Symbols: A (P, P), b and x (P,), r = b - A x the residual, p the search direction, z = M^-1 r.
Differs from sb3-contrib: starts from zero and draws no random numbers, stops on a *relative* residual, guards
against curvature that is not positive, never writes into ``b``, and says how it ended.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_trpo.core.status import CGStatus

LinearMap = Callable[[Tensor], Tensor]


class CGSolution(NamedTuple):
    """Approximate solution ``x`` (P,) of ``A x = b`` and how it came about.

    ``residual`` is relative, ``||b - A x|| / ||b||``; ``curvature`` is ``x^T A x``, which costs no further
    product because ``A x = b - r``.
    """

    x: Tensor
    status: CGStatus
    steps: int
    residual: float
    curvature: float


def conjugate_gradient(
    matrix_vector_product: LinearMap,
    b: Tensor,
    *,
    max_steps: int,
    tolerance: float,
    x0: Tensor | None = None,
    preconditioner: LinearMap | None = None,
) -> CGSolution:
    """Minimise ``x^T A x / 2 - b^T x`` until ``||b - A x|| <= tolerance * ||b||`` or ``max_steps`` products.

    :param matrix_vector_product: v (P,) -> A v (P,), symmetric positive definite
    :param b: right-hand side (P,), left untouched
    :param max_steps: most steps to take; each costs one product
    :param tolerance: relative residual to stop at
    :param x0: where to start, zero by default; a warm start costs one more product
    :param preconditioner: r (P,) -> M^-1 r (P,), symmetric positive definite, near the inverse of A
    :return: the last iterate before the tolerance, the step limit, or a breakdown; a breakdown is reported, not
        raised, and its iterate is finite and no worse than the start
    """
    x = th.zeros_like(b) if x0 is None else x0.clone()
    r = b.clone() if x0 is None else b - matrix_vector_product(x)
    z = r if preconditioner is None else preconditioner(r)
    p = z.clone()
    rz = th.dot(r, z)
    b_norm = float(th.linalg.vector_norm(b))
    # Along a direction this flat, compared with the others, A p is rounding error and the step would be huge.
    negligible, largest_curvature = th.finfo(b.dtype).eps, 0.0

    def solution(status: CGStatus, steps: int) -> CGSolution:
        residual = float(th.linalg.vector_norm(r)) / b_norm if b_norm > 0 else 0.0
        return CGSolution(x, status, steps, residual, float(th.dot(x, b - r)))

    for steps in range(max_steps):
        if float(th.linalg.vector_norm(r)) <= tolerance * b_norm:
            return solution(CGStatus.CONVERGED, steps)
        Ap = matrix_vector_product(p)
        pAp = th.dot(p, Ap)
        if not (th.isfinite(pAp) and th.isfinite(rz)):
            return solution(CGStatus.NON_FINITE, steps)
        curvature = float(pAp / th.dot(p, p))
        largest_curvature = max(largest_curvature, curvature)
        if curvature <= negligible * largest_curvature or rz <= 0:
            return solution(CGStatus.NON_POSITIVE_CURVATURE, steps)
        alpha = rz / pAp
        x = x + alpha * p
        r = r - alpha * Ap
        z = r if preconditioner is None else preconditioner(r)
        rz_next = th.dot(r, z)
        p = z + (rz_next / rz) * p
        rz = rz_next

    converged = float(th.linalg.vector_norm(r)) <= tolerance * b_norm
    return solution(CGStatus.CONVERGED if converged else CGStatus.MAX_STEPS, max_steps)
