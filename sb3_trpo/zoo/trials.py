"""One trial of a search: hyperparameters from the sampler, a run for each seed, a score for the study."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from sb3_trpo.zoo.databases import open_storage, plain_errors
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.evaluations import Evaluation
from sb3_trpo.zoo.hyperparams import Hyperparams, check_hyperparams, plain
from sb3_trpo.zoo.samplers import BY_CURVE, make_pruner, make_sampler
from sb3_trpo.zoo.searches import Curve, Search, Space
from sb3_trpo.zoo.studies import FAILURE, OnTrial, end_with_parent, run_again, run_trials
from sb3_trpo.zoo.training import train_and_evaluate

SEARCH = "search"
"""User attribute of a study: what is searched, so that nobody joins it with another purpose."""

ADOPT_SECONDS = 5
"""How long another process may take to say what the study that it has just made searches."""


def open_study(
    search: Search, storage: str, study_name: str, heartbeat_interval: int = 10, grace_period: int = 60
) -> optuna.Study:
    """The study of that name, made if it is not there; its first trial is the entry that the search starts from.

    :raises UsageError: when the storage does not answer, or the study searches something else
    """
    return _open(search, storage, study_name, heartbeat_interval, grace_period)[0]


def work(
    search: Search,
    storage: str,
    study_name: str,
    n_trials: int,
    timeout: float | None = None,
    on_trial: OnTrial | None = None,
    heartbeat_interval: int = 10,
    grace_period: int = 60,
) -> None:
    """Run trials in this process until ``n_trials`` of the study have finished, by whomever.

    :param timeout: seconds after which no trial is begun
    :param on_trial: told of each trial that was run here
    :raises UsageError: when the storage fails, or the study searches something else
    """
    with plain_errors(storage):
        study, database = _open(search, storage, study_name, heartbeat_interval, grace_period)
        space = Space.of(search)
        run_trials(study, database, lambda trial: run_trial(search, space, trial), n_trials, timeout, on_trial)


def run_trial(search: Search, space: Space, trial: optuna.Trial) -> float:
    """Score of one trial: mean over seeds; each run's learning curve is kept in the user attribute ``curve_SEED``.

    With the Wilcoxon pruner the seeds come in random order, and a trial that is worse on those seen ends early, see
    `estimate`; the other pruners stop it by the learning curve of its first run. A trial that was begun before, by a
    worker that died, goes on with the seeds that are missing.

    :raises optuna.TrialPruned: also for hyperparameters that cannot be used, or whose numbers blow up
    """
    try:
        hyperparams = space.sample(trial, search.hyperparams)
    except ValueError as error:  # Optuna's, for categories that were others when the study was begun
        raise UsageError(f"the search space has changed since the study was begun, give a new one: {error}") from error
    trial.set_user_attr("hyperparams", plain(hyperparams))
    known: dict[int, Curve] = {seed: curve for seed, curve in curves(trial) if curve[-1][0] >= search.n_timesteps}
    order = search.seed + np.random.default_rng([search.seed, trial.number]).permutation(search.n_seeds)
    scores: dict[int, float] = {}
    for seed in sorted(map(int, order), key=lambda seed: seed not in known):
        if seed not in known:
            watched = trial if search.pruner in BY_CURVE and not scores else None
            known[seed] = _run(search, hyperparams, seed, trial, watched)
            trial.set_user_attr(f"curve_{seed}", known[seed])
        scores[seed] = search.score_of(known[seed])
        trial.set_user_attr("n_runs", len(scores))
        if search.pruner == "wilcoxon":
            trial.report(scores[seed], seed)
            if len(scores) < search.n_seeds and trial.should_prune():
                return estimate(scores, trial.study.best_trial)
    return float(np.mean(list(scores.values())))


def estimate(scores: dict[int, float], best: FrozenTrial) -> float:
    """What the mean over all seeds would be, of a trial that was run on some: the best trial's mean, and the mean
    difference to it on those seeds. The mean of the scores alone would praise trials that met the easy seeds.
    """
    theirs = best.intermediate_values
    differences = [score - theirs[seed] for seed, score in scores.items() if seed in theirs]
    return float(np.mean(list(theirs.values())) + np.mean(differences))


def curves(trial: FrozenTrial | optuna.Trial) -> Iterator[tuple[int, Curve]]:
    """Seed and learning curve of each run of a trial; the last may be one that was stopped."""
    for key, curve in trial.user_attrs.items():
        if key.startswith("curve_") and curve:
            yield int(key.removeprefix("curve_")), [(int(step), float(mean)) for step, mean in curve]


def tried(search: Search, trial: FrozenTrial) -> Hyperparams:
    """The entry that a trial has run, in plain values; ``n_timesteps`` are those of the entry that it started from."""
    return {**search.hyperparams, **trial.user_attrs["hyperparams"]}


def whole_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have run on all seeds, the best first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    longest = max((trial.user_attrs.get("n_runs", 0) for trial in complete), default=0)
    whole = [trial for trial in complete if trial.user_attrs.get("n_runs") == longest]
    return sorted(whole, key=lambda trial: -np.inf if trial.value is None else trial.value, reverse=True)


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The finished trial with the best mean over all seeds.

    :raises UsageError: when none has run to its end
    """
    whole = whole_trials(study)
    if not whole:
        raise UsageError(f"study {study.study_name!r} has no trial that ran to its end")
    return whole[0]


