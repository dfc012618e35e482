"""Figures of a search: which parameters matter, where the good values lie, how it went, and what was gained.

``learning_curves.png``, ``importances.png``, ``slice.png``, ``history.png``, and ``plots.html`` with Optuna's
interactive ones, which needs no connection.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib import cm, colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from sb3_trpo.evaluation.curves import COLORS, Band, band, looks, plot_bands
from sb3_trpo.evaluation.curves import Curve as Points
from sb3_trpo.zoo.confirmation import Choice
from sb3_trpo.zoo.files import replacing, write_text
from sb3_trpo.zoo.searches import Curve, Search

DPI = 120
GRAY = "#8a8d91"
BEST = COLORS[1]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:system-ui,sans-serif;margin:2rem auto;max-width:1500px;padding:0 1rem}}
h1{{font-size:1.4rem}}section{{margin-bottom:2rem;overflow-x:auto}}</style></head>
<body><h1>{title}</h1>
{sections}
</body></html>
"""


def draw(search: Search, study: optuna.Study, choice: Choice, folder: Path) -> tuple[list[Path], list[str]]:
    """Write the figures into ``folder``.

    :return: the files, and a sentence for each figure that cannot be drawn
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    figures: dict[str, Callable[[], Figure]] = {
        "learning_curves": lambda: learning_curves(search, choice),
        "history": lambda: history(search, study, choice),
        "importances": lambda: importances(search, study),
        "slice": lambda: slices(search, complete, choice),
    }
    files, notes = [], []
    for name, make in figures.items():
        path = folder / f"{name}.png"
        try:
            if name in ("importances", "slice"):
                _check_enough(complete)
            figure = make()
        except (ValueError, RuntimeError) as error:
            notes.append(f"{path.name} is not drawn: {error}")
            continue
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=DPI, facecolor="white")
        files.append(path)
    try:
        write_text(folder / "plots.html", page(study))
        files.append(folder / "plots.html")
    except ImportError as error:
        notes.append(f"plots.html is not written: pip install 'sb3-trpo[tune]' ({error})")
    return files, notes


def learning_curves(search: Search, choice: Choice) -> Figure:
    """The chosen trial against the entry that the search began with, each with the range over its seeds."""
    figure, axes = _figure(7.2, 4.4)
    number = choice.trial.number
    bands: dict[str, Band] = {}
    if choice.curves and any(choice.curves.values()):
        bands[f"trial {number}"] = _band(choice.curves)
    if choice.baseline_curves and any(choice.baseline_curves.values()) and choice.baseline_curves != choice.curves:
        bands["where the search began"] = _band(choice.baseline_curves)
    if not bands:
        raise ValueError("no run has been kept")
    plot_bands(axes, bands, styles=looks(bands))
    if len(bands) > 1:
        _legend_below(figure, axes)
    fresh = "fresh seeds" if choice.error is not None else "seeds"
    axes.set_title(f"{search.env_id}: mean and range over {len(choice.curves)} {fresh}", loc="left", fontsize=11)
    return figure


def history(search: Search, study: optuna.Study, choice: Choice) -> Figure:
    """Value of each trial, and the best so far of those that ran on all seeds."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.value is not None and np.isfinite(t.value)]
    if not trials:
        raise ValueError("no trial has a value")
    longest = max(trial.user_attrs.get("n_runs", 0) for trial in trials)
    whole = [t for t in trials if t.state == TrialState.COMPLETE and t.user_attrs.get("n_runs", 0) == longest]
    ended = [trial for trial in trials if trial not in whole]
    figure, axes = _figure(7.2, 4.4)
    _dots(axes, ended, "ended early", facecolors="none", edgecolors=GRAY)
    _dots(axes, whole, "ran on all seeds", color=COLORS[0], alpha=0.75)
    if whole:
        best = np.maximum.accumulate([_value(trial) for trial in whole])
        numbers = [trial.number for trial in whole]
        last = study.get_trials(deepcopy=False)[-1].number
        axes.step([*numbers, last], [*best, best[-1]], where="post", color=BEST, linewidth=2, label="best so far")
    start = whole[0] if whole and whole[0].number == 0 else None
    if start is not None:
        axes.axhline(_value(start), color=GRAY, linewidth=1, linestyle="dashed", label="where it began", zorder=1)
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{search.score} return")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _show_the_good(axes, [_value(trial) for trial in trials])
    axes.set_title(f"{search.env_id}: {len(trials)} trials", loc="left", fontsize=11)
    _legend_below(figure, axes)
    return figure


