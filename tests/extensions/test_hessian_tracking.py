"""Tracking by the Hessian: its product with the step, what it leaves out, and the true Hessian of the return."""

import math

import pytest
import torch as th
from torch.testing import assert_close

from benchmarks.exact import LinearQuadratic, Tabular
from benchmarks.known_answers import noisy, pose
from sb3_trpo.core.parameters import assign, flatten
from sb3_trpo.core.problem import constrained_problem
from sb3_trpo.core.surrogate import Surrogate
from sb3_trpo.extensions.gradient_tracking import GradientTracking
from sb3_trpo.extensions.hessian_tracking import HessianAidedTracking
from tests.extensions.samples import actions_of, batch_of, case_of, sample_of, step_on

KINDS = ["gaussian", "gaussian_state_std", "categorical", "bernoulli"]
STRETCHES = th.arange(24) // 7
"""Of seven steps each, and a shorter one."""


def advantages_of(case, seed=0):
    return th.randn(len(case.inputs), dtype=th.float64, generator=th.Generator().manual_seed(seed))


def dense_product(case, actions, advantages, clusters, v, truncation=math.inf, old_log_prob=None):
    """``B v`` by second derivatives of each step's log probability."""
    weights = case.weights / case.weights.sum()
    scores, curvatures, ratios = [], [], []
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
        old = log_prob.sum() if old_log_prob is None else old_log_prob[n]
        ratios.append(math.exp(float((log_prob.sum() - old).detach())))
    scores, ratios = th.stack(scores), th.tensor(ratios, dtype=th.float64)
    own = scores @ v
    shares, limit = ratios * own, truncation - 1.0
    others = th.stack([shares[clusters == name].sum() for name in clusters]) - shares
    is_cut = others.abs() > limit
    capped = ((1.0 + own).clamp(max=truncation) - (1.0 - own).clamp(max=truncation)) / 2.0
    sums = others.clamp(-limit, limit) + capped
    terms = th.stack(curvatures) + scores * sums[:, None]
    return ((weights * ratios * advantages)[:, None] * terms).sum(0), float(is_cut.double().mean())


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
        expected, _ = dense_product(case, actions, advantages, STRETCHES, v)
        errors.append(float((product_of(case, problem, sample, v) - expected).norm() / expected.norm()))
    assert errors[1] < 1e-3
    assert errors[1] < 0.02 * errors[0] + 1e-9


def test_steps_that_stand_for_themselves_have_the_hessian_of_the_surrogate():
    case, v = case_of(), direction_of(case_of(), 1e-3)
    actions, advantages = actions_of(case), advantages_of(case)
    problem, sample = sample_of(case, actions, advantages)
    expected, _ = dense_product(case, actions, advantages, th.arange(24), v)
    assert_close(product_of(case, problem, sample, v), expected, rtol=1e-4, atol=1e-9)


def test_a_stretch_in_two_batches_is_one_stretch():
    case, v = case_of(), direction_of(case_of(), 0.01)
    actions, advantages = actions_of(case), advantages_of(case)
    problem, sample = sample_of(case, actions, advantages, clusters=STRETCHES)
    rows, share = th.arange(24), case.weights / case.weights.sum()
    parts = []
    for some in (rows[::2], rows[1::2]):
        batch, part = batch_of(case, some, actions, advantages, STRETCHES), float(share[some].sum())
        surrogate = Surrogate(
            batch.objective.actions, batch.objective.old_log_prob, advantages[some], part * batch.weights
        )
        parts.append(batch._replace(weights=part * batch.weights, objective=surrogate))
    cut = sample._replace(batches=parts)
    in_two = product_of(case, constrained_problem(sample.policy, parts), cut, v)
    assert_close(in_two, product_of(case, problem, sample, v))


def test_sums_are_truncated():
    case = case_of()
    v, actions, advantages = direction_of(case, 0.02), actions_of(case), advantages_of(case)
    truncation = 1.006
    expected, share = dense_product(case, actions, advantages, STRETCHES, v, truncation)
    assert 0.2 < share < 0.8
    problem, sample = sample_of(case, actions, advantages, clusters=STRETCHES)
    found, free = (product_of(case, problem, sample, v, c) for c in (truncation, 1e6))
    assert (found - expected).norm() < 0.03 * (free - expected).norm()


