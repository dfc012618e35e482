"""The extensions do what they claim where the answer is known (`benchmarks.known_answers`, smaller)."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import known_answers
from benchmarks.known_answers import LEVEL, PROBLEMS, episodes_needed, harm, learning, tracking
from sb3_trpo.extensions.confidence import ConfidenceRadius

NAMES = list(PROBLEMS)


def errors_of(name, *estimators):
    """Without the first five updates, when there is little history."""
    errors = [error for error in tracking(name, estimators, repetitions=40) if error.update >= 5]
    return [[error for error in errors if error.estimator == estimator] for estimator in estimators]


def test_what_is_carried_is_brought_to_the_present_policy():
    """A plain average of gradients, at the same weights, lags behind: its bias is larger."""
    tracked, averaged = errors_of("tabular", "tracked, weight 0.3", "averaged, weight 0.3")
    assert np.median([e.bias for e in tracked]) < 0.7 * np.median([e.bias for e in averaged])


def test_the_hessian_takes_the_bias_off():
    plain, tracked, by_hessian = errors_of("regulator", "batch", "tracked, weight 0.3", "by the Hessian, weight 0.3")
    assert abs(np.median([e.bias for e in by_hessian])) < 0.3 * np.median([e.bias for e in tracked])
    assert np.median([e.variance for e in by_hessian]) < 0.4 * np.median([e.variance for e in plain])


@pytest.mark.parametrize("name", NAMES)
def test_tracking_has_less_variance_at_equal_bias_and_points_better(name):
    """Over fifty updates of ten episodes each."""
    plain, tracked = errors_of(name, "batch", "tracked, weight 0.5")
    ratios = [b.variance / a.variance for a, b in zip(plain, tracked, strict=True)]
    assert np.median(ratios) < 0.55
    assert abs(np.median([e.bias for e in tracked])) < 0.05  # of |g|^2
    better = np.mean([b.cosine > a.cosine for a, b in zip(plain, tracked, strict=True)])
    assert better > 0.9
    assert np.mean([e.cosine for e in tracked]) > np.mean([e.cosine for e in plain]) + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_confidence_radius_accepts_fewer_harmful_steps_and_no_more_than_its_level(name):
    plain, sure = (harm(name, region, episodes=4, batches=500) for region in ("plain", "confidence"))
    assert plain.accepted == 1.0
    assert sure.accepted > 0.01
    assert sure.harmful < 0.5 * plain.harmful
    harmful = round(sure.harmful * sure.batches)
    assert stats.binomtest(harmful, sure.batches, LEVEL, "greater").pvalue > 0.01
    assert sure.loss > plain.loss  # closer to zero


@pytest.mark.parametrize(("name", "episodes", "level"), [("regulator", 10, 0.3), ("tabular", 20, 0.1)])
def test_what_the_confidence_radius_accepts_is_harmful_less_often(name, episodes, level):
    """Than steps of directions like its own, from the half that is learned from: those that a test that picks at random
    would accept. At levels by which enough is accepted to tell.
    """
    sure = harm(name, "confidence", episodes, batches=500, make=lambda: ConfidenceRadius(level=level, holdout=0.5))
    plain = harm(name, "plain", episodes // 2, batches=500)
    accepted, harmful = round(sure.accepted * sure.batches), round(sure.harmful * sure.batches)
    assert accepted > 50
    assert stats.binomtest(harmful, accepted, plain.harmful, "less").pvalue < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("episodes", [4, 10])
@pytest.mark.parametrize("name", NAMES)
def test_of_a_thousand_batches_no_more_do_harm_than_the_level_allows(name, episodes):
    plain, sure = (harm(name, region, episodes, batches=1000) for region in ("plain", "confidence"))
    assert sure.harmful <= LEVEL
    assert sure.harmful < plain.harmful


@pytest.mark.parametrize("name", NAMES)
def test_samples_used_again_are_fewer(name):
    once, fixed, adaptive = (
        np.median([episodes_needed(learning(name, reuse, seed, bound, total=240), 0.8) for seed in range(3)])
        for reuse, bound in ((1, "fixed"), (6, "fixed"), (6, "adaptive"))
    )
    assert fixed <= 0.55 * once < np.inf
    assert adaptive <= 0.95 * fixed


def test_the_benchmark_writes_its_tables_and_draws_its_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(known_answers, "UPDATES", 7)
    monkeypatch.setattr(known_answers, "REUSES", (1, 2))
    monkeypatch.setattr(known_answers, "BATCHES", (4, 6))
    known_answers.main(quick=True, folder=tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"tracking.csv", "harm.csv", "reuse.csv", "known_answers.png"}
