"""Everything that figures and reports show of a table of scores, computed once.

A run's score is the ``eval_mean`` of its last evaluation. Aggregates over environments need scores on one scale, so
each environment's are normalised, ``(x - low) / (high - low)``. ``low`` and ``high`` are reference scores of the
caller's, such as those of a random and of an expert policy. Without them they come from the scores themselves: low is
the lowest first evaluation of any run, which is near the untrained policy, and high the final score of the best run.
Such normalised scores compare the contestants of one table only: another contestant may move both ends.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sb3_trpo.evaluation.curves import Band, Curve, on_common_steps
from sb3_trpo.evaluation.scores import Score, final_scores, group_runs
from sb3_trpo.evaluation.statistics import (
    SAMPLES,
    Interval,
    aggregate_gap,
    aggregate_iqm,
    aggregate_mean,
    normalize,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)

Array = NDArray[np.float64]
Range = tuple[float, float]


class Final(NamedTuple):
    """One contestant in one environment, over ``n_seeds`` runs at their ends.

    ``std`` is the sample standard deviation, NaN for one run; ``steps`` the fewest and most of a run; ``wall_s`` the
    median.
    """

    n_seeds: int
    mean: float
    std: float
    iqm: Interval
    steps: tuple[int, int]
    wall_s: float


class Aggregate(NamedTuple):
    """Statistics of one contestant's normalised scores over environments and runs."""

    iqm: Interval
    mean: Interval
    optimality_gap: Interval


class Summary(NamedTuple):
    """The numbers; dictionaries are keyed by environment, by contestant, or by environment and then contestant.

    Aggregates, probabilities and profiles are over ``compared``, the environments that every contestant has scores
    in, and empty if there are none. ``improvement`` is of the first contestant over each other one.
    ``ranges`` is (low, high) of each environment, ``given`` whether the caller said so. ``profiles`` are at
    ``thresholds`` (K,). Curves are the mean over runs and its interval; ``curves_by_time`` are the same against the
    mean seconds of training that the runs took to get there.
    """

    environments: tuple[str, ...]
    contestants: tuple[str, ...]
    curves: dict[str, dict[str, Band]]
    curves_by_time: dict[str, dict[str, Band]]
    finals: dict[str, dict[str, Final]]
    ranges: dict[str, Range]
    given: bool
    compared: tuple[str, ...]
    aggregates: dict[str, Aggregate]
    improvement: dict[str, Interval]
    thresholds: Array
    profiles: dict[str, Interval]


