"""Figures draw the numbers that they are given, as PNG and as HTML."""

import ast
import re
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from sb3_trpo.evaluation import interactive, plots
from sb3_trpo.evaluation.curves import COLORS, looks
from sb3_trpo.evaluation.summary import summarize
from tests.evaluation.table import campaign, score

matplotlib.use("Agg")

SUMMARY = summarize(campaign())
ONE = summarize([score()])
MANY = summarize(
    campaign([f"env{i}" for i in range(5)], [f"contestant {i}" for i in range(11)], seeds=2, evaluations=2)
)
APART = summarize([score("a", "x"), score("b", "y", seed=1)])


def test_learning_curves_are_drawn():
    for by_time, bands, scale in ((False, SUMMARY.curves, 1), (True, SUMMARY.curves_by_time, 60)):
        figure = plots.learning_curves(SUMMARY, by_time=by_time)
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["Hopper-v5", "Walker-v5"]
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "theirs", "other"]
        for axes, env in zip(figure.axes, SUMMARY.environments, strict=True):
            assert [line.get_label() for line in axes.lines] == list(bands[env])
            assert len(axes.collections) == 3
            for line, shade, band in zip(axes.lines, axes.collections, bands[env].values(), strict=True):
                np.testing.assert_allclose(line.get_xdata(), band.steps / scale)
                np.testing.assert_allclose(line.get_ydata(), band.mean)
                drawn = shade.get_paths()[0].vertices[:, 1]
                np.testing.assert_allclose([drawn.min(), drawn.max()], [band.low.min(), band.high.max()])
    assert figure.axes[0].get_xlabel() == "training wall-clock, min"


def test_aggregates_and_probabilities_are_drawn():
    panels = plots.aggregates(SUMMARY).axes
    titles = ["IQM", "mean", "optimality gap", "probability of improvement"]
    assert [axes.get_title(loc="left") for axes in panels] == titles
    expected = [list(column) for column in zip(*SUMMARY.aggregates.values(), strict=True)]
    expected.append(list(SUMMARY.improvement.values()))
    for axes, intervals in zip(panels, expected, strict=True):
        bars, points = axes.lines[: 2 * len(intervals) : 2], axes.lines[1 : 2 * len(intervals) : 2]
        for row, (bar, point, interval) in enumerate(zip(bars, points, intervals, strict=True)):
            np.testing.assert_allclose(bar.get_xdata(), [interval.low, interval.high])
            np.testing.assert_allclose([point.get_xdata()[0], point.get_ydata()[0]], [interval.value, row])
    assert [label.get_text() for label in panels[3].get_yticklabels()] == ["over theirs", "over other"]


def test_profiles_are_drawn():
    figure = plots.performance_profiles(SUMMARY)
    for line, profile in zip(figure.axes[0].lines, SUMMARY.profiles.values(), strict=True):
        np.testing.assert_allclose(line.get_xdata(), SUMMARY.thresholds)
        np.testing.assert_allclose(line.get_ydata(), profile.value)
    assert "lowest first evaluation" in figure.axes[0].get_xlabel()


def test_one_seed_has_no_interval_and_says_so():
    figure = plots.learning_curves(ONE)
    assert not figure.axes[0].collections
    assert figure.axes[0].lines[0].get_marker() == "o"
    assert "one seed only" in " ".join(figure.get_suptitle().split())
    figure = plots.aggregates(ONE)
    assert [len(axes.lines) for axes in figure.axes] == [1, 1, 1]
    assert "one seed only" in " ".join(figure.get_suptitle().split())
    assert "one seed only" in interactive.page(ONE)


def test_a_panel_for_each_of_many_environments_and_a_look_for_each_of_many_contestants():
    figure = plots.learning_curves(MANY)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(MANY.environments)
    drawn = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(drawn) == 11
    assert len({look for look in looks(map(str, range(32))).values()}) == 32


