"""The composed step: its length, its direction, the bound it keeps, and what it does when it must not move."""

import math

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sb3_trpo.core.line_search import backtracking_line_search
from sb3_trpo.core.natural_step import natural_step
from sb3_trpo.core.parameters import assign, flatten
from sb3_trpo.core.problem import Batch, Evaluation, TrustRegionProblem, constrained_problem
from sb3_trpo.core.status import CGStatus, StepStatus
from sb3_trpo.core.surrogate import Surrogate
from tests import oracles
from tests.core.cases import CasePolicy, cases, make_case

SETTINGS = {"cg_max_steps": 50, "cg_tolerance": 1e-10, "shrinking_factor": 0.8, "max_candidates": 15}


def update(case, advantages, radius=0.01, damping=0.1, **settings):
    """A whole update on a batch of sampled actions; returns the step and the old distribution."""
    old = case.old()
    with th.no_grad():
        generator_state = th.get_rng_state()
        th.manual_seed(0)
        actions = th.stack([part.sample() for part in case.components()], 1).double()
        th.set_rng_state(generator_state)
    problem = surrogate_problem(case, actions, advantages)
    step = natural_step(problem, radius=radius, damping=damping, **{**SETTINGS, **settings})
    return step, old, problem.gradient


def surrogate_problem(case, actions, advantages, size=None, form="autograd"):
    """The problem of a case, in batches of ``size`` rows."""
    columns = (actions, case.old().log_prob(actions), advantages, case.weights)
    size = len(actions) if size is None else size
    batches = [
        Batch(rows, case.weights[rows], Surrogate(*(column[rows] for column in columns)))
        for rows in (slice(start, start + size) for start in range(0, len(actions), size))
    ]
    return constrained_problem(CasePolicy(case, form), batches)


def pose(parameters, product, evaluate=lambda: Evaluation(1.0, 0.0)):
    """A problem whose objective has gradient one in every parameter and whose old policy nobody looks at."""
    return TrustRegionProblem(parameters, 0.0, th.ones_like(flatten(parameters)), product, evaluate, math.nan)


@settings(max_examples=60, deadline=None)
@given(cases(), st.floats(1e-4, 1.0), st.floats(1e-3, 1.0), st.integers(0, 1000))
def test_an_accepted_step_keeps_the_bound_and_improves_and_a_refused_one_moves_nothing(case, radius, damping, seed):
    start = flatten(case.parameters)
    advantages = th.randn(len(case.inputs), dtype=th.float64, generator=th.Generator().manual_seed(seed))
    step, old, _ = update(case, advantages, radius=radius, damping=damping)
    kl = (case.weights * oracles.joint_kl(case.components(old.parameters), case.components())).sum().item()
    if step.accepted:
        assert kl <= radius * (1 + 1e-9)
        assert kl == pytest.approx(step.kl, rel=1e-6, abs=1e-12)
        assert step.improvement > 0
        assert step.expected_improvement > 0
        assert th.isfinite(flatten(case.parameters)).all()
    else:
        assert th.equal(flatten(case.parameters), start)
        assert (step.kl, step.improvement, step.fraction) == (0.0, 0.0, 0.0)


def test_the_full_step_is_the_dense_solution_scaled_to_the_radius():
    case = make_case("gaussian", seed=8)
    radius, damping = 1e-3, 0.05
    fisher = oracles.dense_fisher(case.net, case.inputs, case.weights, case.components)
    start = flatten(case.parameters)
    step, _, gradient = update(case, th.randn(6, dtype=th.float64), radius=radius, damping=damping)
    a = fisher.detach() + damping * th.eye(len(fisher), dtype=th.float64)
    x = th.linalg.solve(a, case.to_named_order(gradient))
    expected = math.sqrt(2 * radius / (x @ a @ x)) * x
    s = case.to_named_order(step.full_step)
    assert_close(s, expected, rtol=1e-6, atol=1e-9)
    assert step.expected_improvement == pytest.approx(step.fraction * float(gradient @ step.full_step))
    assert step.quadratic_kl == pytest.approx(step.fraction**2 * 0.5 * float(s @ fisher @ s))
    assert_close(flatten(case.parameters), start + step.fraction * step.full_step)


