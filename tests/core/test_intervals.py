"""Means and their standard errors, against the textbook and against repetition."""

import math

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_trpo.core.intervals import clustered_mean
from sb3_trpo.core.surrogate import normalized_weights, uniform_weights


@given(st.integers(2, 40), st.integers(0, 99))
def test_independent_steps_have_the_textbooks_error(n, seed):
    x = th.randn(n, dtype=th.float64, generator=th.Generator().manual_seed(seed)) + 3.0
    weights = uniform_weights(x)
    found = clustered_mean(weights * x, weights, None)
    assert found.mean == pytest.approx(float(x.mean()))
    assert found.standard_error == pytest.approx(float(x.std()) / math.sqrt(n))
    assert found.clusters == n
    assert clustered_mean(weights * x, weights, th.arange(n)) == pytest.approx(found)


@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 99))
def test_clusters_by_a_loop(n, groups, seed):
    generator = th.Generator().manual_seed(seed)
    x, clusters = th.randn(n, dtype=th.float64, generator=generator), th.randint(groups, (n,), generator=generator)
    weights = normalized_weights(th.rand(n, dtype=th.float64, generator=generator) + 0.1)
    mean = float((weights * x).sum())
    residuals = [
        sum(float(weights[i] * (x[i] - mean)) for i in range(n) if clusters[i] == name)
        for name in set(clusters.tolist())
    ]
    found = clustered_mean(weights * x, weights, clusters)
    assert (found.mean, found.clusters) == (pytest.approx(mean), len(residuals))
    if len(residuals) == 1:
        assert found.standard_error == math.inf
    else:
        factor = len(residuals) / (len(residuals) - 1)
        assert found.standard_error == pytest.approx(math.sqrt(factor * sum(r * r for r in residuals)), abs=1e-12)


def test_the_error_is_that_of_repeated_experiments():
    """Thirty episodes of unequal lengths, whose steps share a random effect."""
    rng, means, errors = np.random.default_rng(0), [], []
    for _ in range(2000):
        lengths = rng.integers(1, 20, 30)
        clusters = np.repeat(np.arange(30), lengths)
        x = rng.normal(size=30)[clusters] + rng.normal(size=lengths.sum())
        weights = uniform_weights(th.as_tensor(x))
        found = clustered_mean(weights * th.as_tensor(x), weights, th.as_tensor(clusters))
        means.append(found.mean)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.05)
    inside = np.abs(means) < 2.045 * np.asarray(errors)  # Student's t with 29 degrees of freedom, 95 %
    assert 0.93 < inside.mean() < 0.97