def test_text_stays_within_the_figure_and_does_not_overlap():
    for summary in (SUMMARY, ONE, MANY):
        for figure in (plots.learning_curves(summary), plots.aggregates(summary), plots.performance_profiles(summary)):
            figure.set_dpi(plots.DPI)
            figure.draw_without_rendering()
            width, height = figure.canvas.get_width_height()
            for axes in figure.axes:
                box = axes.get_tightbbox()
                assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1  # noqa: PT018
                ticks = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
                inside = [tick for tick in ticks if axes.bbox.x0 - 1 <= (tick.x0 + tick.x1) / 2 <= axes.bbox.x1 + 1]
                assert not any(a.overlaps(b) for a, b in combinations(inside, 2))
            for one, other in combinations([axes.get_tightbbox() for axes in figure.axes], 2):
                assert not one.overlaps(other)


def test_png_files_are_written(tmp_path):
    names = ["learning_curves.png", "learning_curves_by_time.png", "aggregates.png", "performance_profiles.png"]
    paths = plots.draw(SUMMARY, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert [path.name for path in plots.draw(APART, tmp_path)] == names[:2]


def test_the_page_is_whole_and_asks_nothing_of_the_network(tmp_path):
    interactive.write_page(SUMMARY, tmp_path / "page.html", title="A & B")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    assert "<title>A &amp; B</title>" in html
    for label in ("ours", "theirs", "other", "Hopper-v5", "Walker-v5", "Probability of improvement"):
        assert label in html
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)\s*=", html)
    assert html.count("Plotly.newPlot(") >= 5
    assert html == interactive.page(SUMMARY, title="A & B")
    assert "there are no aggregates" in interactive.page(APART)


def test_the_page_has_the_numbers_of_the_summary():
    for by_time, bands, scale in ((False, SUMMARY.curves, 1), (True, SUMMARY.curves_by_time, 60)):
        lines = [trace for trace in interactive.learning_curves(SUMMARY, by_time=by_time).data if trace.name]
        assert [line.name for line in lines] == ["ours", "theirs", "other"] * 2
        assert [line.showlegend for line in lines] == [True] * 3 + [False] * 3
        for line, band in zip(lines, [band for group in bands.values() for band in group.values()], strict=True):
            np.testing.assert_allclose(line.x, band.steps / scale)
            np.testing.assert_allclose(line.y, band.mean)
    points = interactive.aggregates(SUMMARY).data
    expected = [aggregate[i] for i in range(3) for aggregate in SUMMARY.aggregates.values()]
    expected += SUMMARY.improvement.values()
    for point, (value, low, high) in zip([*points, *interactive.improvement(SUMMARY).data], expected, strict=True):
        ends = [point.x[0], point.x[0] - point.error_x.arrayminus[0], point.x[0] + point.error_x.array[0]]
        np.testing.assert_allclose(ends, [value, low, high], atol=1e-12)
    profiles = [trace for trace in interactive.performance_profiles(SUMMARY).data if trace.name]
    for line, profile in zip(profiles, SUMMARY.profiles.values(), strict=True):
        np.testing.assert_allclose(line.y, profile.value)


def test_names_are_text_and_not_html():
    (line,) = interactive.learning_curves(summarize([score(implementation="<b>x</b>")])).data
    assert line.name == "&lt;b&gt;x&lt;/b&gt;"
    assert "<script>alert" not in interactive.page(summarize([score("<script>alert(1)</script>")]))


@pytest.mark.parametrize("file", sorted(Path(plots.__file__).parent.glob("*.py")), ids=lambda file: file.name)
def test_libraries_for_figures_load_only_when_something_is_drawn(file):
    modules = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module.split(".")[0])
    assert not modules & {"matplotlib", "plotly", "scipy", "pandas", "rliable"}


# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(color, vision):
    """CIE L*a*b* (1976, D65) of a colour as seen."""
    rgb = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(np.array(vision) @ linear, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_colours_are_told_apart_whatever_the_eyes(vision):
    """A difference of 2.3 is just noticeable, one of 10 plain at a glance."""
    seen = [lab(color, VISION[vision]) for color in COLORS]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 18
