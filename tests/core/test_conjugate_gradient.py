"""Conjugate gradient against dense solves, SciPy's, and systems made to mislead it."""

from functools import partial

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, cg
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_trpo.core import conjugate_gradient as conjugate_gradient_module
from sb3_trpo.core.conjugate_gradient import _iterate_on_device, _iterate_on_host, conjugate_gradient
from sb3_trpo.core.status import CGStatus
from tests import oracles
from tests.core.cases import cases


def spd(size, seed, condition=100.0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return q @ np.diag(np.geomspace(1.0, condition, size)) @ q.T, rng.normal(size=size)


def solve(a, b, **kwargs):
    matrix = th.as_tensor(a)
    options = {"max_steps": 10 * len(b), "tolerance": 1e-12, **kwargs}
    return conjugate_gradient(lambda v: matrix @ v, th.as_tensor(b), **options)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(0, 1000), st.floats(1.0, 1e4))
def test_solves_any_positive_definite_system(size, seed, condition):
    a, b = spd(size, seed, condition)
    solution = solve(a, b)
    assert solution.status is CGStatus.CONVERGED
    np.testing.assert_allclose(solution.x, np.linalg.solve(a, b), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(solution.curvature, solution.x @ a @ solution.x.numpy(), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(cases(), st.floats(1e-2, 1.0))
def test_solves_the_damped_fisher_of_a_network(case, damping):
    product = partial(case.linearize().fisher_vector_product, weights=case.weights)
    dense = oracles.dense_fisher(case.net, case.inputs, case.weights, case.components).detach()
    a = (dense + damping * th.eye(len(dense), dtype=th.float64)).numpy()
    g = th.randn(len(a), dtype=th.float64)
    solution = conjugate_gradient(lambda v: product(v) + damping * v, g, max_steps=20 * len(g), tolerance=1e-12)
    expected = np.linalg.solve(a, case.to_named_order(g).numpy())
    np.testing.assert_allclose(case.to_named_order(solution.x), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 3, 7])
@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_iterates_equal_scipys(steps, preconditioned, warm):
    a, b = spd(20, seed=3)
    x0 = np.linspace(-0.1, 0.1, 20) if warm else None
    inverse_diagonal = 1.0 / np.diag(a)
    expected, _ = cg(
        a,
        b,
        x0=x0,
        rtol=0.0,
        maxiter=steps,
        M=LinearOperator(a.shape, matvec=lambda r: inverse_diagonal * r, dtype=float) if preconditioned else None,
    )
    scale = th.as_tensor(inverse_diagonal)
    solution = solve(
        a,
        b,
        max_steps=steps,
        tolerance=0.0,
        x0=None if x0 is None else th.as_tensor(x0),
        preconditioner=(lambda r: scale * r) if preconditioned else None,
    )
    np.testing.assert_allclose(solution.x, expected, rtol=1e-9, atol=1e-12)
    assert solution.steps == steps
    residual = np.linalg.norm(b - a @ expected) / np.linalg.norm(b)
    np.testing.assert_allclose(solution.residual, residual, rtol=1e-8)
    np.testing.assert_allclose(solution.curvature, expected @ a @ expected, rtol=1e-8)


def test_a_good_preconditioner_saves_steps():
    a, b = spd(40, seed=1, condition=1e4)
    inverse = th.as_tensor(np.linalg.inv(a + 0.1 * np.eye(40)))
    plain = solve(a, b, tolerance=1e-6)
    helped = solve(a, b, tolerance=1e-6, preconditioner=lambda r: inverse @ r)
    assert helped.steps < plain.steps / 3


def test_the_tolerance_is_relative():
    a, b = spd(30, seed=5)
    for scale in (1e-6, 1.0, 1e6):
        solution = solve(a, scale * b, tolerance=1e-3)
        assert solution.steps == solve(a, b, tolerance=1e-3).steps
        assert solution.residual <= 1e-3


def test_the_right_hand_side_and_the_start_are_left_untouched_and_no_random_number_is_drawn():
    a, b = spd(10, seed=2)
    b, x0 = th.as_tensor(b), th.ones(10, dtype=th.float64)
    before, rng = (b.clone(), x0.clone()), th.get_rng_state()
    solve(a, b)
    solve(a, b, x0=x0)
    assert th.equal(b, before[0])
    assert th.equal(x0, before[1])
    assert th.equal(th.get_rng_state(), rng)


def test_zero_right_hand_side_needs_no_product():
    def no_product(v):
        raise AssertionError("no product is needed")

    solution = conjugate_gradient(no_product, th.zeros(4), max_steps=5, tolerance=1e-3)
    assert (solution.status, solution.steps, solution.residual) == (CGStatus.CONVERGED, 0, 0.0)
    assert th.equal(solution.x, th.zeros(4))


@pytest.mark.parametrize(
    ("a", "status"),
    [
        (np.diag([1.0, -1.0]), CGStatus.NON_POSITIVE_CURVATURE),
        (np.zeros((2, 2)), CGStatus.NON_POSITIVE_CURVATURE),
        (-np.eye(2), CGStatus.NON_POSITIVE_CURVATURE),
        (np.full((2, 2), np.nan), CGStatus.NON_FINITE),
        (np.full((2, 2), np.inf), CGStatus.NON_FINITE),
    ],
    ids=["indefinite", "zero", "negative", "nan", "inf"],
)
def test_a_breakdown_is_reported_and_its_iterate_is_finite(a, status):
    solution = solve(a, np.array([1.0, 2.0]))
    assert solution.status is status
    assert th.isfinite(solution.x).all()
    assert float(th.as_tensor([1.0, 2.0], dtype=th.float64) @ solution.x) >= 0.0, "an uphill direction for a minimiser"


def test_a_singular_system_keeps_the_last_good_iterate():
    solution = solve(np.diag([2.0, 0.0]), np.array([2.0, 1e-3]), max_steps=50)
    assert th.isfinite(solution.x).all()
    assert solution.x[0] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("iterate", [_iterate_on_host, _iterate_on_device])
def test_a_direction_too_short_to_be_squared_ends_it(iterate):
    b = th.ones(3)
    x, _, status, steps = iterate(lambda v: v, b, th.zeros(3), b.clone(), 5, 0.0, lambda r: 1e-25 * r)
    assert (status, steps) == (CGStatus.NON_POSITIVE_CURVATURE, 0)
    assert th.equal(x, th.zeros(3))


def test_step_limit_is_kept():
    a, b = spd(30, seed=7, condition=1e6)
    solution = solve(a, b, max_steps=4)
    assert (solution.status, solution.steps) == (CGStatus.MAX_STEPS, 4)


def system_of(family, seed, dtype):
    """A, b and a preconditioner that is symmetric positive definite and has nothing to do with A."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 41))
    (q, _), (p, _) = (np.linalg.qr(rng.normal(size=(size, size))) for _ in range(2))
    eigenvalues, b = np.geomspace(10.0 ** -rng.uniform(0, 3), 1.0, size), rng.normal(size=size)
    if family == "ill-conditioned":
        eigenvalues = np.geomspace(10.0 ** -rng.uniform(6, 14), 1.0, size)
    elif family == "singular":
        eigenvalues *= rng.random(size) < 0.6
    elif family == "indefinite":
        eigenvalues *= rng.choice([-1.0, 1.0], size)
    elif family == "zero":
        eigenvalues *= 0.0
    elif family == "tiny right-hand side":
        b *= 10.0 ** -rng.uniform(10, 40)  # the smallest are no normal numbers of float32
    elif family == "huge":
        eigenvalues, b = 1e25 * eigenvalues, 1e30 * b
    matrices = (q * eigenvalues) @ q.T, (p * np.geomspace(0.1, 10.0, size)) @ p.T
    a, inverse = (th.as_tensor((0.5 * (m + m.T)).astype(dtype)) for m in matrices)
    return a, th.as_tensor(b.astype(dtype)), inverse


DEFINITE = ("definite", "tiny right-hand side", "huge")
FAMILIES = (*DEFINITE, "ill-conditioned", "singular", "indefinite", "zero")


def check_that_it_does_not_mislead(family, seed, dtype):
    """No NaN and no way uphill on any system, and the tolerance on definite ones; with a preconditioner and without."""
    a, b, inverse = system_of(family, seed, dtype)
    wide_a, wide_b = a.double(), b.double()
    for preconditioner in (None, lambda r: inverse @ r):
        for iterate in ("_iterate_on_host", "_iterate_on_device"):
            with pytest.MonkeyPatch.context() as patch:
                loop = getattr(conjugate_gradient_module, iterate)
                patch.setattr(conjugate_gradient_module, "_iterate_on_host", loop)
                solution = conjugate_gradient(
                    lambda v: a @ v, b, max_steps=10 * len(b) + 20, tolerance=1e-4, preconditioner=preconditioner
                )
            assert th.isfinite(solution.x).all()
            assert np.isfinite([solution.residual, solution.curvature]).all()
            assert float(wide_b @ solution.x.double()) >= 0.0
            if family in DEFINITE:
                assert solution.status is CGStatus.CONVERGED
                residual = th.linalg.vector_norm(wide_b - wide_a @ solution.x.double())
                assert residual <= 1.1e-4 * th.linalg.vector_norm(wide_b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_300_systems_made_to_mislead_it_do_not(family, dtype):
    for seed in range(22):  # of seven families in two precisions: 308
        check_that_it_does_not_mislead(family, seed, dtype)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FAMILIES), st.integers(0, 10**6), st.sampled_from([np.float32, np.float64]))
def test_no_system_misleads_it(family, seed, dtype):
    check_that_it_does_not_mislead(family, seed, dtype)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(st.sampled_from(FAMILIES), st.integers(0, 10**6), st.sampled_from([np.float32, np.float64]))
def test_none_of_5000_systems_misleads_it(family, seed, dtype):
    check_that_it_does_not_mislead(family, seed, dtype)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_a_product_that_contradicts_itself_leads_nowhere_rather_than_uphill(preconditioned):
    """Curvature that is positive by lies: the products are of another matrix at every step."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        b = th.as_tensor(rng.normal(size=6))
        inverse = th.as_tensor(spd(6, int(rng.integers(1000)))[0])
        solution = conjugate_gradient(
            lambda v: th.as_tensor(rng.normal(size=(6, 6))) @ v + v,
            b,
            max_steps=20,
            tolerance=1e-6,
            preconditioner=(lambda r, inverse=inverse: inverse @ r) if preconditioned else None,
        )
        assert th.isfinite(solution.x).all()
        assert float(b @ solution.x) >= 0.0


class Looks(TorchDispatchMode):
    """Counts how often the host looks at a tensor, which on an accelerator waits for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is th.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


SYSTEMS = {
    "definite": spd(8, seed=1)[0],
    "larger": spd(30, seed=2)[0],
    "indefinite": np.diag([1.0, -1.0, 2.0]),
    "singular": np.diag([2.0, 0.0, 1.0]),
    "zero": np.zeros((3, 3)),
    "nan": np.full((3, 3), np.nan),
}


@pytest.mark.parametrize("system", list(SYSTEMS))
@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_loop_of_an_accelerator_finds_the_same_and_the_host_looks_only_at_its_end(system, preconditioned):
    matrix = th.as_tensor(SYSTEMS[system])
    b = th.linspace(1.0, 2.0, len(matrix), dtype=th.float64)
    scale = th.linspace(0.5, 1.5, len(matrix), dtype=th.float64)
    preconditioner = (lambda r: scale * r) if preconditioned else None
    products = []

    def product(v):
        products.append(v)
        return matrix @ v

    for max_steps in (1, 5, 12):  # rounding errors grow beyond
        arguments = (product, b, th.zeros_like(b), b.clone(), max_steps, 1e-4, preconditioner)
        x, r, status, steps = _iterate_on_host(*arguments)
        products.clear()
        with Looks() as looks:
            other_x, other_r, other_status, other_steps = _iterate_on_device(*arguments)
        assert looks.count == 2  # the status and the number of steps
        assert len(products) == max_steps
        assert (other_status, other_steps) == (status, steps)
        th.testing.assert_close(other_x, x, rtol=1e-5, atol=1e-6)
        th.testing.assert_close(other_r, r, rtol=1e-5, atol=1e-6)
