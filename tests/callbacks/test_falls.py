"""The test of a fall: against scipy, by its level, and in the cases where returns have no variance."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import stdtr
from scipy.stats import binom, ttest_ind

from sb3_trpo.callbacks.falls import p_value_of_fall

RETURNS = arrays(float, st.integers(2, 12), elements=st.integers(-50, 50).map(float))
ALPHA, REPETITIONS = 0.05, 1000


@pytest.mark.filterwarnings("ignore:Precision loss")  # scipy's, of the sample that has no variance
@given(RETURNS, RETURNS, st.integers(0, 20))
def test_it_is_welchs(before, after, margin):
    assume(before.std() > 0 or after.std() > 0)
    expected = ttest_ind(after, before - margin, equal_var=False, alternative="less").pvalue
    assert p_value_of_fall(before, after, margin) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(RETURNS, RETURNS, st.integers(0, 20), st.sampled_from([1e-6, 0.5, 3.0, 1e9]), st.integers(-1000, 1000))
def test_the_unit_of_rewards_and_what_is_added_to_returns_make_no_difference(before, after, margin, unit, added):
    assume(before.mean() - margin != pytest.approx(after.mean(), abs=1e-6))
    p = p_value_of_fall(before, after, margin)
    changed = p_value_of_fall(unit * (before + added), unit * (after + added), unit * margin)
    assert changed == pytest.approx(p, rel=1e-6, abs=1e-12)


@given(RETURNS, RETURNS, st.integers(0, 20), st.integers(1, 20))
def test_a_larger_fall_is_more_significant_and_a_larger_margin_makes_it_less(before, after, margin, more):
    p = p_value_of_fall(before, after, margin)
    assert p_value_of_fall(before, after - more, margin) <= p + 1e-12
    assert p_value_of_fall(before, after, margin + more) >= p - 1e-12


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.integers(2, 30), st.integers(2, 30))
def test_returns_without_variance_are_compared_as_numbers(before, after, n, m):
    p = p_value_of_fall(np.full(n, before), np.full(m, after))
    assert p == (0.0 if after < before else 1.0)


def test_a_margin_is_for_the_slight_falls_of_deterministic_environments():
    before = np.full(10, 200.0)
    assert p_value_of_fall(before, np.full(10, 199.0), margin=9.0) == 1.0
    assert p_value_of_fall(before, np.full(10, 190.0), margin=9.0) == 0.0


def test_numbers_by_hand():
    # differences of means 10, s_x^2 = 4, s_y^2 = 16, n = 4 each: t = -10 / sqrt(5), nu = 25 / (1 / 3 + 16 / 3) = 4.41
    before = 100.0 + np.sqrt(3.0) * np.array([1.0, -1.0, 1.0, -1.0])
    after = 90.0 + np.sqrt(12.0) * np.array([1.0, -1.0, 1.0, -1.0])
    assert p_value_of_fall(before, after) == pytest.approx(stdtr(25 / (17 / 3), -10 / np.sqrt(5)))


DISTRIBUTIONS = {
    "normal": lambda rng, n: rng.normal(100.0, 30.0, n),
    "skewed": lambda rng, n: rng.exponential(100.0, n),
    "falls over or does not": lambda rng, n: np.where(rng.random(n) < 0.8, 500.0, rng.normal(100.0, 20.0, n)),
    "whole numbers": lambda rng, n: rng.poisson(2.0, n).astype(float),
}


def rate(draw, n, shift=0.0):
    rng = np.random.default_rng(0)
    return np.mean([p_value_of_fall(draw(rng, n), draw(rng, n) - shift) < ALPHA for _ in range(REPETITIONS)])


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("name", list(DISTRIBUTIONS))
def test_equal_policies_are_told_apart_as_seldom_as_promised(name, n):
    # one tenth of a level above for what returns are not normal, and what the repetitions leave open
    allowed = binom.ppf(0.9999, REPETITIONS, 1.1 * ALPHA) / REPETITIONS
    assert rate(DISTRIBUTIONS[name], n) <= allowed


def test_a_collapse_is_seen_with_few_episodes():
    assert rate(DISTRIBUTIONS["normal"], 10, shift=60.0) > 0.99


def best_of_many(rng, n, policies):
    """Returns of the policy that did best, of many that are equally good."""
    return max((rng.normal(100.0, 30.0, n) for _ in range(policies)), key=np.mean)


def test_the_best_of_many_had_luck_and_fresh_returns_have_none():
    """Why a fall is confirmed on fresh episodes."""
    rng, n = np.random.default_rng(1), 10
    screened, confirmed = 0, 0
    for _ in range(1000):
        if p_value_of_fall(best_of_many(rng, n, 20), rng.normal(100.0, 30.0, n)) < ALPHA:
            screened += 1
            confirmed += p_value_of_fall(rng.normal(100.0, 30.0, n), rng.normal(100.0, 30.0, n)) < ALPHA
    assert screened / 1000 > 5 * ALPHA
    assert confirmed <= binom.ppf(0.9999, screened, ALPHA)
