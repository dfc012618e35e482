"""Conjugate gradient method for ``A x = b`` with a symmetric positive definite ``A`` known by its products.

Hestenes & Stiefel 1952; preconditioned form of Nocedal & Wright 2006, algorithm 5.3.

Symbols: A (P, P), b and x (P,), r = b - A x the residual, p the search direction, z = M^-1 r.
Differs from sb3-contrib: starts from zero and draws no random numbers, stops on a *relative* residual, guards
against curvature that is not positive, never writes into ``b``, and says how it ended.

On an accelerator nothing waits for the device until the last step: how the method stands is a tensor, and steps after
its end leave the iterate alone. On a CPU, where looking costs nothing, the loop ends there.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch as th
from torch import Tensor

from sb3_trpo.core.status import CGStatus

LinearMap = Callable[[Tensor], Tensor]

STATUSES = (CGStatus.MAX_STEPS, CGStatus.CONVERGED, CGStatus.NON_POSITIVE_CURVATURE, CGStatus.NON_FINITE)
RUNNING, CONVERGED, FLAT, NON_FINITE = range(4)


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
    p = z
    rz = th.dot(r, z)
    b_norm = th.linalg.vector_norm(b)
    r_norm = th.linalg.vector_norm(r)
    # Along a direction this flat, compared with the others, A p is rounding error and the step would be huge.
    negligible, largest_curvature = th.finfo(b.dtype).eps, th.zeros_like(b_norm)
    status = th.zeros((), dtype=th.int8, device=b.device)
    steps = th.zeros((), dtype=th.int32, device=b.device)

    for _ in range(max_steps):
        status = th.where((status == RUNNING) & (r_norm <= tolerance * b_norm), CONVERGED, status)
        if b.is_cpu and status != RUNNING:
            break
        Ap = matrix_vector_product(p)
        pAp = th.dot(p, Ap)
        curvature = pAp / th.dot(p, p)
        largest_curvature = th.maximum(largest_curvature, curvature)
        is_finite = th.isfinite(pAp) & th.isfinite(rz)
        is_flat = (curvature <= negligible * largest_curvature) | (rz <= 0)
        breakdown = th.where(is_finite, th.where(is_flat, FLAT, RUNNING), NON_FINITE)
        status = th.where(status == RUNNING, breakdown, status)
        moves = status == RUNNING
        alpha = rz / pAp
        x = th.where(moves, x + alpha * p, x)
        r = th.where(moves, r - alpha * Ap, r)
        z = r if preconditioner is None else preconditioner(r)
        rz_next = th.dot(r, z)
        p = z + (rz_next / rz) * p
        rz = rz_next
        r_norm = th.linalg.vector_norm(r)
        steps = steps + moves

    ending = STATUSES[int(status)]
    if ending is CGStatus.MAX_STEPS and r_norm <= tolerance * b_norm:
        ending = CGStatus.CONVERGED
    residual = float(r_norm) / float(b_norm) if b_norm > 0 else 0.0
    return CGSolution(x, ending, int(steps), residual, float(th.dot(x, b - r)))
