"""Tracking by the Hessian: its product with the step, what it leaves out, and the true Hessian of the return."""

import math

import pytest
import torch as th
from torch.testing import assert_close

from benchmarks.exact import LinearQuadratic, Tabular
from benchmarks.known_answers import noisy, pose
from sb3_trpo.core.parameters import assign, flatten
from sb3_trpo.core.problem import constrained_problem
from sb3_trpo.extensions.gradient_tracking import GradientTracking
from sb3_trpo.extensions.hessian_tracking import HessianAidedTracking
from tests.extensions.samples import actions_of, batch_of, case_of, sample_of, step_on

KINDS = ["gaussian", "gaussian_state_std", "categorical", "bernoulli"]
STRETCHES = th.arange(24) // 7
"""Of seven steps each, and a shorter one."""


def advantages_of(case, seed=0):
    return th.randn(len(case.inputs), dtype=th.float64, generator=th.Generator().manual_seed(seed))


def dense_product(case, actions, advantages, clusters, v):
    """``B v`` by second derivatives of each step's log probability."""
    weights = case.weights / case.weights.sum()
    scores, curvatures = [], []
    for n in range(len(actions)):
        parameters = tuple(p if p.dim() == 1 else p[n : n + 1] for p in case.net(case.inputs))
        log_prob = sum(part.log_prob(actions[n : n + 1, i]) for i, part in enumerate(case.components(parameters)))
        slopes = th.autograd.grad(
            log_prob.sum(), case.parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )
        score = th.cat([slope.reshape(-1) for slope in slopes])
        product = th.autograd.grad(score @ v, case.parameters, allow_unused=True, materialize_grads=True)
        scores.append(score.detach())
        curvatures.append(th.cat([part.reshape(-1) for part in product]))
    scores = th.stack(scores)
    slopes = scores @ v
    sums = th.stack([slopes[clusters == name].sum() for name in clusters])
    return ((weights * advantages)[:, None] * (th.stack(curvatures) + scores * sums[:, None])).sum(0)


def product_of(case, problem, sample, v, truncation=1e6):
    here = flatten(case.parameters)
    tracker = HessianAidedTracking(truncation=truncation)
    product = problem.gradient - tracker.earlier_gradient(here - v, problem.gradient, problem, sample)
    assert th.equal(flatten(case.parameters), here)
    return product


def direction_of(case, size):
    v = th.randn(len(flatten(case.parameters)), dtype=th.float64, generator=th.Generator().manual_seed(5))
    return size * v / v.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_the_product_is_that_of_second_derivatives(kind):
    """Up to an error of third order: a tenth of the step has a hundredth of it, relatively."""
    case, errors = case_of(kind), []
    actions, advantages = actions_of(case), advantages_of(case)
    problem, sample = sample_of(case, actions, advantages, clusters=STRETCHES)
    for size in (0.1, 0.01):
        v = direction_of(case, size)
        expected = dense_product(case, actions, advantages, STRETCHES, v)
        errors.append(float((product_of(case, problem, sample, v) - expected).norm() / expected.norm()))
    assert errors[1] < 1e-3
    assert errors[1] < 0.02 * errors[0] + 1e-9


def test_steps_that_stand_for_themselves_have_the_hessian_of_the_surrogate():
    case, v = case_of(), direction_of(case_of(), 1e-3)
    actions, advantages = actions_of(case), advantages_of(case)
    problem, sample = sample_of(case, actions, advantages)
    expected = dense_product(case, actions, advantages, th.arange(24), v)
    assert_close(product_of(case, problem, sample, v), expected, rtol=1e-4, atol=1e-9)


def test_a_stretch_in_two_batches_is_one_stretch():
    case, v = case_of(), direction_of(case_of(), 0.01)
    actions, advantages = actions_of(case), advantages_of(case)
    problem, sample = sample_of(case, actions, advantages, clusters=STRETCHES)
    rows, share = th.arange(24), case.weights / case.weights.sum()
    parts = []
    for some in (rows[::2], rows[1::2]):
        batch, part = batch_of(case, some, actions, advantages, STRETCHES), float(share[some].sum())
        surrogate = type(batch.objective)(
            batch.objective.actions, batch.objective.old_log_prob, advantages[some], part * batch.weights
        )
        parts.append(batch._replace(weights=part * batch.weights, objective=surrogate))
    cut = sample._replace(batches=parts)
    in_two = product_of(case, constrained_problem(sample.policy, parts), cut, v)
    assert_close(in_two, product_of(case, problem, sample, v))


