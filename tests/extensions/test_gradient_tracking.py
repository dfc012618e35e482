"""The tracked gradient: its recursion, its units, the objective that it belongs to."""

import math

import pytest
import torch as th
from torch.testing import assert_close

from sb3_trpo.core.parameters import assign, flatten
from sb3_trpo.core.surrogate import standardize, uniform_weights
from sb3_trpo.extensions.gradient_tracking import GradientTracking
from tests.extensions.samples import actions_of, case_of, sample_of, step_on

KINDS = ["gaussian", "gaussian_state_std", "categorical", "bernoulli"]


def dense_gradient(case, actions, advantages, old_log_prob, truncation):
    """By autograd from the definition, step by step, at the parameters as they are."""
    total = th.zeros(len(flatten(case.parameters)), dtype=th.float64)
    weights = case.weights / case.weights.sum()
    for n in range(len(actions)):
        parameters = tuple(p if p.dim() == 1 else p[n : n + 1] for p in case.net(case.inputs))
        log_prob = sum(part.log_prob(actions[n : n + 1, i]) for i, part in enumerate(case.components(parameters)))
        slopes = th.autograd.grad(log_prob.sum(), case.parameters, allow_unused=True)
        score = th.cat(
            [(th.zeros_like(p) if s is None else s).reshape(-1) for s, p in zip(slopes, case.parameters, strict=True)]
        )
        ratio = min(math.exp(float(log_prob.sum().detach() - old_log_prob[n])), truncation)
        total += weights[n] * ratio * advantages[n] * score
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("truncation", [1.0, 2.0, 1e6])
def test_the_recursion_is_that_of_the_paper(kind, truncation):
    case, tracker = case_of(kind), GradientTracking(weight=0.3, truncation=truncation)
    estimate = previous = None
    for update in range(4):
        actions = actions_of(case, update)
        advantages = th.randn(24, dtype=th.float64, generator=th.Generator().manual_seed(update))
        here, old = flatten(case.parameters), case.old().log_prob(actions)
        fresh = dense_gradient(case, actions, advantages, old, truncation=math.inf)
        if estimate is None:
            estimate = fresh
        else:
            assign(case.parameters, previous)
            there = dense_gradient(case, actions, advantages, old, truncation)
            assign(case.parameters, here)
            estimate = fresh + 0.7 * (estimate - there)
        previous = here
        problem, sample = sample_of(case, actions, advantages)
        reposed = tracker.repose(problem, sample)
        assert th.equal(flatten(case.parameters), here)
        assert_close(reposed.gradient, estimate, rtol=1e-9, atol=1e-12)
        assert tracker.measures()["tracking_cosine"] == pytest.approx(
            float(th.cosine_similarity(estimate, fresh, dim=0)) if update else math.nan, nan_ok=True
        )
        step_on(reposed, radius=0.05)


def test_all_of_the_fresh_gradient_is_the_plain_algorithm():
    plain, tracked = case_of(), case_of()
    tracker = GradientTracking(weight=1.0)
    for update in range(3):
        for case in (plain, tracked):
            advantages = th.randn(24, dtype=th.float64, generator=th.Generator().manual_seed(update))
            problem, sample = sample_of(case, actions_of(case, update), advantages)
            step_on(tracker.repose(problem, sample) if case is tracked else problem)
        assert th.equal(flatten(plain.parameters), flatten(tracked.parameters))


def test_a_policy_that_did_not_move_averages_its_gradients():
    """What is carried and what is subtracted are then an average's parts: y = a g + (1 - a) y."""
    case, tracker = case_of(), GradientTracking(weight=0.25)
    gradients = []
    for update in range(3):
        advantages = th.randn(24, dtype=th.float64, generator=th.Generator().manual_seed(update))
        problem, sample = sample_of(case, actions_of(case, update), advantages)
        gradients.append(problem.gradient)
        estimate = tracker.repose(problem, sample).gradient
    expected = 0.25 * gradients[2] + 0.75 * (0.25 * gradients[1] + 0.75 * gradients[0])
    assert_close(estimate, expected)


def test_the_objective_is_the_one_whose_gradient_is_tracked():
    case, tracker = case_of(), GradientTracking()
    for update in range(2):
        advantages = th.randn(24, dtype=th.float64, generator=th.Generator().manual_seed(update))
        problem, sample = sample_of(case, actions_of(case, update), advantages)
        reposed = tracker.repose(problem, sample)
        if update == 0:
            step_on(reposed)
    start, h = flatten(case.parameters), 1e-6
    assert reposed.evaluate().objective == pytest.approx(problem.evaluate().objective)
    for direction in th.eye(len(start), dtype=th.float64)[::5]:
        values = []
        for sign in (1, -1):
            assign(case.parameters, start + sign * h * direction)
            values.append(reposed.evaluate().objective)
        assign(case.parameters, start)
        slope = (values[0] - values[1]) / (2 * h)
        assert slope == pytest.approx(float(reposed.gradient @ direction), rel=1e-5, abs=1e-8)
    assert reposed.evaluate().kl == problem.evaluate().kl


