"""Statistics of scores: rliable and scipy say the same, and what must hold for any scores holds."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from sb3_trpo.evaluation.statistics import (
    aggregate_gap,
    aggregate_iqm,
    aggregate_mean,
    iqm,
    normalize,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    rly = pytest.importorskip("rliable.library")
    metrics = pytest.importorskip("rliable.metrics")

RNG = np.random.default_rng(0)
X, Y = RNG.normal(0.6, 0.3, (7, 3)), RNG.normal(0.4, 0.3, (5, 3))
finite = st.floats(-1e6, 1e6, allow_subnormal=False)
matrix = st.tuples(st.integers(2, 6), st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=finite)
)
ragged = st.lists(st.lists(finite, min_size=2, max_size=6).map(np.array), min_size=1, max_size=3)
few = settings(max_examples=40, deadline=None)


def close(x):
    """Rounding of numbers of this size."""
    return 1e-9 * (1 + np.abs(np.concatenate([np.ravel(task) for task in x])).max())


@few
@given(matrix)
def test_point_estimates_are_those_of_rliable_and_scipy(x):
    tolerance = {"rtol": 1e-9, "atol": close(x)}
    np.testing.assert_allclose(iqm(x), metrics.aggregate_iqm(x), **tolerance)
    np.testing.assert_allclose(iqm(x), stats.trim_mean(x, 0.25, axis=None), **tolerance)
    np.testing.assert_allclose(optimality_gap(x), metrics.aggregate_optimality_gap(x), **tolerance)
    np.testing.assert_allclose(optimality_gap(x, 3.0), metrics.aggregate_optimality_gap(x, 3.0), **tolerance)
    np.testing.assert_allclose(aggregate_mean([x[None, :, i] for i in range(x.shape[1])])[0], metrics.aggregate_mean(x),
                               **tolerance)  # fmt: skip


def test_numbers_by_hand():
    assert iqm([1, 2, 3, 100]) == 2.5
    assert iqm([1, 2, 4]) == pytest.approx(7 / 3)  # a quarter of three, rounded down, is nothing
    assert optimality_gap([0.5, 1.5]) == 0.25
    assert optimality_gap([np.array([0.0]), np.array([1.0, 1.0, 1.0])]) == 0.5  # every task alike
    assert probability_of_improvement([2, 2], [1, 2]).value == 0.75
    np.testing.assert_allclose(performance_profile([1.0, 2, 3, 4], [0, 1, 2.5, 4]).value, [1, 0.75, 0.5, 0])
    np.testing.assert_allclose(normalize([0, 5, 20], 0, 10), [0, 0.5, 2])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (aggregate_iqm, metrics.aggregate_iqm),
        (aggregate_mean, metrics.aggregate_mean),
        (aggregate_gap, metrics.aggregate_optimality_gap),
    ],
)
def test_intervals_are_those_of_rliable(ours, theirs):
    """Both draw at random; 4000 draws determine an end of the interval to a few hundredths of its width."""
    np.random.seed(0)  # noqa: NPY002 rliable draws from numpy's global generator
    points, intervals = rly.get_interval_estimates({"x": X}, lambda x: np.array([theirs(x)]), reps=4000)
    value, low, high = stratified_bootstrap(X, ours, samples=20000)
    np.testing.assert_allclose(value, points["x"][0])
    np.testing.assert_allclose([low, high], intervals["x"][:, 0], atol=0.05 * (high - low))


def test_probability_of_improvement_is_that_of_rliable():
    np.random.seed(0)  # noqa: NPY002
    _, intervals = rly.get_interval_estimates(
        {"x,y": [X, Y]}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=1000
    )
    value, low, high = probability_of_improvement(X, Y, samples=20000)
    np.testing.assert_allclose(value, metrics.probability_of_improvement(X, Y))
    np.testing.assert_allclose([low, high], intervals["x,y"][:, 0], atol=0.07 * (high - low))


def test_performance_profile_is_that_of_rliable():
    np.random.seed(0)  # noqa: NPY002
    taus = np.linspace(-0.5, 1.5, 21)
    points, intervals = rly.create_performance_profile({"x": X}, taus, reps=1000)
    value, low, high = performance_profile(X, taus, samples=5000)
    np.testing.assert_allclose(value, points["x"])
    np.testing.assert_allclose([low, high], intervals["x"], atol=1.01 / X.size)  # shares are multiples of 1 / X.size


@few
@given(ragged, st.randoms(use_true_random=False))
def test_iqm_lies_between_extremes_whatever_the_order(x, random):
    values = np.concatenate(x).tolist()
    result = iqm(values)
    assert min(values) - close(x) <= result <= max(values) + close(x)
    random.shuffle(values)
    assert iqm(values) == pytest.approx(result, abs=close(x))


@few
@given(ragged)
def test_intervals_contain_the_point_estimate_and_grow_with_confidence(x):
    for statistic in (aggregate_iqm, aggregate_mean, aggregate_gap):
        value, low, high = stratified_bootstrap(x, statistic, samples=400)
        assert low - close(x) <= value <= high + close(x)
        _, lower, higher = stratified_bootstrap(x, statistic, samples=400, confidence=0.99)
        assert lower <= low <= high <= higher


@few
@given(st.lists(st.tuples(*[st.lists(st.integers(0, 5), min_size=2, max_size=5)] * 2), min_size=1, max_size=3))
def test_probabilities_of_either_being_better_add_up_to_one(pairs):
    x, y = [np.array(a, float) for a, _ in pairs], [np.array(b, float) for _, b in pairs]
    one, other = probability_of_improvement(x, y, samples=200), probability_of_improvement(y, x, samples=200)
    assert one.value + other.value == pytest.approx(1)
    assert 0 <= one.low <= one.value + 1e-12
    assert one.value - 1e-12 <= one.high <= 1
    expected = [stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(x, y, strict=True)]
    assert one.value == pytest.approx(np.mean(expected))


@few
@given(ragged, st.lists(finite, min_size=2, max_size=20).map(sorted))
def test_profiles_fall_with_the_threshold_from_one_to_zero(x, taus):
    highest = max(task.max() for task in x)
    lowest = min(task.min() for task in x)
    for line in performance_profile(x, [lowest - 1, *taus], samples=50):
        assert (np.diff(line[1:]) <= 1e-12).all()
        assert line[0] == pytest.approx(1)
    assert performance_profile(x, [highest], samples=50).high == pytest.approx(0)


def test_draws_are_within_tasks():
    """Tasks whose runs are all alike leave nothing to chance, however different the tasks are."""
    value, low, high = stratified_bootstrap([np.zeros(3), np.ones(5)], aggregate_mean)
    assert value == low == high == 0.5


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution_for_many_runs():
    x = RNG.normal(size=400)
    value, low, high = stratified_bootstrap(x, aggregate_mean, samples=5000)
    half = 1.96 * x.std() / 20
    np.testing.assert_allclose([low, high], [value - half, value + half], atol=0.06 * half)


def test_axes_after_the_runs_stay_together_and_the_seed_fixes_the_draws():
    curves = RNG.normal(size=(6, 4))
    whole = stratified_bootstrap([curves], aggregate_iqm, seed=3)
    for column in range(4):
        alone = stratified_bootstrap([curves[:, column]], aggregate_iqm, seed=3)
        np.testing.assert_allclose([end[column] for end in whole], alone)
    lows = {float(stratified_bootstrap(curves, aggregate_mean, seed=seed).low) for seed in (3, 3, 4)}
    assert len(lows) == 2


def test_memory_is_bounded_by_chunks_with_the_same_result(monkeypatch):
    whole = stratified_bootstrap(X, aggregate_iqm, samples=50)
    monkeypatch.setattr("sb3_trpo.evaluation.statistics.CHUNK", 3 * X.size)
    np.testing.assert_array_equal(stratified_bootstrap(X, aggregate_iqm, samples=50), whole)


def test_one_run_has_no_interval():
    for tasks in ([np.array([3.0])], [np.array([3.0]), np.array([3.0, 4.0])]):
        value, low, high = stratified_bootstrap(tasks, aggregate_mean)
        assert value in (3, 3.25)
        assert np.isnan([low, high]).all()
    assert np.isnan(performance_profile([1.0], [0, 2]).low).all()


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: iqm([]), "values: task 0 has no run"),
        (lambda: iqm([1, np.nan]), "values: task 0 has a score of nan"),
        (lambda: stratified_bootstrap([], aggregate_mean), "scores has no task"),
        (lambda: stratified_bootstrap([[1.0], []], aggregate_mean), "scores: task 1 has no run"),
        (lambda: stratified_bootstrap(X, aggregate_mean, samples=0), "samples=0 should be at least 1"),
        (lambda: stratified_bootstrap(X, aggregate_mean, confidence=95), "confidence=95 should be between 0 and 1"),
        (lambda: probability_of_improvement(X, Y[:, :2]), "x has 3 tasks and y has 2"),
        (lambda: performance_profile(X, 0.5), r"thresholds have shape \(\)"),
        (lambda: performance_profile(X, []), r"thresholds have shape \(0,\)"),
        (lambda: normalize(X, 1, 1), "low=1 and high=1 should be finite"),
        (lambda: normalize(X, 0, np.inf), "low=0 and high=inf should be finite"),
    ],
)
def test_bad_input_is_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