def test_a_truncation_of_one_leaves_the_rest_of_a_stretch_out():
    case, v = case_of(), direction_of(case_of(), 0.1)
    actions, advantages = actions_of(case), advantages_of(case)
    alone = product_of(case, *sample_of(case, actions, advantages), v)
    together = sample_of(case, actions, advantages, clusters=STRETCHES)
    assert_close(product_of(case, *together, v, truncation=1.0), alone)
    assert (product_of(case, *together, v) - alone).norm() > 0.1 * alone.norm()


def test_padding_does_not_count():
    case, v = case_of(), direction_of(case_of(), 0.01)
    actions, advantages = actions_of(case), advantages_of(case)
    case.weights = case.weights.clone()
    case.weights[3] = 0.0
    expected = product_of(case, *sample_of(case, actions, advantages, clusters=STRETCHES), v)
    actions[3], advantages[3] = 3.0, 1e9
    assert_close(product_of(case, *sample_of(case, actions, advantages, clusters=STRETCHES), v), expected)


@pytest.mark.parametrize("make", [LinearQuadratic.random, Tabular.random], ids=["regulator", "tabular"])
def test_it_is_unbiased_where_single_ratios_are_not(make):
    """Half the difference of the true gradients on both sides, from very many episodes."""
    problem, generator = make(seed=0), th.Generator().manual_seed(0)
    here = flatten(problem.parameters)
    v = 0.05 * th.randn(len(here), dtype=th.float64, generator=generator)
    gradients = []
    for place in (here + v, here - v):
        assign(problem.parameters, place)
        gradients.append(problem.exact_gradient() / problem.effective_horizon)
    truth = (gradients[0] - gradients[1]) / 2.0
    assign(problem.parameters, here)
    products = []
    for _ in range(8):
        posed, sample = pose(problem, noisy(problem, 2500, generator), None)
        products.append(
            [
                posed.gradient - tracker.earlier_gradient(here - v, posed.gradient, posed, sample)
                for tracker in (HessianAidedTracking(truncation=1e6), GradientTracking(truncation=1e6))
            ]
        )
    (of_hessian, of_ratios), (spread, _) = (
        [function(th.stack([pair[kind] for pair in products]), 0) for kind in range(2)]
        for function in (th.mean, th.std)
    )
    standard_error = float(spread.norm()) / 8**0.5
    assert float((of_hessian - truth).norm()) < 2.5 * standard_error + 0.05 * float(truth.norm())
    assert float((of_hessian - truth).norm()) < 0.7 * float((of_ratios - truth).norm())


def test_a_policy_that_did_not_move_averages_its_gradients():
    case, tracker = case_of(), HessianAidedTracking(weight=0.25)
    gradients = []
    for update in range(3):
        problem, sample = sample_of(case, actions_of(case, update), advantages_of(case, update), clusters=STRETCHES)
        gradients.append(problem.gradient)
        estimate = tracker.repose(problem, sample).gradient
    assert_close(estimate, 0.25 * gradients[2] + 0.75 * (0.25 * gradients[1] + 0.75 * gradients[0]))


def test_the_recursion_is_that_of_the_paper():
    """``u_t = a g_t + (1 - a) (u_{t-1} + B_t v)``, with a bonus for entropy that is not tracked."""
    case, tracker = case_of(), HessianAidedTracking(weight=0.3, truncation=1e6)
    estimate = previous = None
    for update in range(3):
        actions, advantages = actions_of(case, update), advantages_of(case, update)
        plain, _ = sample_of(case, actions, advantages, clusters=STRETCHES)
        problem, sample = sample_of(case, actions, advantages, clusters=STRETCHES, entropy_coefficient=0.1)
        here = flatten(case.parameters)
        if estimate is None:
            estimate = plain.gradient
        else:
            product = dense_product(case, actions, advantages, STRETCHES, here - previous)
            estimate = 0.3 * plain.gradient + 0.7 * (estimate + product)
        previous = here
        reposed = tracker.repose(problem, sample)
        assert_close(reposed.gradient, estimate + problem.gradient - plain.gradient, rtol=1e-2, atol=1e-3)
        step_on(reposed, radius=1e-4)


@pytest.mark.parametrize("arguments", [{"weight": 0.0}, {"weight": 2}, {"truncation": 0.5}, {"truncation": math.inf}])
def test_what_is_no_number_for_it_is_refused(arguments):
    ((name, _),) = arguments.items()
    with pytest.raises(ValueError, match=f"^{name}="):
        HessianAidedTracking(**arguments)
