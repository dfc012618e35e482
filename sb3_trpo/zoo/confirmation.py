"""The best of noisy trials is an optimist: the best few run again on seeds that none has seen, and are chosen by those.

What has been run is kept as user attributes of the study, ``confirm_TRIAL_SEED``: it can be interrupted and resumed,
and is the same whoever runs it.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from sb3_trpo.zoo.databases import plain_errors
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.searches import Curve, Search
from sb3_trpo.zoo.studies import end_with_parent, frozen
from sb3_trpo.zoo.trials import baseline_trial, best_trial, curves, learning_curve, open_study, tried, whole_trials

CONFIRMED = "confirmed"
"""User attribute of a study: numbers of the trials that were run again, and the seeds."""


class Candidate(NamedTuple):
    """A trial that was run again: the learning curves on the fresh seeds, and the mean and standard error of the
    scores there.
    """

    trial: FrozenTrial
    curves: dict[int, Curve]
    mean: float
    error: float


class Choice(NamedTuple):
    """The trial to take and what speaks for it: its value and learning curves by seed, and those of the baseline.

    ``error`` is the standard error of a value on fresh seeds; None for one that was chosen by its own seeds.
    """

    trial: FrozenTrial
    value: float
    curves: dict[int, Curve]
    baseline: float | None
    baseline_curves: dict[int, Curve]
    error: float | None = None


def confirm(
    search: Search,
    study: optuna.Study,
    top: int = 3,
    n_seeds: int = 5,
    on_run: Callable[[int, int, float], None] | None = None,
) -> list[Candidate]:
    """Run the ``top`` trials and the baseline again on ``n_seeds`` fresh seeds, and return them, the best first.

    :param on_run: told trial, seed and score of each run
    :raises UsageError: when no trial has run to its end, or an argument cannot be used
    """
    for trial, seed in runs_to_confirm(search, study, top, n_seeds):
        run_again_on(search, study, trial, seed, on_run)
    study.set_user_attr(CONFIRMED, _plan(search, study, top, n_seeds))
    return confirmed(search, study)


def runs_to_confirm(search: Search, study: optuna.Study, top: int, n_seeds: int) -> list[tuple[int, int]]:
    """Trial and seed of each run that is missing."""
    plan = _plan(search, study, top, n_seeds)
    done = study.user_attrs
    pairs = [(trial, seed) for seed in plan["seeds"] for trial in plan["trials"]]
    return [(trial, seed) for trial, seed in pairs if _key(trial, seed) not in done]


def run_again_on(
    search: Search,
    study: optuna.Study,
    number: int,
    seed: int,
    on_run: Callable[[int, int, float], None] | None = None,
) -> None:
    """Run a trial's hyperparameters on one more seed and keep the learning curve; an empty one where it fails."""
    try:
        curve = learning_curve(search, tried(search, frozen(study, number)), seed)
    except (ValueError, ArithmeticError):
        curve = []
    study.set_user_attr(_key(number, seed), curve)
    if on_run is not None:
        on_run(number, seed, search.score_of(curve) if curve else -np.inf)


def confirm_runs(search: Search, storage: str, study_name: str, runs: list[tuple[int, int]]) -> None:
    """A worker's share of the runs."""
    with plain_errors(storage):
        study = open_study(search, storage, study_name)
        for number, seed in runs:
            end_with_parent()
            if _key(number, seed) not in study.user_attrs:
                run_again_on(search, study, number, seed)


def confirmed(search: Search, study: optuna.Study) -> list[Candidate]:
    """The trials that were run again, the best first; none before `confirm` has been called."""
    plan = study.user_attrs.get(CONFIRMED)
    return sorted(_candidates(search, study, plan), key=lambda c: c.mean, reverse=True) if plan else []


def choose(search: Search, study: optuna.Study) -> Choice:
    """The trial to take: the best on fresh seeds where `confirm` has run some, else the best of the study.

    :raises UsageError: when no trial has run to its end
    """
    best, baseline = best_trial(study), baseline_trial(study)
    candidates = {candidate.trial.number: candidate for candidate in confirmed(search, study)}
    if candidates:
        winner = next(iter(candidates.values()))
        begun = candidates.get(-1 if baseline is None else baseline.number)
        return Choice(
            winner.trial,
            winner.mean,
            winner.curves,
            None if begun is None else begun.mean,
            {} if begun is None else begun.curves,
            winner.error,
        )
    theirs = {} if baseline is None else dict(curves(baseline))
    return Choice(best, best.value or 0.0, dict(curves(best)), None if baseline is None else baseline.value, theirs)


def _candidates(search: Search, study: optuna.Study, plan: dict[str, list[int]]) -> Iterator[Candidate]:
    trials = study.get_trials(deepcopy=False)
    for number in plan["trials"]:
        seen = {
            seed: [(int(step), float(mean)) for step, mean in study.user_attrs[_key(number, seed)]]
            for seed in plan["seeds"]
        }
        scores = [search.score_of(curve) if curve else -np.inf for curve in seen.values()]
        spread = float(np.std(scores, ddof=1) / len(scores) ** 0.5) if len(scores) > 1 and all(seen.values()) else 0.0
        yield Candidate(trials[number], seen, float(np.mean(scores)), spread)


def _plan(search: Search, study: optuna.Study, top: int, n_seeds: int) -> dict[str, list[int]]:
    """Numbers of the trials, baseline last, and the seeds: those that follow on the search's own."""
    for name, value in (("top", top), ("n_seeds", n_seeds)):
        if value < 1:
            raise UsageError(f"{name}={value!r} must be >= 1")
    whole = whole_trials(study)
    if not whole:
        raise UsageError(f"study {study.study_name!r} has no trial that ran to its end")
    baseline = baseline_trial(study)
    numbers = [trial.number for trial in whole if baseline is None or trial.number != baseline.number][:top]
    first = search.seed + search.n_seeds
    return {
        "trials": numbers + ([baseline.number] if baseline is not None else []),
        "seeds": list(range(first, first + n_seeds)),
    }


def _key(number: int, seed: int) -> str:
    return f"confirm_{number}_{seed}"