def baseline_trial(study: optuna.Study) -> FrozenTrial | None:
    """The trial of the entry that the search started from; None where it has not run to its end."""
    trials = study.get_trials(deepcopy=False)
    if not trials:
        return None
    params = {**trials[0].params, **trials[0].system_attrs.get("fixed_params", {})}
    return next((trial for trial in whole_trials(study) if trial.params == params), None)


def learning_curve(
    search: Search, hyperparams: Hyperparams, seed: int, on_evaluation: Callable[[Curve], None] | None = None
) -> Curve:
    """One run of a search's length.

    :param on_evaluation: told of the curve so far
    :raises ValueError: for hyperparameters that cannot be used, and numbers that blow up
    """
    curve: Curve = []

    def see(evaluation: Evaluation) -> None:
        end_with_parent()
        if not np.isfinite(evaluation.mean):
            raise ValueError(f"mean return {evaluation.mean} after {evaluation.step} steps")
        curve.append((evaluation.step, round(evaluation.mean, 3)))
        if on_evaluation is not None:
            on_evaluation(curve)

    check_hyperparams(search.algo, plain(hyperparams), "sampled")
    train_and_evaluate(
        search.algo,
        search.env_id,
        hyperparams,
        seed=seed,
        n_timesteps=search.n_timesteps,
        eval_freq=max(search.n_timesteps // search.n_evaluations, 1),
        n_eval_episodes=search.n_eval_episodes,
        on_evaluation=see,
    )
    return curve


def _run(
    search: Search, hyperparams: Hyperparams, seed: int, trial: optuna.Trial, watched: optuna.Trial | None
) -> Curve:
    """One run of a trial; ``watched`` where the pruner is to see its learning curve."""

    def see(curve: Curve) -> None:
        if watched is not None:
            watched.report(curve[-1][1], len(curve))
            if watched.should_prune():
                watched.set_user_attr(f"curve_{seed}", curve)
                raise optuna.TrialPruned(f"at {curve[-1][0]} steps")

    try:
        return learning_curve(search, hyperparams, seed, see)
    except (ValueError, ArithmeticError) as error:  # parameters that do not fit together, numbers that blow up
        trial.set_user_attr(FAILURE, str(error))
        raise optuna.TrialPruned(str(error)) from error


def _open(
    search: Search, storage: str, study_name: str, heartbeat_interval: int, grace_period: int
) -> tuple[optuna.Study, RDBStorage]:
    database = open_storage(storage, heartbeat_interval, grace_period, on_stale=run_again)
    options: dict[str, Any] = {
        "storage": database,
        "study_name": study_name,
        "sampler": make_sampler(search.sampler, search.seed, search.n_startup),
        "pruner": make_pruner(search.pruner, search.n_startup, search.n_evaluations, search.n_seeds),
    }
    with plain_errors(storage), _quiet():
        try:
            study = optuna.create_study(**options, direction="maximize")
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(**options)
            ends = time.monotonic() + ADOPT_SECONDS
            while SEARCH not in study.user_attrs and time.monotonic() < ends:
                time.sleep(0.2)
        if SEARCH in study.user_attrs:
            _check_same(search, study)
        elif any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
            raise UsageError(f"study {study_name!r} is none of ours: give another study_name")
        else:  # new, or left behind by a process that was killed while it made it
            study.enqueue_trial(Space.of(search).start(search.hyperparams), skip_if_exists=True)
            study.set_user_attr(SEARCH, search.as_json())
    return study, database


def _check_same(search: Search, study: optuna.Study) -> None:
    """Refuse a study with another purpose."""
    theirs, ours = json.loads(study.user_attrs[SEARCH]), json.loads(search.as_json())
    pairs = [(name, theirs.get(name), ours[name]) for name in ours if name != "hyperparams"]
    entries = theirs.get("hyperparams", {}), ours["hyperparams"]
    pairs += [(name, entries[0].get(name), entries[1].get(name)) for name in sorted({*entries[0], *entries[1]})]
    for name, begun, asked in pairs:
        if begun != asked:
            raise UsageError(
                f"study {study.study_name!r} was begun with {name}={begun!r}, not {asked!r}: "
                "join it with the same settings, or give another study_name"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna tells of every study that it makes."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