def importances(search: Search, study: optuna.Study) -> Figure:
    """How much of the variance among good trials each parameter explains."""
    values = {trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    if len(values) < 2:
        raise ValueError("all trials have the same value")
    with _quiet():
        found = optuna.importance.get_param_importances(study)
    names, shares = list(found)[::-1], list(found.values())[::-1]
    figure, axes = _figure(7.2, 0.6 + 0.3 * len(names))
    axes.barh([_label(name) for name in names], shares, color=COLORS[0], height=0.7)
    for position, value in enumerate(shares):
        axes.text(
            value + 0.01 * max(shares),
            position,
            f"{value:.2f}" if value >= 0.005 else "< 0.01",
            va="center",
            fontsize=9,
            color="#44474b",
        )
    axes.set_xlim(0, 1.12 * max(shares))
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.grid(visible=False)
    axes.set_title(f"{search.env_id}: importance for the {search.score} return (PED-ANOVA)", loc="left", fontsize=11)
    return figure


def slices(search: Search, trials: Sequence[FrozenTrial], choice: Choice) -> Figure:
    """Value against each parameter, four to a row; later trials are darker, the chosen one is marked."""
    names = sorted({name for trial in trials for name in trial.params}, key=_label)
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.5 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    values = [_value(trial) for trial in trials]
    norm = colors.Normalize(0, max(trial.number for trial in trials) or 1)
    # The lightest blues do not show on white.
    shades = colors.LinearSegmentedColormap.from_list("blues", cm.Blues(np.linspace(0.3, 1, 64)))
    for axes, name in zip(grid.flat, names, strict=False):
        _slice(axes, name, [trial for trial in trials if name in trial.params], choice.trial, norm, shades)
        _show_the_good(axes, values)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel(f"{search.score} return")
    bar = figure.colorbar(cm.ScalarMappable(norm, shades), ax=grid, aspect=60, pad=0.015, fraction=0.02)
    bar.set_label("trial")
    bar.outline.set_visible(False)
    figure.suptitle(f"{search.env_id}: {len(trials)} trials; the chosen one is red", x=0.01, ha="left", fontsize=12)
    return figure


def page(study: optuna.Study) -> str:
    """Optuna's interactive figures on one page, which holds all that it needs."""
    from optuna import visualization

    if not visualization.is_available():
        raise ImportError("plotly is missing")
    makers: tuple[Callable[[optuna.Study], Any], ...] = (
        visualization.plot_optimization_history,
        visualization.plot_param_importances,
        visualization.plot_slice,
        visualization.plot_parallel_coordinate,
        visualization.plot_timeline,
    )
    sections: list[str] = []
    for make in makers:
        try:
            with _quiet():
                figure = make(study)
        except (ValueError, RuntimeError):  # too few trials
            continue
        text = figure.to_html(full_html=False, include_plotlyjs=not sections)
        sections.append(f"<section>{text}</section>")
    return PAGE.format(title=study.study_name, sections="\n".join(sections))


def _check_enough(trials: Sequence[FrozenTrial]) -> None:
    if len(trials) < 2:
        raise ValueError(f"it takes 2 complete trials, there {'is' if len(trials) == 1 else 'are'} {len(trials)}")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _band(curves: dict[int, Curve]) -> Band:
    runs = [np.asarray(curve, np.float64) for curve in curves.values() if curve]
    return band([Points(run[:, 0], run[:, 1]) for run in runs])


def _dots(axes: Axes, trials: Sequence[FrozenTrial], label: str, **style: Any) -> None:
    if trials:
        axes.scatter([t.number for t in trials], [_value(t) for t in trials], s=26, label=label, zorder=3, **style)


def _slice(
    axes: Axes,
    name: str,
    trials: Sequence[FrozenTrial],
    chosen: FrozenTrial,
    norm: colors.Normalize,
    shades: colors.Colormap,
) -> None:
    distribution = trials[0].distributions[name]
    style: dict[str, Any] = {"linewidths": 0.4, "edgecolors": "white", "zorder": 3}
    axes.scatter(
        [_place(distribution, trial, name) for trial in trials],
        [_value(trial) for trial in trials],
        c=[trial.number for trial in trials],
        s=24,
        cmap=shades,
        norm=norm,
        **style,
    )
    if name in chosen.params:
        axes.scatter([_place(distribution, chosen, name)], [_value(chosen)], s=60, color=BEST, **style)
    axes.set_title(_label(name), fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if isinstance(distribution, CategoricalDistribution):
        axes.set_xticks(range(len(distribution.choices)), [_label(choice) for choice in distribution.choices])
        axes.set_xlim(-0.6, len(distribution.choices) - 0.4)
    elif isinstance(distribution, FloatDistribution) and distribution.log:
        axes.set_xlim(distribution.low / 1.2, distribution.high * 1.2)
        axes.set_xscale("log")
        is_long = distribution.high / distribution.low > 300
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0,) if is_long else (1.0, 3.0), numticks=9))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    elif isinstance(distribution, FloatDistribution | IntDistribution):
        pad = 0.05 * (distribution.high - distribution.low)
        axes.set_xlim(distribution.low - pad, distribution.high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=isinstance(distribution, IntDistribution)))


def _value(trial: FrozenTrial) -> float:
    """The score, of a trial that has one."""
    return float("nan") if trial.value is None else float(trial.value)


def _place(distribution: BaseDistribution, trial: FrozenTrial, name: str) -> float:
    """Where a trial lies on the axis of a parameter; those of one category are spread out."""
    if isinstance(distribution, CategoricalDistribution):
        spread = (trial.number * 0.618034) % 1 - 0.5  # multiples of the golden ratio lie apart
        return distribution.to_internal_repr(trial.params[name]) + 0.5 * spread
    return float(trial.params[name])


def _label(name: object) -> str:
    """As it is read on an axis: ``cg damping``, ``true``."""
    return str(name).lower() if isinstance(name, bool) else str(name).replace("_", " ")


def _legend_below(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _show_the_good(axes: Axes, values: Sequence[float]) -> None:
    """Trials that learned nothing lie far below: the axis goes as far below the median as three times above it, and
    says how many are left out.
    """
    median, high = float(np.median(values)), max(values)
    low = median - 3 * max(high - median, 1e-9)
    hidden = sum(value < low for value in values)
    if hidden:
        lowest = min(value for value in values if value >= low)
        pad = 0.08 * (high - lowest)
        axes.set_ylim(lowest - 2 * pad, high + pad)
        axes.text(0.01, 0.02, f"{hidden} below", transform=axes.transAxes, fontsize=8, color=GRAY)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna calls half of its plots experimental, and tells of trials that it leaves out."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
