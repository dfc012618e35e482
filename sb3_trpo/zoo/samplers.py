"""Samplers and pruners of a search, by alias."""

import math
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from sb3_trpo.zoo.errors import UsageError, did_you_mean

SamplerFactory = Callable[[int, int], BaseSampler]

SAMPLERS: dict[str, SamplerFactory] = {
    "tpe": lambda seed, n_startup: TPESampler(seed=seed, n_startup_trials=n_startup),
    "gp": lambda seed, n_startup: GPSampler(seed=seed, n_startup_trials=n_startup),
    # CMA-ES moves numbers only: TPE chooses the categories.
    "cmaes": lambda seed, n_startup: CmaEsSampler(
        seed=seed,
        n_startup_trials=n_startup,
        independent_sampler=TPESampler(seed=seed, n_startup_trials=n_startup),
        warn_independent_sampling=False,
    ),
    "random": lambda seed, n_startup: RandomSampler(seed=seed),
}
PRUNERS = ("wilcoxon", "hyperband", "median", "none")
BY_CURVE = ("hyperband", "median")
"""Pruners that are told the learning curve of a trial's first run; Wilcoxon's is told the score of each run."""
NEEDS = {"gp": "scipy", "cmaes": "cmaes", "wilcoxon": "scipy"}
"""Modules that Optuna imports for an alias only when it is used."""


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
    """The sampler of an alias; the first ``n_startup`` trials are random.

    :raises UsageError: for an unknown alias, or a missing library
    """
    _check("sampler", name, SAMPLERS)
    return SeededByTrial(SAMPLERS[name], seed, n_startup)


def make_pruner(name: str, n_startup: int, n_evaluations: int, n_seeds: int) -> optuna.pruners.BasePruner:
    """The pruner of an alias: ``wilcoxon`` compares scores seed by seed, the others learning curves.

    k runs that are all worse than the best trial's have p = 2^-k by the signed-rank test. The threshold lies just above
    that of half the seeds, of four at most: a trial that has lost that many, and won none, is not run on.

    :raises UsageError: for an unknown alias, a missing library, or too few seeds to compare
    """
    _check("pruner", name, PRUNERS)
    if name == "wilcoxon":
        if n_seeds < 3:
            raise UsageError(f"pruner='wilcoxon' compares seeds: n_seeds={n_seeds} must be >= 3, or choose median")
        lost = min(math.ceil(n_seeds / 2), 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.pruners.WilcoxonPruner(p_threshold=1.01 * 2.0**-lost, n_startup_steps=2)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=n_evaluations, reduction_factor=3)
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=n_startup, n_warmup_steps=n_evaluations // 3)
    return optuna.pruners.NopPruner()


def _check(kind: str, name: str, known: Any) -> None:
    if name not in known:
        raise UsageError(f"{kind} {name!r} is unknown{did_you_mean(name, known)}")
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        raise UsageError(f"{kind} {name!r} needs {NEEDS[name]}: pip install 'sb3-trpo[tune]'")
