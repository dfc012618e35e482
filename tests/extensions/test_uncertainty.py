"""The metric of the uncertainty: its covariance, its size, the step in it."""

import math

import pytest
import torch as th
from torch.testing import assert_close

from sb3_trpo.core.parameters import flatten
from sb3_trpo.extensions.uncertainty import UncertaintyRegion, squared_confidence_radius
from tests import oracles
from tests.extensions.samples import actions_of, batch_of, case_of, sample_of, step_on


def posed(case, seed=0):
    advantages = th.randn(len(case.inputs), dtype=th.float64, generator=th.Generator().manual_seed(seed))
    actions = actions_of(case, seed)
    return *sample_of(case, actions, advantages), actions, advantages


def dense_covariance(case, actions, advantages, groups):
    """Of the gradients of groups of rows, each that of a problem of its own."""
    gradients = []
    for rows in th.tensor_split(th.arange(len(actions)), groups):
        batch = batch_of(case, rows, actions, advantages)
        gradients.append(case.linearize(case.inputs[rows]).gradient(batch.objective)[1])
    return th.cov(th.stack(gradients).T)


@pytest.mark.parametrize("kind", ["gaussian", "categorical", "bernoulli"])
@pytest.mark.parametrize("groups", [2, 5, 24])
def test_the_penalty_is_the_covariance_of_the_groups(kind, groups):
    case = case_of(kind)
    problem, sample, actions, advantages = posed(case)
    region = UncertaintyRegion(level=0.1, scale=0.3, groups=groups)
    reposed = region.repose(problem, sample)
    covariance = dense_covariance(case, actions, advantages, groups)
    expected = 0.3 * squared_confidence_radius(groups, groups - 1, 0.1) * covariance
    columns = [reposed.penalty(v) for v in th.eye(len(covariance), dtype=th.float64)]
    assert_close(th.stack(columns, 1), expected, rtol=1e-9, atol=1e-12)


def test_the_step_is_the_dense_solution_in_that_metric():
    case = case_of("gaussian", seed=3)
    problem, sample, actions, advantages = posed(case)
    region = UncertaintyRegion(scale=2.0, groups=6)
    fisher = oracles.dense_fisher(case.net, case.inputs, case.weights, case.components).detach()
    penalty = 2.0 * squared_confidence_radius(6, 5, 0.05) * dense_covariance(case, actions, advantages, 6)
    order = th.stack([case.to_named_order(row) for row in th.eye(len(fisher), dtype=th.float64)])
    metric = order @ fisher @ order.T + penalty + 0.1 * th.eye(len(fisher), dtype=th.float64)
    x = th.linalg.solve(metric, problem.gradient)
    expected = math.sqrt(2 * 1e-3 / (x @ metric @ x)) * x
    step = step_on(region.repose(problem, sample), radius=1e-3)
    assert_close(step.full_step, expected, rtol=1e-5, atol=1e-8)
    s = case.to_named_order(step.full_step)
    assert step.quadratic_kl == pytest.approx(step.fraction**2 * 0.5 * float(s @ fisher @ s))
    assert step.kl < 1e-3


def test_a_scale_of_zero_is_the_plain_region():
    plain, other = case_of(), case_of()
    step_on(posed(plain)[0])
    problem, sample, *_ = posed(other)
    step_on(UncertaintyRegion(scale=0.0).repose(problem, sample))
    assert_close(flatten(other.parameters), flatten(plain.parameters), rtol=0, atol=1e-15)


def test_a_direction_that_is_uncertain_is_stepped_along_less():
    """Advantages that disagree along one direction and agree along another."""
    lengths = {}
    for scale in (0.0, 10.0):
        case = case_of()
        problem, sample, *_ = posed(case)
        start = flatten(case.parameters)
        reposed = UncertaintyRegion(scale=scale, groups=4).repose(problem, sample)
        step_on(reposed)
        moved = flatten(case.parameters) - start
        lengths[scale] = float(moved @ reposed.penalty(moved)) if scale else 0.0, float(moved @ problem.gradient)
        if scale == 0.0:
            plain = moved
    _, sample, *_ = posed(case_of())
    penalty = UncertaintyRegion(scale=10.0, groups=4).repose(posed(case_of())[0], sample).penalty
    assert lengths[10.0][0] < 0.5 * float(plain @ penalty(plain))
    assert lengths[10.0][1] > 0.0


@pytest.mark.parametrize(("n", "dimension", "level"), [(20, 3, 0.05), (50, 10, 0.2), (5, 1, 0.01)])
def test_the_ellipsoid_holds_the_truth_as_often_as_it_says(n, dimension, level):
    """For Gaussian observations of a known covariance the squared distance is chi-squared over n."""
    generator = th.Generator().manual_seed(0)
    distances = th.randn(4000, n, dimension, generator=generator).mean(1).square().sum(-1)
    outside = (distances > squared_confidence_radius(n, dimension, level)).double().mean()
    assert outside <= level
    assert squared_confidence_radius(n, dimension, level) < 15 * float(distances.mean())


def test_the_signal_to_noise_is_that_of_the_mean():
    case = case_of()
    problem, sample, actions, advantages = posed(case)
    region = UncertaintyRegion(groups=24)
    region.repose(problem, sample)
    trace = dense_covariance(case, actions, advantages, 24).trace() / 24
    assert region.measures()["signal_to_noise"] == pytest.approx(float(problem.gradient.square().sum() / trace))


@pytest.mark.parametrize(
    "arguments", [{"level": 0.0}, {"level": 1.0}, {"scale": -1.0}, {"scale": math.inf}, {"groups": 1}, {"groups": 2.5}]
)
def test_arguments_that_are_no_region_are_refused(arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        UncertaintyRegion(**arguments)