def test_steps_of_an_older_policy_weigh_what_they_weigh_in_the_gradient():
    case = case_of()
    v, actions, advantages = direction_of(case, 0.001), actions_of(case), advantages_of(case)
    here = flatten(case.parameters)
    assign(case.parameters, here - direction_of(case, 0.3))
    old_log_prob = case.old().log_prob(actions)
    assign(case.parameters, here)
    expected, _ = dense_product(case, actions, advantages, STRETCHES, v, old_log_prob=old_log_prob)
    _, sample = sample_of(case, actions, advantages)
    batch = batch_of(case, th.arange(24), actions, advantages, STRETCHES, old_log_prob)
    problem = constrained_problem(sample.policy, [batch])
    found = product_of(case, problem, sample._replace(batches=[batch]), v)
    assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.norm()))
    unweighted, _ = dense_product(case, actions, advantages, STRETCHES, v)
    assert (unweighted - expected).norm() > 0.05 * expected.norm()


def test_a_truncation_of_one_leaves_the_rest_of_a_stretch_out():
    case, v = case_of(), direction_of(case_of(), 0.1)
    actions, advantages = actions_of(case), advantages_of(case)
    alone = product_of(case, *sample_of(case, actions, advantages), v)
    together = sample_of(case, actions, advantages, clusters=STRETCHES)
    assert_close(
        product_of(case, *together, v, truncation=1.0), product_of(case, *sample_of(case, actions, advantages), v, 1.0)
    )
    assert (product_of(case, *together, v) - alone).norm() > 0.1 * alone.norm()


def test_padding_does_not_count():
    case, v = case_of(), direction_of(case_of(), 0.01)
    actions, advantages = actions_of(case), advantages_of(case)
    case.weights = case.weights.clone()
    case.weights[3] = 0.0
    expected = product_of(case, *sample_of(case, actions, advantages, clusters=STRETCHES), v)
    actions[3], advantages[3] = 3.0, 1e9
    assert_close(product_of(case, *sample_of(case, actions, advantages, clusters=STRETCHES), v), expected)


@pytest.mark.parametrize(
    "make",
    [lambda: LinearQuadratic.random(seed=0, horizon=6), lambda: Tabular.random(seed=0)],
    ids=["regulator", "tabular"],
)
def test_it_is_unbiased_where_ratios_of_single_actions_are_not(make):
    """Against half the difference of the true gradients at both sides of a policy, each at a KL of 0.01."""
    problem, generator = make(), th.Generator().manual_seed(0)
    here = flatten(problem.parameters)
    v = th.randn(len(here), dtype=th.float64, generator=generator)
    v *= (2 * 0.01 / (v @ problem.exact_fisher() @ v)).sqrt()
    gradients = []
    for place in (here + v, here - v):
        assign(problem.parameters, place)
        gradients.append(problem.exact_gradient() / problem.effective_horizon)
    truth = (gradients[0] - gradients[1]) / 2.0
    assign(problem.parameters, here)
    products = []
    for _ in range(10):
        posed, sample = pose(problem, noisy(problem, 160_000 // problem.horizon, generator), None)
        products.append(
            [
                posed.gradient - tracker.earlier_gradient(here - v, posed.gradient, posed, sample)
                for tracker in (HessianAidedTracking(truncation=1e6), GradientTracking(truncation=1e6))
            ]
        )
    of_hessian, of_ratios = (th.stack([pair[kind] for pair in products]) for kind in range(2))
    noise = float(of_hessian.std(0).norm()) / len(products) ** 0.5
    error, error_of_ratios = (float((found.mean(0) - truth).norm()) for found in (of_hessian, of_ratios))
    assert noise < 0.2 * truth.norm()
    assert error < 2.0 * noise
    assert error < 0.6 * error_of_ratios


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
            product, _ = dense_product(case, actions, advantages, STRETCHES, here - previous)
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