def summarize(
    scores: Iterable[Score],
    *,
    references: Mapping[str, Range] | None = None,
    first: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Summary:
    """Compute all of it.

    :param references: environment -> (low, high), the scores that become 0 and 1
    :param first: contestant to put first and to compare with the others; by default the first in the table
    :param samples: draws of the bootstrap
    :param seed: of the bootstrap
    :raises ValueError: without scores, for an unknown ``first``, an environment without its reference, a reference
        that is no range, or runs of one contestant that share no step
    """
    rows = list(scores)
    if not rows:
        raise ValueError("scores=[] holds no row; train something first")
    contestants = list(dict.fromkeys(row.implementation for row in rows))
    if first is not None:
        if first not in contestants:
            raise ValueError(f"first={first!r} has no scores; choose one of {', '.join(contestants)}")
        contestants.sort(key=lambda name: name != first)
    ends = final_scores(rows)
    ranges = score_ranges(rows) if references is None else _given(references, ends)
    compared = tuple(env for env, group in ends.items() if len(group) == len(contestants))
    normalized = {
        name: [normalize(ends[env][name], *ranges[env]) for env in compared] for name in contestants if compared
    }
    raw = {name: [ends[env][name] for env in compared] for name in normalized}
    highest = max((task.max() for tasks in normalized.values() for task in tasks), default=1.0)
    thresholds = np.linspace(0, max(1.0, highest), 101)
    curves, by_time = _curves(rows, samples, seed)
    return Summary(
        environments=tuple(ends),
        contestants=tuple(contestants),
        curves=curves,
        curves_by_time=by_time,
        finals=_finals(rows, ends, samples, seed),
        ranges=ranges,
        given=references is not None,
        compared=compared,
        aggregates={name: _aggregate(tasks, samples, seed) for name, tasks in normalized.items()},
        improvement={
            name: probability_of_improvement(raw[contestants[0]], raw[name], samples=samples, seed=seed)
            for name in contestants[1:]
            if compared
        },
        thresholds=thresholds,
        profiles={
            name: performance_profile(tasks, thresholds, samples=samples, seed=seed)
            for name, tasks in normalized.items()
        },
    )


def score_ranges(scores: Iterable[Score]) -> dict[str, Range]:
    """Environment -> (low, high): the lowest first evaluation of any run, and the final score of the best run.

    Where no run ends above the lowest first evaluation, low is the worst final score instead; where all final scores
    are equal too, it is high - 1, so that all of them become 1.
    """
    firsts: dict[str, list[float]] = {}
    lasts: dict[str, list[float]] = {}
    for (env, _, _), rows in group_runs(scores).items():
        firsts.setdefault(env, []).append(rows[0].eval_mean)
        lasts.setdefault(env, []).append(rows[-1].eval_mean)
    ranges = {}
    for env in firsts:
        high = max(lasts[env])
        low = next((low for low in (min(firsts[env]), min(lasts[env])) if low < high), high - 1)
        ranges[env] = (low, high)
    return ranges


def _given(references: Mapping[str, Range], environments: Iterable[str]) -> dict[str, Range]:
    for env in environments:
        if env not in references:
            raise ValueError(f"references has no {env!r}; give (low, high) for every environment or for none")
        low, high = references[env]
        if not (np.isfinite([low, high]).all() and low < high):
            raise ValueError(f"references[{env!r}]={references[env]} should be finite, with low < high")
    return {env: references[env] for env in environments}


def _curves(
    rows: Sequence[Score], samples: int, seed: int
) -> tuple[dict[str, dict[str, Band]], dict[str, dict[str, Band]]]:
    """Against steps, and against seconds."""
    groups: dict[tuple[str, str], list[list[Score]]] = {}
    for (env, name, _), run in group_runs(rows).items():
        groups.setdefault((env, name), []).append(run)
    curves: dict[str, dict[str, Band]] = {}
    by_time: dict[str, dict[str, Band]] = {}
    for (env, name), runs in groups.items():
        try:
            steps, returns = on_common_steps([_curve(run, "eval_mean") for run in runs])
        except ValueError as error:
            raise ValueError(f"{env}, {name}: {error}; leave one of these runs out") from None
        _, seconds = on_common_steps([_curve(run, "wall_s") for run in runs])
        mean, low, high = stratified_bootstrap([returns], aggregate_mean, samples=samples, seed=seed)
        curves.setdefault(env, {})[name] = Band(steps, mean, low, high)
        by_time.setdefault(env, {})[name] = Band(seconds.mean(0), mean, low, high)
    return curves, by_time


def _curve(run: Sequence[Score], column: str) -> Curve:
    return Curve(np.array([row.step for row in run], np.float64), np.array([getattr(row, column) for row in run]))


def _finals(
    rows: Sequence[Score], ends: Mapping[str, Mapping[str, Array]], samples: int, seed: int
) -> dict[str, dict[str, Final]]:
    last: dict[tuple[str, str], list[Score]] = {}
    for (env, name, _), run in group_runs(rows).items():
        last.setdefault((env, name), []).append(run[-1])
    return {
        env: {
            name: Final(
                n_seeds=len(values),
                mean=float(values.mean()),
                std=float(values.std(ddof=1)) if len(values) > 1 else np.nan,
                iqm=stratified_bootstrap([values], aggregate_iqm, samples=samples, seed=seed),
                steps=(min(row.step for row in last[env, name]), max(row.step for row in last[env, name])),
                wall_s=float(np.median([row.wall_s for row in last[env, name]])),
            )
            for name, values in group.items()
        }
        for env, group in ends.items()
    }


def _aggregate(tasks: Sequence[Array], samples: int, seed: int) -> Aggregate:
    return Aggregate(
        *(
            stratified_bootstrap(tasks, statistic, samples=samples, seed=seed)
            for statistic in (aggregate_iqm, aggregate_mean, aggregate_gap)
        )
    )
