"""Conjugate gradient method for ``A x = b`` with a symmetric positive definite ``A`` known by its products.

Hestenes & Stiefel 1952; preconditioned form of Nocedal & Wright 2006, algorithm 5.3.

Symbols: A (P, P), b and x (P,), r = b - A x the residual, p the search direction, z = M^-1 r.
Differs from sb3-contrib: starts from zero and draws no random numbers, stops on a *relative* residual, guards
against curvature that is not positive, never writes into ``b``, and says how it ended. What comes back never misleads:
it is finite, and from a start at zero ``b^T x >= 0`` whatever A is. The system is solved for b over a power of two near
its largest entry, which changes no digit, so that squares of tiny and huge numbers stay in range.

Two loops do the same: one on a CPU, which stops as soon as it can, and one on an accelerator, which never waits for
the device and therefore goes on to the last step.
"""

import math
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
    largest = float(b.abs().max())
    if largest == 0.0 and x0 is None:
        return CGSolution(th.zeros_like(b), CGStatus.CONVERGED, 0, 0.0, 0.0)
    scale = math.ldexp(1.0, math.frexp(largest)[1]) if 0.0 < largest < math.inf else 1.0
    b = b / scale
    start = th.zeros_like(b) if x0 is None else x0 / scale
    r0 = b.clone() if x0 is None else b - matrix_vector_product(start)
    iterate = _iterate_on_host if b.is_cpu else _iterate_on_device
    x, r, status, steps = iterate(matrix_vector_product, b, start, r0, max_steps, tolerance, preconditioner)
    is_uphill = x0 is None and float(th.dot(x, b)) < 0.0
    if is_uphill or not th.isfinite(scale * x).all():
        x, r, status = start, r0, CGStatus.NON_POSITIVE_CURVATURE if is_uphill else CGStatus.NON_FINITE
    b_norm, r_norm = (float(th.linalg.vector_norm(vector)) for vector in (b, r))
    if status is CGStatus.MAX_STEPS and r_norm <= tolerance * b_norm:
        status = CGStatus.CONVERGED
    residual = r_norm / b_norm if b_norm > 0 else 0.0
    return CGSolution(scale * x, status, steps, residual, float(th.dot(x, b - r)) * scale**2)


def _iterate_on_host(
    matrix_vector_product: LinearMap,
    b: Tensor,
    x: Tensor,
    r: Tensor,
    max_steps: int,
    tolerance: float,
    preconditioner: LinearMap | None,
) -> tuple[Tensor, Tensor, CGStatus, int]:
    """Iterate and residual at the end, how it ended, and after how many steps; scalars are Python's."""
    target = tolerance * float(th.linalg.vector_norm(b))
    negligible, largest_curvature = th.finfo(b.dtype).eps, 0.0
    z = r if preconditioner is None else preconditioner(r)
    p, rz = z, th.dot(r, z).item()
    for steps in range(max_steps):
        r_norm = math.sqrt(rz) if preconditioner is None and rz >= 0 else float(th.linalg.vector_norm(r))
        if r_norm <= target:
            return x, r, CGStatus.CONVERGED, steps
        Ap = matrix_vector_product(p)
        pAp = th.dot(p, Ap).item()
        if not (math.isfinite(pAp) and math.isfinite(rz)):
            return x, r, CGStatus.NON_FINITE, steps
        pp = th.dot(p, p).item()
        curvature = pAp / pp if pp > 0.0 else 0.0  # of a direction too short to be squared nothing is known
        largest_curvature = max(largest_curvature, curvature)
        if curvature <= negligible * largest_curvature or rz <= 0.0:
            return x, r, CGStatus.NON_POSITIVE_CURVATURE, steps
        x = th.add(x, p, alpha=rz / pAp)
        r = th.sub(r, Ap, alpha=rz / pAp)
        z = r if preconditioner is None else preconditioner(r)
        rz_next = th.dot(r, z).item()
        p = th.add(z, p, alpha=rz_next / rz)
        rz = rz_next
    return x, r, CGStatus.MAX_STEPS, max_steps


def _iterate_on_device(
    matrix_vector_product: LinearMap,
    b: Tensor,
    x: Tensor,
    r: Tensor,
    max_steps: int,
    tolerance: float,
    preconditioner: LinearMap | None,
) -> tuple[Tensor, Tensor, CGStatus, int]:
    """The same on an accelerator, which the host does not wait for until the last step is under way.

    How the iteration stands is a tensor, and steps after its end change nothing.
    """
    status = th.zeros((), dtype=th.int8, device=b.device)
    steps = th.zeros((), dtype=th.int32, device=b.device)
    target = tolerance * th.linalg.vector_norm(b)
    negligible, largest_curvature = th.finfo(b.dtype).eps, th.zeros_like(target)
    z = r if preconditioner is None else preconditioner(r)
    p, rz = z, th.dot(r, z)
    for _ in range(max_steps):
        status = th.where((status == RUNNING) & (th.linalg.vector_norm(r) <= target), CONVERGED, status)
        Ap = matrix_vector_product(p)
        pAp = th.dot(p, Ap)
        curvature = (pAp / th.dot(p, p)).nan_to_num(0.0)  # of p too short to be squared, or it has ended before
        largest_curvature = th.maximum(largest_curvature, curvature)
        is_flat = (curvature <= negligible * largest_curvature) | (rz <= 0)
        breakdown = th.where(th.isfinite(pAp) & th.isfinite(rz), th.where(is_flat, FLAT, RUNNING), NON_FINITE)
        status = th.where(status == RUNNING, breakdown, status)
        moves = status == RUNNING
        x = th.where(moves, x + rz / pAp * p, x)
        r = th.where(moves, r - rz / pAp * Ap, r)
        z = r if preconditioner is None else preconditioner(r)
        rz_next = th.dot(r, z)
        p = z + (rz_next / rz) * p
        rz = rz_next
        steps = steps + moves
    return x, r, STATUSES[int(status)], int(steps)
