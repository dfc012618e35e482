"""What a study searches: environment, entry to start from, budget of a trial, and what is maximised."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from gymnasium import spaces

from sb3_trpo.zoo.errors import UsageError, did_you_mean, whole
from sb3_trpo.zoo.hyperparams import Hyperparams, dictionary, load_hyperparams, plain
from sb3_trpo.zoo.models import make_env
from sb3_trpo.zoo.samplers import make_pruner, make_sampler
from sb3_trpo.zoo.spaces import SAMPLERS, SEARCHED, STARTS, sample_environment

Curve = list[tuple[int, float]]
"""Learning curve of one run: (step, mean return) of each evaluation."""


def final_score(curve: Curve) -> float:
    """Mean return of the evaluations in the last fifth of training: less noisy than the last alone."""
    return float(np.mean([mean for step, mean in curve if step > 0.8 * curve[-1][0]]))


def best_score(curve: Curve) -> float:
    """Best mean return of an evaluation."""
    return max(mean for _, mean in curve)


def area_score(curve: Curve) -> float:
    """Mean return over the whole curve: what learns early scores more."""
    return float(np.mean([mean for _, mean in curve]))


SCORES: dict[str, Callable[[Curve], float]] = {"final": final_score, "best": best_score, "area": area_score}
"""What a search maximises, by name."""


@dataclass(frozen=True)
class Search:
    """What a study searches; the same for all who work on it.

    :param algo: short name of the algorithm, one of those whose spaces are in `sb3_trpo.zoo.spaces`
    :param env_id: id of a registered environment
    :param hyperparams: the entry that trials start from; they override what the space holds
    :param n_timesteps: environment steps of each run
    :param n_seeds: runs of each trial, on seeds ``seed ... seed + n_seeds - 1``
    :param n_evaluations: evaluations of each run, ``n_eval_episodes`` long
    :param score: name of what is maximised, see `SCORES`
    :param n_startup: random trials before the sampler and the median pruner go by what they have seen
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

    @property
    def seeds(self) -> range:
        """Seeds of the runs of a trial."""
        return range(self.seed, self.seed + self.n_seeds)

    def score_of(self, curve: Curve) -> float:
        """What the search maximises, of one run."""
        return SCORES[self.score](curve)


@dataclass(frozen=True)
class Space:
    """What the space depends on: ``n_actions`` of a ``Box`` action (else 0), if observations are vectors, ``algo``."""

    n_actions: int
    can_normalize: bool
    algo: str = "trpo"

    @classmethod
    def of(cls, search: Search) -> "Space":
        """The space of a search's environment."""
        env = make_env(search.env_id, {**search.hyperparams, "normalize": False}, n_envs=1)
        action, observation = env.action_space, env.observation_space
        env.close()
        is_vector = isinstance(observation, spaces.Box) and len(observation.shape) == 1
        return cls(int(np.prod(action.shape)) if isinstance(action, spaces.Box) else 0, is_vector, search.algo)

    def start(self, base: Hyperparams) -> dict[str, Any]:
        """Parameters of the point nearest to an entry."""
        return STARTS[self.algo](base, self.n_actions, self.can_normalize)

    def sample(self, trial: optuna.Trial, base: Hyperparams) -> Hyperparams:
        """Hyperparameters of a trial: those of ``base`` where the space does not hold them."""
        environment = sample_environment(trial, self.can_normalize)
        sampled = SAMPLERS[self.algo](trial, self.n_actions, environment["n_envs"])
        sampled["policy_kwargs"] = {**dictionary(base, "policy_kwargs"), **sampled["policy_kwargs"]}
        wanted = base.get("normalize", False)
        # How to normalise is not searched, only whether; and what is no vector is left as it is.
        if not self.can_normalize or (environment["normalize"] and not isinstance(wanted, bool)):
            environment["normalize"] = wanted
        return {**base, **environment, **sampled}


def make_search(
    env_id: str,
    algo: str = "trpo",
    *,
    hyperparams: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    n_timesteps: float | None = None,
    n_seeds: int = 3,
    pruner: str | None = None,
    **settings: Any,
) -> Search:
    """A checked `Search`; ``n_timesteps`` are those of the entry by default, the pruner fits the number of seeds.

    :param settings: further fields of `Search`
    :raises UsageError: for an argument that cannot be used
    """
    if algo not in SAMPLERS:
        raise UsageError(f"algorithm {algo!r} has no search space: choose {' or '.join(SAMPLERS)}")
    for key in overrides or {}:
        if key in SEARCHED:
            raise UsageError(f"{key} is searched, a value for it would have no effect: leave it out, or train with it")
    entry = load_hyperparams(algo, env_id, hyperparams, overrides)
    search = Search(
        algo,
        env_id,
        plain(entry),
        whole("n_timesteps", entry.get("n_timesteps") if n_timesteps is None else n_timesteps, 1),
        n_seeds,
        pruner=("wilcoxon" if n_seeds > 2 else "median") if pruner is None else pruner,
        **settings,
    )
    for name, low in (("n_seeds", 1), ("n_evaluations", 1), ("n_eval_episodes", 1), ("n_startup", 0), ("seed", 0)):
        whole(name, getattr(search, name), low)
    if search.score not in SCORES:
        raise UsageError(f"score={search.score!r} is unknown{did_you_mean(search.score, SCORES)}")
    make_sampler(search.sampler, search.seed, search.n_startup)
    make_pruner(search.pruner, search.n_startup, search.n_evaluations, search.n_seeds)
    return search


def moved(search: Search) -> Iterator[str]:
    """Where the entry lies outside the space, and what the search starts from instead, in sentences."""
    space = Space.of(search)
    start = space.sample(optuna.trial.FixedTrial(space.start(search.hyperparams)), search.hyperparams)  # type: ignore[arg-type]
    begun = plain(start)
    for name, value in search.hyperparams.items():
        if name in SEARCHED and _number(begun[name]) != _number(value):
            yield f"{name}={value!r} lies outside the space: the search starts from {begun[name]!r}"


def _number(value: Any) -> Any:
    """``lin_1e-3`` and ``lin_0.001`` are the same."""
    return ("lin", float(value.removeprefix("lin_"))) if isinstance(value, str) and value.startswith("lin_") else value
