"""Steps that held-out experience speaks against are not made, or made shorter; how sure an improvement is."""

import math

import pytest
import torch as th
from scipy import stats

from sb3_trpo.core.intervals import Estimate
from sb3_trpo.core.parameters import assign, flatten
from sb3_trpo.core.status import StepStatus
from sb3_trpo.extensions.confidence import ConfidenceRadius
from sb3_trpo.extensions.extension import Plain
from sb3_trpo.extensions.held_out import HeldOutValidation
from sb3_trpo.extensions.improvement import Improvement, margin
from tests.core.cases import make_case
from tests.extensions.samples import actions_of, sample_of, step_on

N = 40
KEPT = th.arange(20, N)


def mirrored(sign, seed=0, noise=0.0):
    """A case whose held-out half saw the same states and actions, with the same advantages or their opposites."""
    case = make_case("gaussian", seed, n=N)
    case.inputs[20:], case.weights = case.inputs[:20], th.full((N,), 1 / N, dtype=th.float64)
    actions = actions_of(case)
    actions[20:] = actions[:20]
    generator = th.Generator().manual_seed(seed)
    advantages = th.randn(N, dtype=th.float64, generator=generator)
    advantages[20:] = sign * advantages[:20] + noise * th.randn(20, dtype=th.float64, generator=generator)
    return case, *sample_of(case, actions, advantages, held_out=KEPT)


def test_improvement_is_measured_at_the_parameters_as_they_stand():
    _case, problem, sample = mirrored(1.0)
    improvement = Improvement(sample.policy, sample.held_out)
    estimate, kl = improvement.now()
    assert estimate.mean == pytest.approx(0.0, abs=1e-15)
    assert kl == pytest.approx(0.0, abs=1e-12)
    step = step_on(problem)
    estimate, kl = improvement.now()
    assert estimate.mean == pytest.approx(step.improvement)
    assert kl == pytest.approx(step.kl)
    assert estimate.clusters == 20


def test_the_margin_is_student_s():
    estimate = Estimate(0.0, 2.0, 7)
    assert margin(estimate, 0.05) == pytest.approx(2.0 * stats.t(6).ppf(0.95))
    assert margin(Estimate(0.0, math.inf, 1), 0.05) == math.inf


def test_a_step_that_held_out_experience_agrees_with_is_made():
    _case, problem, sample = mirrored(1.0)
    guard = HeldOutValidation()
    step = step_on(guard.repose(problem, sample))
    assert step.accepted
    assert guard.measures() == {
        "held_out_improvement": pytest.approx(step.improvement),
        "held_out_kl": pytest.approx(step.kl),
    }


def test_a_step_that_does_harm_on_held_out_experience_is_undone():
    case, problem, sample = mirrored(-1.0)
    start = flatten(case.parameters)
    step = step_on(HeldOutValidation().repose(problem, sample))
    assert step.status is StepStatus.FELL_ON_HELD_OUT
    assert th.equal(flatten(case.parameters), start)


def test_the_guard_gives_the_benefit_of_the_doubt_and_confidence_does_not():
    """Held-out advantages that are all noise: neither rise nor fall is sure."""
    _, problem, sample = mirrored(0.0, noise=1.0, seed=1)
    assert step_on(ConfidenceRadius().repose(problem, sample)).status is StepStatus.UNCERTAIN
    _, problem, sample = mirrored(0.0, noise=1.0, seed=1)
    assert step_on(HeldOutValidation().repose(problem, sample)).accepted


def test_a_step_whose_held_out_kl_breaks_the_radius_is_shortened():
    case = make_case("gaussian", 0, n=N)
    case.inputs[20:] *= 3.0  # where the policy moves more
    advantages = th.randn(N, dtype=th.float64, generator=th.Generator().manual_seed(0))
    actions = actions_of(case)
    problem, sample = sample_of(case, actions, advantages, held_out=KEPT)
    guard = HeldOutValidation(level=1e-9)
    start = flatten(case.parameters)
    loose = step_on(HeldOutValidation(level=1e-9, kl_factor=1e9).repose(problem, sample))
    assign(case.parameters, start)
    problem, sample = sample_of(case, actions, advantages, held_out=KEPT)
    step = step_on(guard.repose(problem, sample))
    assert step.accepted
    assert step.backtracks > loose.backtracks
    assert guard.measures()["held_out_kl"] <= 0.01
    assign(case.parameters, start)
    problem, sample = sample_of(case, actions, advantages, held_out=KEPT)
    tight = step_on(HeldOutValidation().repose(problem, sample), max_candidates=1)
    assert tight.status is StepStatus.KL_TOO_LARGE_ON_HELD_OUT