def test_a_tiny_step_does_what_its_models_foretell():
    case = make_case("gaussian", seed=9, hidden=(8,), n=6)
    step, _, _ = update(case, th.randn(6, dtype=th.float64), radius=1e-8)
    assert step.reduction_ratio == pytest.approx(1.0, abs=1e-3)
    assert step.kl == pytest.approx(step.quadratic_kl, rel=1e-2)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1000.0, 1e8, 1e30])
def test_the_scale_of_the_advantages_does_not_change_the_step(scale):
    case, other = make_case("categorical", seed=2), make_case("categorical", seed=2)
    advantages = th.randn(6, dtype=th.float64)
    reference, _, _ = update(case, advantages)
    step, _, _ = update(other, scale * advantages)
    # conjugate gradient was told to stop at a relative residual of 1e-10
    assert_close(step.full_step, reference.full_step, rtol=1e-6, atol=1e-9)
    assert_close(flatten(other.parameters), flatten(case.parameters), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("advantages", "status"),
    [
        ([0.0] * 6, StepStatus.ZERO_GRADIENT),
        ([1.0, math.nan, 0, 0, 0, 0], StepStatus.NON_FINITE_OBJECTIVE),
        ([1.0, math.inf, 0, 0, 0, 0], StepStatus.NON_FINITE_OBJECTIVE),
    ],
)
def test_bad_advantages_are_refused_with_their_reason(advantages, status):
    case = make_case("gaussian", seed=1)
    start = flatten(case.parameters)
    step, _, _ = update(case, th.tensor(advantages, dtype=th.float64))
    assert step.status is status
    assert not step.accepted
    assert math.isnan(step.reduction_ratio)
    assert th.equal(flatten(case.parameters), start)


