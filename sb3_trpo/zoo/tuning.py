"""Search for hyperparameters: a study that can be stopped, resumed, and joined by other processes and machines."""

import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from gymnasium import spaces
from optuna.trial import FrozenTrial, TrialState

from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.evaluations import Evaluation
from sb3_trpo.zoo.hyperparams import Hyperparams, check_hyperparams, load_hyperparams, plain
from sb3_trpo.zoo.models import make_env
from sb3_trpo.zoo.spaces import sample_environment, sample_trpo_params, start_params
from sb3_trpo.zoo.studies import (
    FINISHED,
    PRUNERS,
    WORKER,
    count,
    is_surplus,
    make_pruner,
    make_sampler,
    open_storage,
    take_over_dead_trials,
)
from sb3_trpo.zoo.training import train_and_evaluate

SEARCH = "search"
"""User attribute of a study: what is searched, so that nobody joins it with another purpose."""


def final_score(curve: list[tuple[int, float]]) -> float:
    """Mean return of the evaluations in the last fifth of training: less noisy than the last alone."""
    return float(np.mean([mean for step, mean in curve if step > 0.8 * curve[-1][0]]))


def best_score(curve: list[tuple[int, float]]) -> float:
    """Best mean return of an evaluation."""
    return max(mean for _, mean in curve)


def area_score(curve: list[tuple[int, float]]) -> float:
    """Mean return over the whole curve: what learns early scores more."""
    return float(np.mean([mean for _, mean in curve]))


SCORES: dict[str, Callable[[list[tuple[int, float]]], float]] = {
    "final": final_score,
    "best": best_score,
    "area": area_score,
}
"""What a search maximises, by name: a function of the learning curve [(step, mean return), ...] of one run."""


@dataclass(frozen=True)
class Search:
    """What a study searches; the same for all who work on it.

    :param algo: ``"trpo"``, the algorithm whose space is searched
    :param env_id: id of a registered environment
    :param hyperparams: the entry that trials start from; they override what the space holds
    :param n_timesteps: environment steps of each run
    :param n_seeds: runs of each trial, on seeds ``seed ... seed + n_seeds - 1``
    :param n_evaluations: evaluations of each run, ``n_eval_episodes`` long
    :param score: name of what is maximised, see `SCORES`
    """

    algo: str
    env_id: str
    hyperparams: Hyperparams
    n_timesteps: int
    n_seeds: int = 3
    n_evaluations: int = 10
    n_eval_episodes: int = 10
    score: str = "final"
    sampler: str = "tpe"
    pruner: str = "wilcoxon"
    n_startup: int = 10
    seed: int = 0

    def as_json(self) -> str:
        """The same text for the same search."""
        return json.dumps({**asdict(self), "hyperparams": plain(self.hyperparams)}, sort_keys=True)


@dataclass(frozen=True)
class Space:
    """What the search space depends on: ``n_actions`` of a ``Box`` action (else 0), and if observations are vectors."""

    n_actions: int
    can_normalize: bool

    @classmethod
    def of(cls, search: Search) -> "Space":
        """The space of a search's environment."""
        env = make_env(search.env_id, {**search.hyperparams, "normalize": False}, n_envs=1)
        action, observation = env.action_space, env.observation_space
        env.close()
        is_vector = isinstance(observation, spaces.Box) and len(observation.shape) == 1
        return cls(int(np.prod(action.shape)) if isinstance(action, spaces.Box) else 0, is_vector)

    def sample(self, trial: optuna.Trial) -> Hyperparams:
        """Hyperparameters of a trial."""
        environment = sample_environment(trial, self.can_normalize)
        return {**environment, **sample_trpo_params(trial, self.n_actions, environment["n_envs"])}


def make_search(
    env_id: str,
    algo: str = "trpo",
    *,
    hyperparams: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    n_timesteps: int | None = None,
    n_seeds: int = 3,
    pruner: str | None = None,
    **settings: Any,
) -> Search:
    """A checked `Search`; ``n_timesteps`` are those of the entry by default, the pruner fits the number of seeds.

    :raises UsageError: for an argument that cannot be used
    """
    if algo != "trpo":
        raise UsageError(f"algorithm {algo!r} has no search space: choose trpo")
    entry = load_hyperparams(algo, env_id, hyperparams, overrides)
    search = Search(
        algo,
        env_id,
        plain(entry),
        int(entry["n_timesteps"] if n_timesteps is None else n_timesteps),
        n_seeds,
        pruner=("wilcoxon" if n_seeds > 2 else "median") if pruner is None else pruner,
        **settings,
    )
    for name in ("n_timesteps", "n_seeds", "n_evaluations", "n_eval_episodes"):
        if getattr(search, name) < 1:
            raise UsageError(f"{name}={getattr(search, name)!r} must be >= 1")
    if search.score not in SCORES:
        raise UsageError(f"score={search.score!r} must be one of {', '.join(SCORES)}")
    if search.pruner not in PRUNERS:
        make_pruner(search.pruner, search.n_startup, search.n_evaluations, search.n_seeds)
    if search.pruner == "wilcoxon" and search.n_seeds < 3:
        raise UsageError(f"pruner='wilcoxon' compares seeds: n_seeds={search.n_seeds} must be >= 3, or choose median")
    return search


