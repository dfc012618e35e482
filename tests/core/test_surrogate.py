"""The surrogate objective, standardisation and weighted means."""

import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from sb3_trpo.core.surrogate import (
    normalized_weights,
    standardize,
    surrogate_terms,
    uniform_weights,
    weighted_mean,
)


def test_surrogate_by_hand():
    log_prob, old = th.tensor([0.0, 0.6931472]), th.tensor([0.6931472, 0.0])
    terms = surrogate_terms(log_prob, old, th.tensor([4.0, 1.0]), th.tensor([0.25, 0.75]))
    assert_close(terms, th.tensor([0.25 * 0.5 * 4.0, 0.75 * 2.0 * 1.0]))


@given(st.integers(2, 50), st.floats(-100, 100), st.integers(-8, 8), st.integers(0, 99))
def test_standardized_advantages_equal_the_textbook_and_ignore_scale(n, shift, exponent, seed):
    x = th.randn(n, dtype=th.float64, generator=th.Generator().manual_seed(seed)) + shift
    expected = (x - x.mean()) / x.std()
    assert_close(standardize(x, uniform_weights(x)).advantages, expected, rtol=1e-6, atol=1e-8)
    assert_close(standardize(10.0**exponent * x, uniform_weights(x)).advantages, expected, rtol=1e-6, atol=1e-8)


def test_padded_steps_do_not_count():
    x = th.tensor([1.0, float("nan"), 2.0, 4.0, 1e30])
    weights = normalized_weights(th.tensor([1.0, 0.0, 1.0, 1.0, 0.0]))
    short = th.tensor([1.0, 2.0, 4.0])
    keep = weights > 0
    assert_close(standardize(x, weights).advantages[keep], standardize(short, uniform_weights(short)).advantages)
    assert_close(weighted_mean(x, weights), short.mean())


@pytest.mark.parametrize("value", [0.0, 0.1, -1e8, 1e-30])
def test_equal_advantages_become_exact_zeros(value):
    x = th.full((1000,), value)
    for some in (x, x[:1]):
        advantages, scale = standardize(some, uniform_weights(some))
        assert th.equal(advantages, th.zeros_like(some))
        assert scale == 0.0


def test_sums_over_parts_of_a_batch_add_up_to_the_mean():
    x, weights = th.randn(10, dtype=th.float64), normalized_weights(th.rand(10, dtype=th.float64))
    parts = weighted_mean(x[:3], weights[:3]) + weighted_mean(x[3:], weights[3:])
    assert_close(parts, weighted_mean(x, weights))


def test_weights_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="weights sum to 0"):
        normalized_weights(th.zeros(3))
