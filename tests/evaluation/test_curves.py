"""Learning curves."""

import matplotlib
import numpy as np
import pytest

from sb3_trpo.evaluation.curves import (
    COLORS,
    Band,
    Curve,
    band,
    looks,
    on_common_steps,
    plot_bands,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def test_band_interpolates_where_all_runs_have_data():
    runs = [Curve(np.array([0.0, 10.0]), np.array([0.0, 10.0])), Curve(np.array([5.0, 20.0]), np.array([9.0, 9.0]))]
    result = band(runs, n_points=6)
    np.testing.assert_allclose(result.steps, [5, 6, 7, 8, 9, 10])
    np.testing.assert_allclose(result.mean, (np.arange(5, 11) + 9) / 2)
    np.testing.assert_allclose(result.low, [5, 6, 7, 8, 9, 9])
    np.testing.assert_allclose(result.high, [9, 9, 9, 9, 9, 10])


def test_band_of_nothing_is_refused():
    with pytest.raises(ValueError, match="holds nothing"):
        band([])
    with pytest.raises(ValueError, match="share no step: one starts at 5, another ends at 2"):
        band([Curve(np.array([0.0, 2.0]), np.zeros(2)), Curve(np.array([5.0, 9.0]), np.zeros(2))])


def test_plots_draw_what_they_are_given():
    figure, left = plt.subplots()
    runs = [Curve(np.arange(5.0), np.arange(5.0) * slope) for slope in (1, 3)]
    plot_bands(left, {"a": band(runs), "b": band(runs[:1])})
    np.testing.assert_allclose(left.lines[0].get_ydata(), 2 * left.lines[0].get_xdata())
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["a", "b"]
    plt.close(figure)


def test_common_steps_are_the_runs_own_where_these_are_the_same():
    long, short = (Curve(np.arange(1.0, end), np.arange(1.0, end) ** 2) for end in (6, 4))
    steps, returns = on_common_steps([long, short])
    np.testing.assert_array_equal(steps, [1, 2, 3])
    np.testing.assert_array_equal(returns, [[1, 4, 9]] * 2)


def test_looks_of_the_caller_go_by_label_and_an_interval_that_is_not_there_is_not_drawn():
    figure, axes = plt.subplots()
    steps = np.array([0.0, 2e5])
    nothing = np.full(2, np.nan)
    plot_bands(axes, {"b": Band(steps, steps, nothing, nothing)}, styles=looks(["a", "b"]))
    (line,) = axes.lines
    assert line.get_color() == COLORS[1]
    assert axes.get_legend() is None
    assert not axes.collections
    figure.draw_without_rendering()
    assert "200k" in [label.get_text() for label in axes.get_xticklabels()]
    plt.close(figure)


def test_more_bands_than_colours_are_all_drawn():
    figure, axes = plt.subplots()
    one = band([Curve(np.arange(3.0), np.arange(3.0))])
    plot_bands(axes, {str(i): one for i in range(12)})
    assert len(axes.lines) == 12
    plt.close(figure)