def test_no_curvature_and_zero_radius_are_refused():
    case = make_case("categorical", seed=1, sizes=(1,))  # a single action: nothing to choose, no Fisher information
    step, _, _ = update(case, th.randn(6, dtype=th.float64))
    assert step.status is StepStatus.ZERO_GRADIENT
    parameter = th.zeros(2)
    flat = pose([parameter], th.zeros_like)
    step = natural_step(flat, radius=0.1, damping=0.0, **SETTINGS)
    assert step.status is StepStatus.NO_CURVATURE
    assert step.cg.status is CGStatus.NON_POSITIVE_CURVATURE
    step = natural_step(flat._replace(fisher_vector_product=lambda v: v), radius=0.0, damping=0.0, **SETTINGS)
    assert step.status is StepStatus.ZERO_RADIUS
    assert th.equal(parameter, th.zeros(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_fisher_product_is_refused(bad):
    parameter = th.ones(3)
    problem = pose([parameter], lambda v: bad * v)
    step = natural_step(problem, radius=0.1, damping=0.1, **SETTINGS)
    assert step.status is StepStatus.NON_FINITE_DIRECTION
    assert th.equal(parameter, th.ones(3))


def search(evaluate, radius=1.0, parameter=None, **kwargs):
    parameter = th.zeros(2) if parameter is None else parameter
    options = {"radius": radius, "shrinking_factor": 0.5, "max_candidates": 4, **kwargs}
    problem = pose([parameter], lambda v: v, evaluate)
    return backtracking_line_search(problem, th.tensor([1.0, 2.0]), **options), parameter


@pytest.mark.parametrize(
    ("candidate", "status"),
    [
        (Evaluation(1.0, 2.0), StepStatus.KL_TOO_LARGE),
        (Evaluation(0.0, 0.5), StepStatus.NO_IMPROVEMENT),
        (Evaluation(-1.0, 0.5), StepStatus.NO_IMPROVEMENT),
        (Evaluation(math.nan, 0.5), StepStatus.NON_FINITE_CANDIDATE),
        (Evaluation(math.inf, 0.5), StepStatus.NON_FINITE_CANDIDATE),
        (Evaluation(1.0, math.nan), StepStatus.NON_FINITE_CANDIDATE),
    ],
)
def test_a_line_search_that_finds_nothing_restores_the_start_bit_for_bit(candidate, status):
    start = th.tensor([0.1, 1e-30])
    result, parameter = search(lambda: candidate, parameter=start.clone())
    assert (result.status, result.fraction, result.backtracks) == (status, 0.0, 4)
    assert th.equal(parameter, start)


def test_the_line_search_takes_the_first_candidate_that_passes():
    parameter = th.zeros(2)
    result, _ = search(lambda: Evaluation(float(parameter[0]), float(parameter[0])), radius=0.3, parameter=parameter)
    assert (result.fraction, result.backtracks, result.status) == (0.25, 2, StepStatus.ACCEPTED)
    assert th.equal(parameter, th.tensor([0.25, 0.5]))
    assert result.evaluation == Evaluation(0.25, 0.25)


def test_a_kl_on_the_boundary_is_inside():
    result, _ = search(lambda: Evaluation(1.0, 1.0), radius=1.0)
    assert result.status is StepStatus.ACCEPTED


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_line_search_restores_the_start(error):
    parameter = th.tensor([0.1, 0.2])

    def interrupt():
        raise error

    with pytest.raises(error):
        search(interrupt, parameter=parameter)
    assert th.equal(parameter, th.tensor([0.1, 0.2]))


def test_duplicated_action_dimensions_do_not_loosen_the_bound():
    """The joint KL is bounded whatever the number of dimensions, and its step shrinks accordingly."""
    for n_dims in (1, 3, 17):
        case = make_case("gaussian", seed=6, hidden=(16,), n=6, n_dims=n_dims)
        step, old, _ = update(case, th.randn(6, dtype=th.float64), radius=0.01, damping=1e-3)
        assert step.accepted
        kl = (case.weights * oracles.joint_kl(case.components(old.parameters), case.components())).sum().item()
        assert 0.002 < kl <= 0.01
        assert step.kl == pytest.approx(kl)


def test_assigning_a_vector_of_the_wrong_size_says_so():
    with pytest.raises(ValueError, match=r"vector has shape \(3,\), the parameters need \(2,\)"):
        assign([th.zeros(2)], th.zeros(3))


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(1, 5), st.integers(0, 1000))
def test_a_rollout_in_batches_is_the_same_problem(case, size, seed):
    generator = th.Generator().manual_seed(seed)
    with th.no_grad():
        actions = th.stack([part.sample() for part in case.components()], 1).double()
    advantages = th.randn(len(case.inputs), dtype=th.float64, generator=generator)
    whole, cut = (surrogate_problem(case, actions, advantages, n) for n in (None, size))
    assert_close(cut.gradient, whole.gradient, rtol=1e-10, atol=1e-13)
    assert cut.objective == pytest.approx(whole.objective, rel=1e-10, abs=1e-13)
    assert cut.entropy == pytest.approx(whole.entropy, rel=1e-10)
    expected = (case.weights * sum(part.entropy() for part in case.components())).sum().item()
    assert whole.entropy == pytest.approx(expected, rel=1e-6)
    v = th.randn(whole.gradient.shape, dtype=th.float64, generator=generator)
    assert_close(cut.fisher_vector_product(v), whole.fisher_vector_product(v), rtol=1e-10, atol=1e-13)
    with th.no_grad():
        for parameter in case.parameters:
            parameter += 0.1
    assert_close(th.tensor(cut.evaluate()), th.tensor(whole.evaluate()), rtol=1e-9, atol=1e-12)
