"""Entropy in the objective: the coefficient, its gradient, the floor."""

import math

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from sb3_trpo import TRPO
from sb3_trpo.core.problem import constrained_problem
from sb3_trpo.extensions.entropy import PULL, entropy_coefficient
from tests.algorithms.kinds import make_model
from tests.core.cases import CasePolicy
from tests.extensions.samples import actions_of, batch_of, case_of


@given(st.floats(0, 1), st.floats(-5, 5), st.floats(-5, 5))
def test_the_coefficient_is_the_bonus_and_the_slope_of_the_penalty(bonus, floor, entropy):
    assert entropy_coefficient(bonus, None, entropy) == bonus

    def penalty(h):
        return -0.5 * PULL * max(0.0, floor - h) ** 2

    slope = (penalty(entropy + 1e-6) - penalty(entropy - 1e-6)) / 2e-6
    assert entropy_coefficient(bonus, floor, entropy) == pytest.approx(bonus + slope, abs=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "gaussian_state_std", "categorical", "bernoulli"])
def test_the_gradient_has_that_of_the_entropy_in_it(kind):
    case = case_of(kind)
    actions, advantages = actions_of(case), th.randn(24, dtype=th.float64)
    problems = [
        constrained_problem(
            CasePolicy(case), [batch_of(case, th.arange(24), actions, advantages, entropy_coefficient=c)]
        )
        for c in (0.0, 0.7)
    ]
    weights = case.weights / case.weights.sum()
    entropy = sum((weights * part.entropy()).sum() for part in case.components())
    slopes = th.autograd.grad(entropy, case.parameters, allow_unused=True)
    expected = th.cat(
        [(th.zeros_like(p) if s is None else s).reshape(-1) for s, p in zip(slopes, case.parameters, strict=True)]
    )
    assert_close(problems[1].gradient - problems[0].gradient, 0.7 * expected, rtol=1e-9, atol=1e-12)
    assert problems[1].objective - problems[0].objective == pytest.approx(0.7 * float(entropy.detach()))


@pytest.mark.parametrize(("space", "floor"), [("CartPole-v1", 0.68), ("Pendulum-v1", 1.35)])
def test_a_floor_keeps_the_entropy_up(space, floor):
    """CartPole begins at 0.69 nats, Pendulum at 1.42, and both fall."""
    entropies = {}
    for entropy_floor in (None, floor):
        model = TRPO("MlpPolicy", space, n_steps=512, target_kl=0.05, seed=0, entropy_floor=entropy_floor)
        entropies[entropy_floor] = model.learn(512 * 30).logger.name_to_value["train/entropy"]
    assert entropies[None] < floor - 0.04
    assert entropies[floor] > floor - 0.5 * (floor - entropies[None])


def test_schedules_of_bonus_and_floor_are_followed():
    seen = []
    model = make_model("box", ent_coef=lambda progress: 0.5 * progress, entropy_floor=lambda progress: progress - 3.0)
    original = model._terms
    model._terms = lambda: seen.append(original()) or seen[-1]
    model.learn(192)
    progress = np.asarray([1 - step / 192 for step in (64, 128, 192)])
    np.testing.assert_allclose([terms.entropy_bonus for terms in seen], 0.5 * progress)
    np.testing.assert_allclose([terms.entropy_floor for terms in seen], progress - 3.0)


@pytest.mark.parametrize("arguments", [{"ent_coef": 0.1}, {"entropy_floor": 0.0}, {"ent_coef": lambda progress: 0.1}])
def test_an_entropy_without_a_closed_form_is_refused_in_the_constructor(arguments):
    with pytest.raises(ValueError, match="need an entropy in closed form"):
        make_model("gsde_squashed", **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"ent_coef": -0.1},
        {"ent_coef": math.nan},
        {"ent_coef": "0.1"},
        {"entropy_floor": math.inf},
        {"entropy_floor": "a"},
    ],
)
def test_numbers_that_are_none_are_refused(arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value!r} must be"):
        make_model("box", **arguments)