def test_the_estimate_is_carried_in_units_of_the_advantages_before_they_are_standardised():
    """Batches whose advantages differ in scale only: tracked standardised ones are the raw ones over the scale."""
    raw, standardised = GradientTracking(weight=0.4), GradientTracking(weight=0.4)
    case = case_of()
    weights = uniform_weights(case.weights)
    case.weights = weights
    for update, size in enumerate([1.0, 100.0, 1e-3]):
        actions = actions_of(case, update)
        advantages = size * th.randn(24, dtype=th.float64, generator=th.Generator().manual_seed(update))
        advantages -= advantages.mean()  # the baseline that standardising takes off
        unit, scale = standardize(advantages, weights)
        assert scale == pytest.approx(float(advantages.std()))
        plain = raw.repose(*sample_of(case, actions, advantages))
        reposed = standardised.repose(*sample_of(case, actions, unit, scale=scale))
        assert_close(reposed.gradient * scale, plain.gradient)
        step_on(reposed)


@pytest.mark.parametrize("sizes", [(100.0, 1.0), (1.0, 100.0)])
def test_what_a_bonus_for_entropy_adds_is_not_tracked(sizes):
    """It is known where the policy is, whatever the advantages' scale and the bonus were before."""
    with_bonus, without, case = GradientTracking(), GradientTracking(), case_of("gaussian_state_std")
    for update, (size, bonus) in enumerate(zip(sizes, (1.0, 0.3), strict=True)):
        advantages = th.randn(24, dtype=th.float64, generator=th.Generator().manual_seed(update))
        actions = actions_of(case, update)
        plain, sample = sample_of(case, actions, advantages, scale=size)
        problem, sample_with = sample_of(case, actions, advantages, scale=size, entropy_coefficient=bonus)
        tracked = without.repose(plain, sample).gradient
        reposed = with_bonus.repose(problem, sample_with)
        assert (problem.gradient - plain.gradient).norm() > 0.01
        assert_close(reposed.gradient, tracked + problem.gradient - plain.gradient, rtol=1e-9, atol=1e-12)
        assert_close(with_bonus.estimate, without.estimate, rtol=1e-9, atol=1e-12)
        step_on(reposed, radius=0.05)


def test_a_history_of_other_parameters_is_none():
    """As when a layer is frozen between two updates."""
    case, tracker = case_of(), GradientTracking()
    tracker.repose(*sample_of(case, actions_of(case), th.randn(24, dtype=th.float64)))
    tracker.estimate, tracker.previous = tracker.estimate[1:], tracker.previous[1:]
    problem, sample = sample_of(case, actions_of(case, 1), th.randn(24, dtype=th.float64))
    assert th.equal(tracker.repose(problem, sample).gradient, problem.gradient)
    assert math.isnan(tracker.cosine)


def test_advantages_without_a_signal_leave_history_alone():
    case, tracker = case_of(), GradientTracking()
    tracker.repose(*sample_of(case, actions_of(case), th.randn(24, dtype=th.float64)))
    before = tracker.estimate.clone()
    problem, sample = sample_of(case, actions_of(case, 1), th.zeros(24, dtype=th.float64), scale=0.0)
    tracker.cosine = 0.9
    assert tracker.repose(problem, sample) is problem
    assert th.equal(tracker.estimate, before)
    assert math.isnan(tracker.measures()["tracking_cosine"]), "nothing of an update before"


def test_a_history_that_is_not_finite_begins_anew():
    case, tracker = case_of(), GradientTracking()
    tracker.repose(*sample_of(case, actions_of(case), th.randn(24, dtype=th.float64)))
    tracker.estimate = tracker.estimate * math.inf
    problem, sample = sample_of(case, actions_of(case, 1), th.randn(24, dtype=th.float64))
    assert tracker.repose(problem, sample) is problem
    assert tracker.estimate is None
    assert th.equal(tracker.repose(problem, sample).gradient, problem.gradient)


@pytest.mark.parametrize("arguments", [{"weight": 0.0}, {"weight": 1.5}, {"weight": math.nan}, {"truncation": 0.5}])
def test_arguments_that_average_nothing_are_refused(arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        GradientTracking(**arguments)