def open_study(
    search: Search, storage: str, study_name: str, heartbeat_interval: int = 10, grace_period: int = 60
) -> optuna.Study:
    """The study of that name, made if it is not there; its first trial is the entry that the search starts from.

    :raises UsageError: when the storage does not answer, or the study searches something else
    """
    sampler = make_sampler(search.sampler, search.seed, search.n_startup)
    pruner = make_pruner(search.pruner, search.n_startup, search.n_evaluations, search.n_seeds)
    database = open_storage(storage, heartbeat_interval, grace_period)
    options: dict[str, Any] = {"storage": database, "study_name": study_name, "sampler": sampler, "pruner": pruner}
    try:
        study = optuna.create_study(**options, direction="maximize")
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(**options)
        _check_same(search, study, wait=5.0)
        return study
    study.set_user_attr(SEARCH, search.as_json())
    space = Space.of(search)
    study.enqueue_trial(start_params(search.hyperparams, space.n_actions, space.can_normalize))
    return study


def run_trial(search: Search, space: Space, trial: optuna.Trial) -> float:
    """Score of one trial: mean over seeds; each run's learning curve is kept in the user attribute ``curve_SEED``.

    With the Wilcoxon pruner the seeds come in random order, and a trial that is worse on those seen ends early with
    their mean; the other pruners stop it by the learning curve of its first run.
    """
    hyperparams = {**search.hyperparams, **space.sample(trial)}
    trial.set_user_attr("hyperparams", plain(hyperparams))
    by_curve = search.pruner in ("hyperband", "median")
    seeds = search.seed + np.random.default_rng([search.seed, trial.number]).permutation(search.n_seeds)
    scores: list[float] = []
    for seed in map(int, seeds):
        curve = trial.user_attrs.get(f"curve_{seed}") or _learning_curve(
            search, hyperparams, seed, trial if by_curve and not scores else None
        )
        trial.set_user_attr(f"curve_{seed}", curve)
        scores.append(SCORES[search.score](curve))
        trial.set_user_attr("n_runs", len(scores))
        if search.pruner == "wilcoxon":
            trial.report(scores[-1], seed)
            if len(scores) < len(seeds) and trial.should_prune():
                break
    return float(np.mean(scores))


def work(
    search: Search,
    storage: str,
    study_name: str,
    n_trials: int,
    timeout: float | None = None,
    on_trial: Callable[[optuna.Study, FrozenTrial], None] | None = None,
    heartbeat_interval: int = 10,
    grace_period: int = 60,
) -> None:
    """Run trials until ``n_trials`` of the study have finished, by whomever.

    When only trials of other workers are left it waits: one of them may die, and then its trial is run here.

    :param timeout: seconds after which no trial is begun
    """
    study = open_study(search, storage, study_name, heartbeat_interval, grace_period)
    space = Space.of(search)
    ends = time.monotonic() + (np.inf if timeout is None else timeout)

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
        if is_surplus(study, trial.number, n_trials):
            raise _SurplusTrial(f"{n_trials} trials were begun before")
        try:
            return run_trial(search, space, trial)
        except ValueError as error:  # of parameters that do not fit together, or of numbers that blew up
            trial.set_user_attr("failure", str(error))
            raise optuna.TrialPruned(str(error)) from error
        except KeyboardInterrupt:
            study.enqueue_trial(trial.params)
            raise

    while count(study, *FINISHED) < n_trials and time.monotonic() < ends:
        take_over_dead_trials(study, grace_period)
        if count(study, *FINISHED, TrialState.RUNNING) < n_trials:
            study.optimize(
                objective, n_trials=1, catch=(_SurplusTrial,), callbacks=None if on_trial is None else [on_trial]
            )
        else:
            time.sleep(min(heartbeat_interval, 2))
        _end_with_parent()


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The finished trial with the best mean over all seeds.

    :raises UsageError: when none has run to its end
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    longest = max((trial.user_attrs.get("n_runs", 0) for trial in complete), default=0)
    whole = [trial for trial in complete if trial.user_attrs.get("n_runs") == longest]
    if not whole:
        raise UsageError(f"study {study.study_name!r} has no trial that ran to its end")
    return max(whole, key=lambda trial: trial.value if trial.value is not None else -np.inf)


class _SurplusTrial(Exception):
    """The trial is one more than was asked for."""


def _learning_curve(
    search: Search, hyperparams: Hyperparams, seed: int, reported: optuna.Trial | None
) -> list[tuple[int, float]]:
    """[(step, mean return), ...] of one run, reported to the pruner where a trial is given."""
    curve: list[tuple[int, float]] = []

    def on_evaluation(evaluation: Evaluation) -> None:
        _end_with_parent()
        curve.append((evaluation.step, round(evaluation.mean, 3)))
        if reported is not None:
            reported.report(evaluation.mean, len(curve))
            if reported.should_prune():
                reported.set_user_attr(f"curve_{seed}", curve)
                raise optuna.TrialPruned(f"at {evaluation.step} steps")

    check_hyperparams(search.algo, plain(hyperparams), "sampled")
    train_and_evaluate(
        search.algo,
        search.env_id,
        hyperparams,
        seed=seed,
        n_timesteps=search.n_timesteps,
        eval_freq=max(search.n_timesteps // search.n_evaluations, 1),
        n_eval_episodes=search.n_eval_episodes,
        on_evaluation=on_evaluation,
    )
    return curve


def _check_same(search: Search, study: optuna.Study, wait: float) -> None:
    """Refuse a study with another purpose; one that is just being made may need a moment to say what it searches."""
    ends = time.monotonic() + wait
    while SEARCH not in study.user_attrs and time.monotonic() < ends:
        time.sleep(0.2)
    theirs, ours = json.loads(study.user_attrs.get(SEARCH, "{}")), json.loads(search.as_json())
    different = [name for name in ours if theirs.get(name) != ours[name]]
    if different:
        name = different[0]
        raise UsageError(
            f"study {study.study_name!r} was begun with {name}={theirs.get(name)!r}, not {ours[name]!r}: "
            "join it with the same settings, or give another study_name"
        )


def _end_with_parent() -> None:
    """End a worker whose parent was killed; its trial goes to another."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise SystemExit(1)
