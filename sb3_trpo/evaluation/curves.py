"""Learning curves: the return of training episodes against environment steps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#1f6fb4", "#d1495b", "#3fc7a4", "#45307a", "#dba520", "#9dbdf0", "#1e1e1e", "#7a3b06")
"""Told apart by colour-blind readers; the first is ours."""
Dash: TypeAlias = Literal["solid", "dashed", "dotted", "dashdot"]
DASHES: tuple[Dash, ...] = ("solid", "dashed", "dotted", "dashdot")
MARKERS = "osD^vPX"  # one fewer than colours, so that the same colour has another marker next time


class Look(NamedTuple):
    """How a contestant is drawn; ``dash`` and ``marker`` are matplotlib's names."""

    color: str
    dash: Dash
    marker: str


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """A look for each label, 32 that differ in dash or colour; dashes change when the colours begin again."""
    return {
        label: Look(
            COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)], MARKERS[index % len(MARKERS)]
        )
        for index, label in enumerate(labels)
    }


class Curve(NamedTuple):
    """One run: ``steps`` (T,) in increasing order and the ``returns`` (T,) seen there."""

    steps: NDArray[np.float64]
    returns: NDArray[np.float64]


class Band(NamedTuple):
    """Several runs of one method at common ``steps``: their mean return, and a range around it.

    The range goes from the smallest to the largest return, or is an interval of the mean, NaN where there is none.
    """

    steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def on_common_steps(curves: Sequence[Curve], n_points: int = 200) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps (T,) that all curves cover, and the returns (curves, T) there, interpolated linearly.

    They are the curves' own steps up to the end of the shortest where these are the same, else ``n_points`` of equal
    distance.

    :raises ValueError: without a curve, or when the curves share no step.
    """
    if not curves:
        raise ValueError("curves=[] holds nothing to average")
    first, last = max(curve.steps[0] for curve in curves), min(curve.steps[-1] for curve in curves)
    if first > last:
        raise ValueError(f"the curves share no step: one starts at {first:g}, another ends at {last:g}")
    shortest = min((curve.steps for curve in curves), key=len)
    same = all(np.array_equal(curve.steps[: len(shortest)], shortest) for curve in curves)
    steps = shortest if same else np.linspace(first, last, n_points)
    return steps, np.stack([np.interp(steps, curve.steps, curve.returns) for curve in curves])


def band(curves: Sequence[Curve], n_points: int = 200) -> Band:
    """Mean, smallest and largest return at common steps.

    :raises ValueError: as in `on_common_steps`
    """
    steps, returns = on_common_steps(curves, n_points)
    return Band(steps, returns.mean(0), returns.min(0), returns.max(0))


def plot_bands(
    axes: "Axes",
    bands: Mapping[str, Band],
    xlabel: str = "environment steps",
    styles: Mapping[str, Look] | None = None,
) -> None:
    """A line for each mean with a marker at its end, and a shade over its range.

    With ``styles`` of the caller's, the legend is theirs too.
    """
    from matplotlib.ticker import EngFormatter

    for label, (color, dash, marker) in (styles or looks(bands)).items():
        if label not in bands:
            continue
        steps, mean, low, high = bands[label]
        axes.plot(steps, mean, color=color, linestyle=dash, marker=marker, markevery=[-1], linewidth=2, label=label)
        if np.isfinite(low).any():
            axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("episode return")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_xlim()[1] >= 1e4:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k, 1M
    if styles is None and len(bands) > 1:
        axes.legend(frameon=False, loc="upper left")
