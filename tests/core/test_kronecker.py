"""The Kronecker-factored preconditioner: exact where the Fisher factors, positive definite, and of use."""

from functools import partial

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, jacrev, vmap
from torch.testing import assert_close

from sb3_trpo.core.conjugate_gradient import conjugate_gradient
from sb3_trpo.core.kronecker import STATES, WIDEST, Factors, kronecker_preconditioner
from sb3_trpo.core.natural_step import natural_step
from tests.core.cases import cases, make_case
from tests.core.test_natural_step import SETTINGS, surrogate_problem

PERCEPTRONS = ("gaussian", "categorical", "bernoulli")


def factors_of(case):
    return case.linearize(form="closed form").kronecker_factors(case.weights)


@settings(max_examples=30, deadline=None)
@given(cases(kinds=("gaussian",)), st.floats(1e-3, 1.0))
def test_for_a_linear_gaussian_policy_it_is_the_inverse(case, damping):
    case = make_case("gaussian", seed=int(1000 * damping), hidden=(), n=len(case.inputs), n_dims=2)
    product = partial(case.linearize().fisher_vector_product, weights=case.weights)
    precondition = kronecker_preconditioner(factors_of(case), damping)
    v = th.randn(sum(p.numel() for p in case.parameters), dtype=th.float64)
    assert_close(precondition(product(v) + damping * v), v, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(cases(kinds=PERCEPTRONS))
def test_factors_are_the_expectations_they_are_said_to_be(case):
    """Against derivatives of the output in each layer's bias, which are those in its pre-activation."""
    named = {name: p.detach() for name, p in case.net.named_parameters()}

    def output(params, x):
        return functional_call(case.net, params, (x[None],))[0][0]

    jacobians = vmap(jacrev(output), (None, 0))(named, case.inputs)
    old = case.old()
    n, k = old.parameters[0].shape
    unit = th.eye(k, dtype=th.float64)
    free = [th.zeros_like(p) for p in old.parameters[1:]]
    metric = th.stack([old.fisher_metric((e.expand(n, k), *free), th.ones(n, dtype=th.float64))[0] for e in unit], 2)
    a = case.inputs
    layers = factors_of(case).layers
    for index, (linear, (A, G)) in enumerate(zip(case.net.linears, layers, strict=True)):
        ones = th.cat([a, th.ones_like(a[:, :1])], 1)
        assert_close(A, th.einsum("n,ni,nj->ij", case.weights, ones, ones).detach(), rtol=1e-9, atol=1e-12)
        B = jacobians[f"linears.{index}.bias"]
        expected = th.einsum("n,nkh,nkl,nlg->hg", case.weights, B, metric, B)
        assert_close(G, expected.detach(), rtol=1e-9, atol=1e-12)
        a = case.net.activation(linear(a))


@settings(max_examples=30, deadline=None)
@given(cases(kinds=PERCEPTRONS), st.floats(1e-3, 1.0))
def test_it_is_symmetric_and_positive_definite_and_solutions_stay_what_they_are(case, damping):
    factors = factors_of(case)
    precondition = kronecker_preconditioner(factors, damping)
    size = sum(p.numel() for p in case.parameters)
    dense = th.stack([precondition(e) for e in th.eye(size, dtype=th.float64)], 1)
    assert_close(dense, dense.T, rtol=1e-9, atol=1e-9)
    assert th.linalg.eigvalsh(dense).min() > 0
    product = partial(case.linearize().fisher_vector_product, weights=case.weights)
    b = th.randn(size, dtype=th.float64)
    solution = conjugate_gradient(
        lambda v: product(v) + damping * v, b, max_steps=50 * size, tolerance=1e-11, preconditioner=precondition
    )
    fisher = th.stack([product(e) for e in th.eye(size, dtype=th.float64)], 1).detach().numpy()
    expected = np.linalg.solve(fisher + damping * np.eye(size), b.numpy())
    np.testing.assert_allclose(solution.x, expected, rtol=1e-6, atol=1e-8)


def test_factors_of_batches_add_up():
    whole = make_case("gaussian", seed=2, n=6)
    total = None
    for rows in (slice(0, 4), slice(4, 6)):
        part = whole.linearize(whole.inputs[rows], "closed form").kronecker_factors(whole.weights[rows])
        total = part if total is None else total + part
    expected = factors_of(whole)
    assert_close(total.weight, expected.weight)
    assert_close(total.diagonal, expected.diagonal)
    for mine, other in zip(total.layers, expected.layers, strict=True):
        assert_close(mine, other)


def test_a_part_of_many_states_is_enough():
    case = make_case("gaussian", seed=2, n=10 * STATES, hidden=(8,))
    part, every_tenth = factors_of(case), make_case("gaussian", seed=2, n=10 * STATES, hidden=(8,))
    every_tenth.inputs, every_tenth.weights = case.inputs[::10], case.weights[::10]
    assert_close(part.layers[0], factors_of(every_tenth).layers[0])
    assert part.weight == pytest.approx(float(case.weights[::10].sum()))
    assert_close(part.diagonal, th.full((2,), 2.0, dtype=th.float64))


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_factors_that_are_not_finite_make_no_preconditioner(fault):
    good = th.eye(2)
    bad = th.tensor([[fault, 0.0], [0.0, 1.0]])
    assert kronecker_preconditioner(Factors([(good, bad)], th.ones(1), th.ones(())), 0.1) is None
    assert kronecker_preconditioner(Factors([(good, good)], th.tensor([fault]), th.ones(())), 0.1) is None


def test_wide_layers_have_none():
    case = make_case("gaussian", seed=0, hidden=(WIDEST + 1,), n=2)
    assert factors_of(case) is None


def test_steps_are_saved_on_a_network_of_real_size():
    def solve(precondition):
        case = make_case("gaussian", seed=4, hidden=(64, 64), n=512, n_inputs=17, n_dims=6)
        with th.no_grad():
            case.net.linears[-1].weight *= 0.01  # as policies start
        problem = surrogate_problem(
            case,
            case.old().mean + th.randn(512, 6, dtype=th.float64),
            th.randn(512, dtype=th.float64),
            form="closed form",
        )
        options = {**SETTINGS, "cg_max_steps": 100, "cg_tolerance": 1e-2, "precondition": precondition}
        return natural_step(problem, radius=0.01, damping=0.01, **options)

    th.manual_seed(0)
    plain = solve(False)
    th.manual_seed(0)
    helped = solve(True)
    assert helped.cg.steps < plain.cg.steps / 2
    a, b = helped.full_step, plain.full_step
    assert float(a @ b / (a.norm() * b.norm())) > 0.999


def test_directions_without_curvature_are_finite_without_damping_too():
    factors = Factors([(th.diag(th.tensor([1.0, 0.0])), th.eye(2))], th.zeros(1), th.ones(()))
    result = kronecker_preconditioner(factors, 0.0)(th.ones(5))
    assert th.isfinite(result).all()
