"""Figures of a summary as PNG: learning curves, aggregates, probability of improvement, performance profiles.

Nothing is computed here. A contestant has one colour, dash and marker in all figures, and a figure has one legend.
"""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sb3_trpo.evaluation import captions
from sb3_trpo.evaluation.curves import Band, Look, looks, plot_bands
from sb3_trpo.evaluation.statistics import Interval
from sb3_trpo.evaluation.summary import Summary
from sb3_trpo.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
GRAY = "#44474b"


def draw(summary: Summary, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``learning_curves.png``, ``learning_curves_by_time.png``, ``aggregates.png`` and
    ``performance_profiles.png`` into ``folder``, the last two only where there are environments to compare in.
    """
    figures = {
        "learning_curves.png": learning_curves(summary),
        "learning_curves_by_time.png": learning_curves(summary, by_time=True),
    }
    if summary.compared:
        figures["aggregates.png"] = aggregates(summary)
        figures["performance_profiles.png"] = performance_profiles(summary)
    paths = []
    for name, figure in figures.items():
        paths.append(Path(folder) / name)
        with replacing(paths[-1]) as temporary:
            figure.savefig(temporary, dpi=DPI)
    return paths


def learning_curves(summary: Summary, *, by_time: bool = False) -> "Figure":
    """A panel for each environment: mean over seeds and its interval against steps, or against wall-clock."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    n_columns = min(3, len(summary.environments))
    n_rows = -(-len(summary.environments) // n_columns)
    width = max(6.5, 4.4 * n_columns)
    legend_height = 0.25 * _legend_shape(summary.contestants, width)[0]
    figure = Figure(figsize=(width, 0.8 + legend_height + 3.1 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    styles = looks(summary.contestants)
    for panel, env in zip(panels, summary.environments, strict=False):
        bands, xlabel = summary.curves[env], "environment steps"
        if by_time:
            bands, unit = in_one_unit(summary.curves_by_time[env])
            xlabel = f"training wall-clock, {unit}"
        plot_bands(panel, bands, xlabel, styles)
        panel.set_title(env, loc="left", fontsize=11)
        panel.set_xlim(left=0)
        if panel.get_ylim()[1] >= 1e5:
            panel.yaxis.set_major_formatter(EngFormatter(sep=""))
    for panel in panels.reshape(n_rows, n_columns)[:, 1:].flat:  # the label of the first column is enough
        panel.set_ylabel("")
    for panel in panels[len(summary.environments) :]:
        panel.remove()
    _head(figure, captions.curves(summary))
    _legend(figure, summary.contestants, styles)
    return figure


def aggregates(summary: Summary) -> "Figure":
    """A panel for each statistic of normalised scores and one for the probability of improvement, if it has others.

    A row for each contestant: a marker at the statistic and a bar over its interval.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    n_panels = len(captions.STATISTICS) + bool(summary.improvement)
    height = 1.5 + 0.42 * len(summary.contestants)
    figure = Figure(figsize=(3.3 * n_panels + 0.5, height), layout=ConstrainedLayoutEngine(w_pad=0.15))
    panels = figure.subplots(1, n_panels, squeeze=False)[0]
    styles = looks(summary.contestants)
    for panel, (field, title) in zip(panels, captions.STATISTICS.items(), strict=False):
        values = {name: getattr(aggregate, field) for name, aggregate in summary.aggregates.items()}
        plot_intervals(panel, values, styles)
        panel.set_title(title, loc="left", fontsize=11)
        panel.set_xlabel(f"normalised score, {captions.BETTER[field]}", fontsize=9)
        if panel is not panels[0]:
            panel.set_yticklabels([])
    if summary.improvement:
        plot_intervals(panels[-1], summary.improvement, styles)
        panels[-1].set_title("probability of improvement", loc="left", fontsize=11)
        label = f"how likely a run of {summary.contestants[0]} scores higher"
        panels[-1].set_xlabel(textwrap.fill(label, 34), fontsize=9)
        panels[-1].set_yticks(range(len(summary.improvement)), [f"over {name}" for name in summary.improvement])
        panels[-1].set_xlim(-0.04, 1.04)
        panels[-1].set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        panels[-1].axvline(0.5, color=GRAY, linewidth=1, linestyle="--", zorder=0)
    note = f" {captions.ONE_SEED}" if captions.one_seed(summary) else ""
    scale = f"{captions.compared(summary)} Normalised: {captions.normalization(summary)}."
    _head(figure, f"{scale} Bars: 95% intervals.{note}")
    return figure


def performance_profiles(summary: Summary) -> "Figure":
    """A line for each contestant: the share of its runs above each normalised score."""
    from matplotlib.figure import Figure

    width = 7.5
    legend_height = 0.25 * _legend_shape(summary.contestants, width)[0]
    figure = Figure(figsize=(width, 4.2 + legend_height), layout="constrained")
    panel, styles = figure.subplots(), looks(summary.contestants)
    plot_bands(
        panel, {name: Band(summary.thresholds, *profile) for name, profile in summary.profiles.items()}, styles=styles
    )
    panel.set_xlabel(f"normalised score τ ({captions.normalization(summary)})", fontsize=9)
    panel.set_ylabel("share of runs above τ")
    for line in panel.lines:
        line.set_marker("")  # all end at the same place
    panel.set_ylim(-0.02, 1.02)
    panel.set_xlim(0, summary.thresholds[-1])
    _head(figure, f"{captions.PROFILES} {captions.compared(summary)} Shaded: 95% intervals.")
    _legend(figure, summary.contestants, {label: look._replace(marker="") for label, look in styles.items()})
    return figure


def plot_intervals(axes: "Axes", values: Mapping[str, Interval], styles: Mapping[str, Look]) -> None:
    """A row for each label, the first on top: a marker at the value, and a bar over the interval if there is one."""
    from matplotlib.ticker import MaxNLocator

    for row, (label, (value, low, high)) in enumerate(values.items()):
        color, _, marker = styles[label]
        if np.isfinite(low):
            axes.plot([low, high], [row, row], color=color, linewidth=7, alpha=0.35, solid_capstyle="butt")
        axes.plot([value], [row], color=color, marker=marker, markersize=7, linestyle="none", label=label)
        text = captions.number(float(value))
        axes.annotate(text, (float(value), row), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.margins(x=0.12)


def in_one_unit(bands: Mapping[str, Band]) -> tuple[dict[str, Band], str]:
    """Bands against seconds in the unit that suits the longest, and its name."""
    divisor, unit = captions.time_unit(max(float(band.steps[-1]) for band in bands.values()))
    return {name: band._replace(steps=band.steps / divisor) for name, band in bands.items()}, unit


def _head(figure: "Figure", text: str) -> None:
    """A sentence above the panels, in as many lines as it takes."""
    width = int(figure.get_figwidth() * 12)
    figure.suptitle(textwrap.fill(text, width), fontsize=10, color=GRAY, x=0.01, ha="left")


def _legend(figure: "Figure", labels: Sequence[str], styles: Mapping[str, Look]) -> None:
    """All contestants below the panels, whatever panel they are in."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, linestyle=dash, linewidth=2, marker=marker)
        for color, dash, marker in (styles[label] for label in labels)
    ]
    n_columns = _legend_shape(labels, figure.get_figwidth())[1]
    figure.legend(handles, labels, loc="outside lower left", ncols=n_columns, frameon=False, handlelength=2.6)


def _legend_shape(labels: Sequence[str], width: float) -> tuple[int, int]:
    """Rows and columns of a legend that fits into ``width`` inches."""
    n_columns = min(len(labels), max(1, int(width * 11 / (max(map(len, labels)) + 6))))
    return -(-len(labels) // n_columns), n_columns
