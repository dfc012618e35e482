"""Aggregate statistics of scores over runs and tasks, with intervals by the stratified bootstrap.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264).

Scores x_{m,n} of run n on task m come as a matrix (runs, tasks), or as a sequence of arrays, one (runs_m,) per task,
where tasks have different numbers of runs; an array (runs,) is one task. M is the number of tasks, N_m of runs.
Where N_m differs, means, optimality gaps, profiles and probabilities weigh every task alike; the interquartile mean
pools all runs and so weighs a task by its runs.

An interval is of percentiles: the runs of every task are drawn anew with replacement, the statistic is computed on
what was drawn, and the interval spans the middle 95% of many such values. With few runs it tends to be too narrow.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]
Tasks: TypeAlias = ArrayLike | Sequence[ArrayLike]
Statistic: TypeAlias = Callable[[Sequence[Array]], Array]
"""One array (B, runs_m, ...) per task -> (B, ...): the statistic of B draws at once."""

SAMPLES = 2000
CHUNK = 2**20


class Interval(NamedTuple):
    """A statistic's ``value`` on the scores and the ends of its interval, arrays of one shape, () for one number.

    The ends are NaN where a task has a single run: it has no spread to draw from, and an interval without its share
    would be too narrow.
    """

    value: Array
    low: Array
    high: Array


def iqm(values: ArrayLike) -> float:
    """Interquartile mean: the mean of what is left without the lowest and the highest quarter, rounded down.

    :param values: scores of any shape, pooled
    :raises ValueError: without a value, or for one that is not finite
    """
    return float(aggregate_iqm([_tasks(np.ravel(np.asarray(values)), "values")[0][None]])[0])


def optimality_gap(scores: Tasks, target: float = 1.0) -> float:
    """How far scores fall short of ``target``: ``1/M sum_m 1/N_m sum_n max(target - x_{m,n}, 0)``; lower is better."""
    return float(aggregate_gap([task[None] for task in _tasks(scores, "scores")], target)[0])


def normalize(scores: ArrayLike, low: float, high: float) -> Array:
    """``(x - low) / (high - low)``: 0 at ``low`` and 1 at ``high``, not clipped.

    :raises ValueError: unless both are finite and ``low < high``
    """
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"low={low} and high={high} should be finite, with low < high")
    return np.asarray((np.asarray(scores, np.float64) - low) / (high - low))


def stratified_bootstrap(
    scores: Tasks, statistic: Statistic, *, samples: int = SAMPLES, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """A statistic and its percentile interval, runs drawn anew within each task.

    :param scores: matrix (runs, tasks) or arrays (runs_m, ...), one per task; axes after the first stay together
    :param statistic: one of `aggregate_iqm`, `aggregate_mean`, `aggregate_gap`, or any other that is vectorised
    :param samples: how often to draw
    :param confidence: share of the drawn values that the interval spans
    :param seed: of the draws; the same seed gives the same interval
    :raises ValueError: for no task, a task without a run, a score that is not finite, or a bad argument
    """
    tasks = _tasks(scores, "scores")
    if samples < 1:
        raise ValueError(f"samples={samples} should be at least 1; {SAMPLES} are usual")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} should be between 0 and 1, such as 0.95")
    value = statistic([task[None] for task in tasks])[0]
    if min(len(task) for task in tasks) < 2:
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(task), size=(samples, len(task))) for task in tasks]
    chunk = max(1, CHUNK // sum(task.size for task in tasks))  # bounds the memory
    values = np.concatenate(
        [
            statistic([task[draw[start : start + chunk]] for task, draw in zip(tasks, draws, strict=True)])
            for start in range(0, samples, chunk)
        ]
    )
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Interval(value, low, high)


def aggregate_iqm(tasks: Sequence[Array]) -> Array:
    """Interquartile mean of the runs of all tasks together: (B, runs_m, ...) per task -> (B, ...)."""
    pooled = np.sort(np.concatenate(tasks, axis=1), axis=1)
    cut = pooled.shape[1] // 4
    return np.asarray(pooled[:, cut : pooled.shape[1] - cut].mean(1))


def aggregate_mean(tasks: Sequence[Array]) -> Array:
    """Mean over tasks of the mean over runs: (B, runs_m, ...) per task -> (B, ...)."""
    return np.asarray(np.mean([task.mean(1) for task in tasks], axis=0))


def aggregate_gap(tasks: Sequence[Array], target: float = 1.0) -> Array:
    """`optimality_gap` of B draws: (B, runs_m, ...) per task -> (B, ...)."""
    return aggregate_mean([np.maximum(target - task, 0) for task in tasks])


def probability_of_improvement(
    x: Tasks, y: Tasks, *, samples: int = SAMPLES, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """How likely a run of X scores higher than one of Y on a task drawn at random; 0.5 says that neither is better.

    ``1/M sum_m 1/(N_m K_m) sum_{n,k} S(x_{m,n}, y_{m,k})`` with S = 1 where x > y, 1/2 where equal, else 0: the
    statistic of the Mann-Whitney test as a share. The runs of X and Y are drawn independently.

    :param x: scores of X, runs (N_m,) on each task
    :param y: scores of Y, runs (K_m,) on the same tasks in the same order
    :raises ValueError: when the numbers of tasks differ, and as in `stratified_bootstrap`
    """
    xs, ys = _tasks(x, "x"), _tasks(y, "y")
    if len(xs) != len(ys):
        raise ValueError(f"x has {len(xs)} tasks and y has {len(ys)}; give both the same ones in the same order")

    def share(tasks: Sequence[Array]) -> Array:
        pairs = zip(tasks[: len(xs)], tasks[len(xs) :], strict=True)
        signs = [np.sign(a[:, :, None] - b[:, None, :]).mean((1, 2)) for a, b in pairs]
        return np.asarray((1 + np.mean(signs, axis=0)) / 2)

    return stratified_bootstrap([*xs, *ys], share, samples=samples, confidence=confidence, seed=seed)


def performance_profile(
    scores: Tasks, thresholds: ArrayLike, *, samples: int = SAMPLES, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Share of runs that score higher than each threshold: ``1/M sum_m 1/N_m sum_n [x_{m,n} > tau]``.

    :param thresholds: tau (K,)
    :return: arrays (K,), with an interval for each threshold on its own
    :raises ValueError: for thresholds of another shape, and as in `stratified_bootstrap`
    """
    taus = np.asarray(thresholds, np.float64)
    if taus.ndim != 1 or not len(taus):
        raise ValueError(f"thresholds have shape {taus.shape}; give one axis with at least one threshold")

    def shares(tasks: Sequence[Array]) -> Array:
        return np.stack([aggregate_mean([(task > tau).astype(np.float64) for task in tasks]) for tau in taus], -1)

    return stratified_bootstrap(_tasks(scores, "scores"), shares, samples=samples, confidence=confidence, seed=seed)


def _tasks(scores: Tasks, name: str) -> list[Array]:
    """One array per task, runs along its first axis."""
    if not isinstance(scores, np.ndarray):
        each = [np.asarray(task, np.float64) for task in scores]  # type: ignore[union-attr]
        tasks = [np.array(each)] if each and all(task.ndim == 0 for task in each) else each
    elif scores.ndim == 2:
        tasks = list(scores.T.astype(np.float64))
    else:
        tasks = [scores.astype(np.float64)]
    if not tasks:
        raise ValueError(f"{name} has no task; give at least one")
    for index, task in enumerate(tasks):
        if task.ndim == 0 or not task.size:
            raise ValueError(f"{name}: task {index} has no run; leave it out")
        if not np.isfinite(task).all():
            raise ValueError(f"{name}: task {index} has a score of {task[~np.isfinite(task)][0]}; leave that run out")
    return tasks
