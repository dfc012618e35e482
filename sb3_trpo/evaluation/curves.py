"""Learning curves: the return of training episodes against environment steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#1f6fb4", "#d1495b", "#3a8f5c", "#8d5fb5", "#b8860b")
"""Told apart in print and by colour-blind readers; the first is ours."""


class Curve(NamedTuple):
    """One run: ``steps`` (T,) in increasing order and the ``returns`` (T,) seen there."""

    steps: NDArray[np.float64]
    returns: NDArray[np.float64]


class Band(NamedTuple):
    """Several runs of one method: mean, smallest and largest return over the runs at common ``steps``."""

    steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def moving_average(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Mean of the last ``window`` values, of fewer at the start; same length as ``values``."""
    sums = np.cumsum(np.concatenate([[0.0], np.asarray(values, np.float64)]))
    last = np.arange(1, len(sums))
    first = np.maximum(last - window, 0)
    return np.asarray((sums[last] - sums[first]) / (last - first), np.float64)


def band(curves: Sequence[Curve], n_points: int = 200) -> Band:
    """The curves, interpolated linearly at common steps that all of them cover.

    :raises ValueError: without a curve, or when the curves share no step.
    """
    if not curves:
        raise ValueError("curves=[] holds nothing to average")
    first, last = max(curve.steps[0] for curve in curves), min(curve.steps[-1] for curve in curves)
    if first > last:
        raise ValueError(f"the curves share no step: one starts at {first:g}, another ends at {last:g}")
    steps = np.linspace(first, last, n_points)
    returns = np.stack([np.interp(steps, curve.steps, curve.returns) for curve in curves])
    return Band(steps, returns.mean(0), returns.min(0), returns.max(0))


def plot_bands(axes: "Axes", bands: Mapping[str, Band], xlabel: str = "environment steps") -> None:
    """A line for each mean and a shade from the worst to the best run, labelled at its end."""
    for color, (label, band_) in zip(COLORS, bands.items(), strict=False):
        axes.plot(band_.steps, band_.mean, color=color, linewidth=2, label=label)
        axes.fill_between(band_.steps, band_.low, band_.high, color=color, alpha=0.15, linewidth=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("episode return")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
    if len(bands) > 1:
        axes.legend(frameon=False, loc="upper left")


def plot_run(axes: "Axes", steps: ArrayLike, returns: ArrayLike, window: int = 20) -> None:
    """Every episode of one run as a dot and their moving average as a line."""
    axes.plot(steps, returns, ".", color=COLORS[0], alpha=0.25, markersize=4, label="episodes")
    axes.plot(steps, moving_average(returns, window), color=COLORS[0], linewidth=2, label=f"mean of {window}")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("episode return")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