def test_a_sure_step_whose_held_out_kl_breaks_the_radius_is_shortened():
    """Where the held-out half agrees with the step, and moves more."""
    case = make_case("gaussian", 0, n=N)
    case.inputs[20:] = 2.0 * case.inputs[:20]
    actions = actions_of(case)
    advantages = (actions - case.net(case.inputs)[0]).sum(1).detach()  # larger is better, everywhere
    start = flatten(case.parameters)

    def step_by(controller, **more):
        assign(case.parameters, start)
        problem, sample = sample_of(case, actions, advantages, held_out=KEPT)
        held_out = Improvement(sample.policy, sample.held_out)
        return step_on(controller.repose(problem, sample), **more), held_out.now()[1]

    loose, kl = step_by(Plain())
    assert kl > loose.radius
    sure, kl = step_by(ConfidenceRadius(level=0.45))
    assert sure.accepted
    assert sure.backtracks > loose.backtracks
    assert kl <= sure.radius
    tight, _ = step_by(ConfidenceRadius(level=0.45), max_candidates=1)
    assert tight.status is StepStatus.KL_TOO_LARGE_ON_HELD_OUT


def test_without_held_out_experience_the_guard_is_silent_and_confidence_refuses():
    _case, problem, sample = mirrored(1.0)
    nothing = sample._replace(held_out=[])
    assert HeldOutValidation().repose(problem, nothing) is problem
    assert step_on(ConfidenceRadius().repose(problem, nothing)).status is StepStatus.UNCERTAIN


def test_objections_add_up():
    _, problem, sample = mirrored(-1.0)
    objection = lambda radius: StepStatus.NO_IMPROVEMENT  # noqa: E731
    guarded = HeldOutValidation().repose(problem._replace(objection=objection), sample)
    assert step_on(guarded).status is StepStatus.FELL_ON_HELD_OUT
    _case, problem, sample = mirrored(1.0)
    guarded = HeldOutValidation().repose(problem._replace(objection=objection), sample)
    assert step_on(guarded).status is StepStatus.NO_IMPROVEMENT


def test_confidence_sizes_the_radius():
    controller = ConfidenceRadius()
    _, problem, sample = mirrored(1.0)
    step = step_on(controller.repose(problem, sample), radius=1e-4)
    assert step.accepted
    assert step.reduction_ratio > controller.good
    assert controller.measures()["held_out_lower_bound"] > 0
    sure = controller.lower >= 0.5 * controller.improvement
    controller.update(step)
    assert controller.factor == (1.5 if sure else 1.0)
    assert controller.radius(0.02, 1.0) == 0.02 * controller.factor
    _case, problem, sample = mirrored(-1.0)
    factor = controller.factor
    controller.update(step_on(controller.repose(problem, sample)))
    assert controller.factor == 0.5 * factor


def test_harmful_steps_pass_the_test_as_rarely_as_its_level_says():
    """Advantages without any signal: half of all steps do harm, and are to be accepted in a tenth of all cases."""
    accepted = 0
    for seed in range(400):
        _case, problem, sample = mirrored(0.0, noise=1.0, seed=seed)
        accepted += step_on(ConfidenceRadius(level=0.1).repose(problem, sample), max_candidates=1).accepted
    assert stats.binomtest(accepted, 400, 0.1).pvalue > 0.01


@pytest.mark.parametrize("cls", [HeldOutValidation, ConfidenceRadius])
@pytest.mark.parametrize("arguments", [{"holdout": 0.0}, {"holdout": 1.0}, {"level": 0.0}, {"level": 0.7}])
def test_arguments_that_hold_nothing_out_are_refused(cls, arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        cls(**arguments)


def test_a_bound_below_the_radius_is_refused():
    with pytest.raises(ValueError, match=r"kl_factor=0.5 must be"):
        HeldOutValidation(kl_factor=0.5)
