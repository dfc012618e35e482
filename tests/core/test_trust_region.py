"""Radius controllers."""

from dataclasses import dataclass

import pytest

from sb3_trpo.core.status import StepStatus
from sb3_trpo.core.trust_region import AdaptiveRadius, FixedRadius, ScheduledRadius


@dataclass
class Outcome:
    status: StepStatus
    reduction_ratio: float = float("nan")


def test_fixed_follows_the_target():
    controller = FixedRadius()
    controller.update(Outcome(StepStatus.KL_TOO_LARGE))
    assert controller.radius(0.01, 0.3) == 0.01


def test_scheduled_is_linear_between_the_target_and_the_final_factor():
    controller = ScheduledRadius(final_factor=2.0)
    assert [controller.radius(0.1, p) for p in (1.0, 0.5, 0.0)] == pytest.approx([0.1, 0.15, 0.2])


def test_adaptive_grows_and_shrinks_by_the_reduction_ratio_within_its_limits():
    controller = AdaptiveRadius(grow=2.0, shrink=0.5, min_factor=0.25, max_factor=4.0)
    good, fair, poor = (
        Outcome(StepStatus.ACCEPTED, 0.9),
        Outcome(StepStatus.ACCEPTED, 0.5),
        Outcome(StepStatus.ACCEPTED, 0.1),
    )
    refused = Outcome(StepStatus.KL_TOO_LARGE)

    def factor_after(*outcomes):
        for outcome in outcomes:
            controller.update(outcome)
        return controller.radius(1.0, 0.5)

    assert factor_after(fair) == 1.0
    assert factor_after(good) == 2.0
    assert factor_after(good, good, good) == 4.0
    assert factor_after(poor) == 2.0
    assert factor_after(refused) == 1.0
    assert factor_after(Outcome(StepStatus.ZERO_GRADIENT), Outcome(StepStatus.NON_FINITE_OBJECTIVE)) == 1.0
    assert factor_after(*[poor] * 9) == 0.25


@pytest.mark.parametrize(
    "kwargs", [{"good": 0.2, "poor": 0.3}, {"grow": 0.9}, {"shrink": 1.1}, {"min_factor": 0.0}, {"factor": 9.0}]
)
def test_adaptive_refuses_constants_that_contradict_each_other(kwargs):
    with pytest.raises(ValueError, match="needs poor < good"):
        AdaptiveRadius(**kwargs)


@pytest.mark.parametrize("final_factor", [-1.0, float("nan")])
def test_scheduled_refuses_a_negative_radius(final_factor):
    with pytest.raises(ValueError, match="final_factor="):
        ScheduledRadius(final_factor=final_factor)
