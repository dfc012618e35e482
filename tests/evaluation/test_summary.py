"""The numbers behind figures and reports, by hand and by rliable."""

import numpy as np
import pytest

from sb3_trpo.evaluation.statistics import iqm, optimality_gap
from sb3_trpo.evaluation.summary import score_ranges, summarize
from tests.evaluation.table import campaign, score


def test_finals_by_hand():
    rows = [score(seed=seed, step=step, mean=mean, wall_s=wall) for seed, step, mean, wall in [
        (0, 100, 1.0, 5.0), (0, 200, 3.0, 10.0), (1, 100, 2.0, 4.0), (1, 300, 7.0, 30.0), (2, 100, 5.0, 20.0),
    ]]  # fmt: skip
    final = summarize(rows).finals["Hopper-v5"]["sb3_trpo"]
    assert (final.n_seeds, final.mean, final.std, final.steps, final.wall_s) == (3, 5, 2, (100, 300), 20)
    assert final.iqm.value == 5
    assert final.iqm.low < 5 < final.iqm.high


def test_ranges_by_hand():
    rows = [score(seed=0, step=1, mean=2.0), score(seed=0, step=2, mean=9.0), score(seed=0, step=3, mean=8.0)]
    rows += [score("b", seed=1, step=1, mean=3.0), score(seed=1, step=1, mean=3.0), score(seed=1, step=2, mean=-5.0)]
    assert score_ranges(rows) == {"Hopper-v5": (2, 8), "b": (2, 3)}
    unlearned = [
        score(seed=seed, step=step, mean=mean) for seed, step, mean in [(0, 1, 9.0), (0, 2, 1), (1, 1, 9), (1, 2, 4)]
    ]
    assert score_ranges(unlearned) == {"Hopper-v5": (1, 4)}
    assert score_ranges([score(step=1, mean=500.0), score(step=2, mean=500.0)]) == {"Hopper-v5": (499, 500)}


def test_aggregates_are_of_normalised_final_scores():
    summary = summarize(campaign(), references={"Hopper-v5": (0, 4000), "Walker-v5": (0, 8000), "unused": (0, 1)})
    assert summary.given
    last = {row[:4]: row.eval_mean for row in campaign() if row.step == 4000}
    for name in summary.contestants:
        scores = [
            np.array([mean / high for (env, _, who, _), mean in last.items() if (env, who) == (wanted, name)])
            for wanted, high in (("Hopper-v5", 4000), ("Walker-v5", 8000))
        ]
        aggregate = summary.aggregates[name]
        assert aggregate.iqm.value == pytest.approx(iqm(np.concatenate(scores)))
        assert aggregate.mean.value == pytest.approx(np.mean(scores))
        assert aggregate.optimality_gap.value == pytest.approx(optimality_gap(scores))
        assert summary.profiles[name].value[0] == pytest.approx(np.mean(np.concatenate(scores) > 0))
    assert summary.thresholds[-1] >= 1
    np.testing.assert_allclose([p.value[-1] for p in summary.profiles.values()], 0)


def test_without_references_the_best_run_scores_one():
    summary = summarize(campaign())
    assert not summary.given
    assert summary.thresholds[-1] == 1
    for aggregate in summary.aggregates.values():
        assert aggregate.optimality_gap.value == pytest.approx(1 - aggregate.mean.value)
        assert aggregate.mean.value < 1


def test_the_first_is_compared_with_the_others():
    assert list(summarize(campaign()).improvement) == ["theirs", "other"]
    assert summarize(campaign()).improvement["other"].value == 1
    summary = summarize(campaign(), first="other")
    assert summary.contestants == ("other", "ours", "theirs")
    assert summary.improvement["ours"].value == 0


def test_aggregates_are_over_environments_that_all_have():
    rows = [row for row in campaign() if (row.env, row.implementation) != ("Walker-v5", "other")]
    summary = summarize(rows)
    assert summary.compared == ("Hopper-v5",)
    alone = summarize([row for row in rows if row.env == "Hopper-v5"])
    assert str(summary.aggregates) == str(alone.aggregates)
    apart = [score("a", "x"), score("b", "y")]
    summary = summarize(apart)
    assert summary.compared == ()
    assert summary.aggregates == summary.improvement == summary.profiles == {}


def test_curves_are_means_at_the_evaluations_up_to_the_end_of_the_shortest_run():
    rows = [score(seed=seed, step=100 * k, mean=float(k * (seed + 1)), wall_s=k + seed) for seed in (0, 1)
            for k in range(1, 4 + seed)]  # fmt: skip
    summary = summarize(rows)
    curve, by_time = summary.curves["Hopper-v5"]["sb3_trpo"], summary.curves_by_time["Hopper-v5"]["sb3_trpo"]
    np.testing.assert_allclose(curve.steps, [100, 200, 300])
    np.testing.assert_allclose(curve.mean, [1.5, 3, 4.5])
    np.testing.assert_allclose([curve.low, curve.high], [[1, 2, 3], [2, 4, 6]])
    np.testing.assert_allclose(by_time.steps, [1.5, 2.5, 3.5])
    np.testing.assert_allclose(by_time.mean, curve.mean)


def test_one_evaluation_of_one_run_is_enough():
    summary = summarize([score()])
    final = summary.finals["Hopper-v5"]["sb3_trpo"]
    assert final.mean == final.iqm.value == 1
    assert np.isnan([final.std, final.iqm.low, summary.aggregates["sb3_trpo"].mean.low]).all()
    assert np.isnan(summary.curves["Hopper-v5"]["sb3_trpo"].low).all()
    assert summary.improvement == {}


@pytest.mark.parametrize(
    ("rows", "arguments", "complaint"),
    [
        ([], {}, "holds no row"),
        ([score()], {"first": "PPO"}, "first='PPO' has no scores; choose one of sb3_trpo"),
        ([score()], {"references": {"Walker-v5": (0, 1)}}, "references has no 'Hopper-v5'"),
        ([score()], {"references": {"Hopper-v5": (1, 1)}}, r"references\['Hopper-v5'\]=\(1, 1\) should be finite"),
        ([score(seed=0, step=1), score(seed=1, step=2)], {}, "Hopper-v5, sb3_trpo: the curves share no step"),
    ],
)
def test_bad_input_is_refused(rows, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        summarize(rows, **arguments)
