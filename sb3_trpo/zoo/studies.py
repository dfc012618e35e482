"""Optuna studies that many processes share: storage, samplers, pruners, and how many trials are left.

Every process that works on a study asks it for the next trial. A worker that is killed leaves a trial whose heartbeat
stops; the others notice, and the trial is run again with the same parameters.
"""

import datetime
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sb3_trpo.zoo.errors import UsageError, did_you_mean

# Heartbeats and the Wilcoxon pruner have been "experimental" in Optuna for years; the tests would notice a change.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
MAX_RETRIES = 3
"""Times that a trial whose worker died is run again: parameters that kill their worker do not do so for ever."""

WORKER = "worker"
"""User attribute of a trial: the process that runs it, set as soon as it begins."""

SamplerFactory = Callable[[int, int], BaseSampler]

SAMPLERS: dict[str, SamplerFactory] = {
    "tpe": lambda seed, n_startup: optuna.samplers.TPESampler(seed=seed, n_startup_trials=n_startup),
    "gp": lambda seed, n_startup: optuna.samplers.GPSampler(seed=seed, n_startup_trials=n_startup),
    "cmaes": lambda seed, n_startup: optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=n_startup),
    "random": lambda seed, n_startup: optuna.samplers.RandomSampler(seed=seed),
}
PRUNERS = ("wilcoxon", "hyperband", "median", "none")


class SeededByTrial(BaseSampler):
    """A fresh sampler for every trial, seeded by the study's seed and the trial's number.

    Two workers with one seed would try the same points; seeded this way no two trials share random numbers, whoever
    runs them, and a study with one worker repeats. Optuna's samplers keep what they learn in the storage.
    """

    def __init__(self, make: SamplerFactory, seed: int, n_startup: int):
        self._make, self._seed, self._n_startup = make, seed, n_startup
        self._sampler = make(seed, n_startup)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed anew."""
        seed = np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0]
        self._sampler = self._make(int(seed), self._n_startup)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """As the sampler does."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """As the sampler does."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, distribution: Any) -> Any:
        """As the sampler does."""
        return self._sampler.sample_independent(study, trial, param_name, distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """As the sampler does."""
        self._sampler.after_trial(study, trial, state, values)


def make_sampler(name: str, seed: int, n_startup: int) -> BaseSampler:
    """The sampler of an alias; the first ``n_startup`` trials are random."""
    if name not in SAMPLERS:
        raise UsageError(f"sampler {name!r} is unknown{did_you_mean(name, SAMPLERS)}")
    try:
        SAMPLERS[name](seed, n_startup).infer_relative_search_space(optuna.create_study(), None)  # type: ignore[arg-type]
    except ImportError as error:
        raise UsageError(f"sampler {name!r} needs more: pip install 'sb3-trpo[tune]' ({error})") from error
    return SeededByTrial(SAMPLERS[name], seed, n_startup)


def make_pruner(name: str, n_startup: int, n_evaluations: int, n_seeds: int) -> optuna.pruners.BasePruner:
    """The pruner of an alias: ``wilcoxon`` compares final scores seed by seed, the others learning curves.

    k runs that are all worse than the best trial's have p = 2^-k by the signed-rank test. The threshold lies just above
    that of half the seeds, of four at most: a trial that has lost that many, and won none, is not run on.
    """
    if name == "wilcoxon":
        lost = min(math.ceil(n_seeds / 2), 4)
        return optuna.pruners.WilcoxonPruner(p_threshold=1.01 * 2.0**-lost, n_startup_steps=2)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=n_evaluations, reduction_factor=3)
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=n_startup, n_warmup_steps=n_evaluations // 3)
    if name == "none":
        return optuna.pruners.NopPruner()
    raise UsageError(f"pruner {name!r} is unknown{did_you_mean(name, PRUNERS)}")


def open_storage(url: str, heartbeat_interval: int = 10, grace_period: int = 60) -> optuna.storages.RDBStorage:
    """The database at ``url``; trials whose worker has not been heard of for ``grace_period`` seconds are run again.

    :param url: ``sqlite:///study.db``, ``postgresql://user@host/name``, ``mysql+pymysql://user@host/name``
    :raises UsageError: when it is no database URL, its driver is missing, or it does not answer
    """
    if "://" not in url:
        raise UsageError(
            f"storage {url!r} must be a database URL, such as sqlite:///study.db or postgresql://host/name"
        )
    scheme = url.split(":")[0].split("+")[0]
    if scheme == "sqlite" and url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).expanduser().absolute().parent.mkdir(parents=True, exist_ok=True)
    timeout = {"timeout": 60} if scheme == "sqlite" else {"connect_timeout": 10}
    for attempt in range(5):
        try:
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs={"connect_args": timeout, "pool_pre_ping": True},
                heartbeat_interval=heartbeat_interval,
                grace_period=grace_period,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES),
            )
        except ImportError as error:  # noqa: PERF203  # five rounds at most
            raise UsageError(f"storage {url!r} needs a driver: pip install 'sb3-trpo[databases]' ({error})") from error
        except Exception as error:  # whatever SQLAlchemy and the driver raise
            # Two processes that make the tables of a new database at once get in each other's way: try again.
            is_race = any(words in str(error).lower() for words in ("already exists", "unique", "duplicate key"))
            if attempt == 4 or not is_race:
                reason = " ".join(str(error).split("\n")[0].split())
                raise UsageError(f"storage {url!r} does not answer: {reason or type(error).__name__}") from error
            time.sleep(0.5 * (attempt + 1))
    raise AssertionError("unreachable")


def count(study: optuna.Study, *states: TrialState) -> int:
    """Trials of the study in one of ``states``."""
    return len(study.get_trials(deepcopy=False, states=states))


def is_surplus(study: optuna.Study, number: int, n_trials: int) -> bool:
    """Whether trial ``number`` is one too many.

    Two workers may both see one trial left and both begin one. Numbers are given out by the storage, so all of them
    agree which came first: trials count in the order of their numbers, failed ones left out.
    """
    counted = study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING))
    return sum(trial.number < number for trial in counted) >= n_trials


def take_over_dead_trials(study: optuna.Study, grace_period: float) -> None:
    """Have the trials of dead workers run again: those whose heartbeat stopped, and those killed before the first."""
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        age = (datetime.datetime.now() - (trial.datetime_start or datetime.datetime.now())).total_seconds()
        if WORKER not in trial.user_attrs and age > 2 * grace_period:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
