"""The grid of a benchmark: environments x contestants x seeds, read from a file and checked before anything runs.

.. code-block:: yaml

    environments: [CartPole-v1, Pendulum-v1]  # or a mapping: {Pendulum-v1: {n_timesteps: 3e5}, ...}
    seeds: 5                  # 0 to 4, or a list
    n_timesteps: 1e5          # default: those of the contestants' entries, which must agree
    eval_freq: 5000           # default: a twentieth of the steps; 0 for one evaluation at the end
    n_eval_episodes: 20
    contestants:
      sb3_trpo: {algo: trpo}  # with the hyperparameters that this package ships
      PPO: {algo: ppo, hyperparams: ppo.yml, overrides: {n_steps: 512}}  # a file beside this one

What stands under an environment goes before what stands above.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sb3_trpo.evaluation import scores
from sb3_trpo.zoo.algorithms import ALGORITHMS
from sb3_trpo.zoo.errors import UsageError, did_you_mean, whole
from sb3_trpo.zoo.expressions import parse_expression
from sb3_trpo.zoo.hyperparams import Hyperparams, load_hyperparams, read_yaml

KEYS = ("environments", "seeds", "n_timesteps", "eval_freq", "n_eval_episodes", "contestants")
SETTINGS = {"n_timesteps": 1, "eval_freq": 0, "n_eval_episodes": 1}
"""What may also stand under an environment, and the smallest value."""
MAX_SEED = 2**32 - 1 - 10_000 - 100_000
"""Numpy takes no seed from 2**32 on; environments and evaluations add something to that of the run."""
CONTESTANT_KEYS = ("algo", "hyperparams", "overrides")


@dataclass(frozen=True)
class Run:
    """One training run. ``implementation`` is the label of the contestant; ``hyperparams`` are without steps.

    ``config_hash`` stands for all that decides the result but environment and seed, see `config_hash`.
    """

    env: str
    implementation: str
    algo: str
    hyperparams: Hyperparams
    seed: int
    n_timesteps: int
    eval_freq: int
    n_eval_episodes: int
    config_hash: str

    @property
    def key(self) -> scores.Run:
        """What its rows in the table of scores have in common."""
        return self.env, self.implementation, self.seed

    def __str__(self) -> str:
        return f"{self.env}, {self.implementation}, seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """A checked grid: its ``environments``, ``contestants`` (labels), ``seeds``, and the runs they make."""

    environments: tuple[str, ...]
    contestants: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    """Seed by seed, and the contestants side by side: those that are compared run under the same load."""

    @property
    def keys(self) -> list[scores.Run]:
        """The runs in the order of a tidy table: by environment, contestant, seed."""
        return [(env, label, seed) for env in self.environments for label in self.contestants for seed in self.seeds]


def read_grid(path: str | Path) -> Grid:
    """The grid of a file.

    :raises UsageError: for anything that is unknown, missing or cannot be used, in the file or one that it names
    """
    path = Path(path)
    given = read_yaml(path)
    if not isinstance(given, dict):
        raise UsageError(f"{path} must hold a grid: keys {', '.join(KEYS)}")
    _known(path, "key", given, KEYS)
    for key in ("environments", "seeds", "contestants"):
        if key not in given:
            raise UsageError(f"{path} has no {key}: a grid is environments x contestants x seeds")
    environments, seeds = _environments(path, given["environments"]), _seeds(path, given["seeds"])
    contestants = _contestants(path, given["contestants"])
    common = {key: _whole(path, key, given[key], low) for key, low in SETTINGS.items() if key in given}
    by_environment = {
        env: _configurations(path, env, {**common, **settings}, contestants) for env, settings in environments.items()
    }
    runs = [Run(seed=seed, **made) for seed in seeds for made_here in by_environment.values() for made in made_here]
    return Grid(tuple(environments), tuple(contestants), tuple(seeds), tuple(runs))


def config_hash(algo: str, hyperparams: Mapping[str, Any], n_timesteps: int, eval_freq: int, n_episodes: int) -> str:
    """Twelve hexadecimal digits that change with whatever changes the result of a run, and with nothing else.

    ``trpo`` and ``sb3_trpo:TRPO`` are the same, as are ``1e3`` and ``1000``, a dictionary and its text. A name for a
    contestant, the order of keys and the version of a package do not count.
    """
    values = {
        key: parse_expression(value, key) if isinstance(value, str) and value.startswith(("dict(", "{")) else value
        for key, value in hyperparams.items()
        if key != "n_timesteps"
    }
    decisive = [ALGORITHMS.get(algo, algo), _canonical(values), n_timesteps, eval_freq, n_episodes]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def _configurations(
    path: Path, env: str, settings: Mapping[str, int], contestants: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Arguments of `Run` without the seed, of every contestant in one environment."""
    entries = {label: _entry(path, env, label, contestant) for label, contestant in contestants.items()}
    n_timesteps = settings["n_timesteps"] if "n_timesteps" in settings else _agreed_steps(path, env, entries)
    evaluation = (settings.get("eval_freq", max(n_timesteps // 20, 1)), settings.get("n_eval_episodes", 20))
    return [
        {
            "env": env,
            "implementation": label,
            "algo": contestants[label]["algo"],
            "hyperparams": {key: value for key, value in entry.items() if key != "n_timesteps"},
            "n_timesteps": n_timesteps,
            "eval_freq": evaluation[0],
            "n_eval_episodes": evaluation[1],
            "config_hash": config_hash(contestants[label]["algo"], entry, n_timesteps, *evaluation),
        }
        for label, entry in entries.items()
    ]


def _entry(path: Path, env: str, label: str, contestant: Mapping[str, Any]) -> Hyperparams:
    file = contestant.get("hyperparams")
    try:
        return load_hyperparams(
            contestant["algo"], env, None if file is None else path.parent / file, contestant.get("overrides")
        )
    except UsageError as error:
        raise UsageError(f"{path}, contestant {label!r} in {env}: {error}") from error


def _agreed_steps(path: Path, env: str, entries: Mapping[str, Hyperparams]) -> int:
    """The steps that all entries of an environment ask for."""
    steps = {label: entry.get("n_timesteps") for label, entry in entries.items()}
    for label, value in steps.items():
        if value is None:
            raise UsageError(f"{path}: {env} has no n_timesteps, nor has the entry of {label!r}: give n_timesteps")
    if len({int(value) for value in steps.values() if value is not None}) > 1:
        wanted = ", ".join(f"{label!r} {value:g}" for label, value in steps.items())
        raise UsageError(f"{path}: entries of {env} have different n_timesteps ({wanted}): give n_timesteps here")
    return int(next(value for value in steps.values() if value is not None))


def _environments(path: Path, given: Any) -> dict[str, dict[str, int]]:
    """Environment -> the settings that stand under it."""
    from sb3_trpo.zoo.models import check_env

    names = list(given) if isinstance(given, list | dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        _refuse(path, "environments", given, "be a list of ids such as [CartPole-v1], or map them to settings")
    if len(set(names)) < len(names):
        _refuse(path, "environments", given, "name each environment once")
    try:
        for name in names:
            check_env(name)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    settings = {name: (given[name] if isinstance(given, dict) else None) or {} for name in names}
    for name, chosen in settings.items():
        if not isinstance(chosen, dict):
            _refuse(path, f"environments: {name}", chosen, "be settings such as {n_timesteps: 1e5}")
        _known(path, f"environments: {name}: key", chosen, SETTINGS)
    return {
        name: {key: _whole(path, f"{name}: {key}", value, SETTINGS[key]) for key, value in chosen.items()}
        for name, chosen in settings.items()
    }


def _seeds(path: Path, given: Any) -> list[int]:
    seeds = given if isinstance(given, list) else list(range(_whole(path, "seeds", given, 1, 10_000)))
    seeds = [_whole(path, "seeds", seed, 0, MAX_SEED) for seed in seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        _refuse(path, "seeds", given, "be a number of seeds, or a list of different ones")
    return seeds


def _contestants(path: Path, given: Any) -> dict[str, dict[str, Any]]:
    """Label -> what stands there."""
    if not isinstance(given, dict) or not given:
        _refuse(path, "contestants", given, "map labels to contestants such as {algo: trpo}")
    found = {str(label): contestant for label, contestant in given.items()}
    for label, contestant in found.items():
        if not label.strip() or not label.isprintable():
            _refuse(path, "contestants", given, "have labels of printable signs")
        name = f"contestants: {label}"
        if not isinstance(contestant, dict) or not isinstance(contestant.get("algo"), str):
            _refuse(path, name, contestant, "have an algorithm, such as {algo: trpo}")
        _known(path, f"{name}: key", contestant, CONTESTANT_KEYS)
        if not isinstance(contestant.get("hyperparams", ""), str):
            _refuse(path, f"{name}: hyperparams", contestant["hyperparams"], "be a file; single values: overrides")
        if not isinstance(contestant.get("overrides", {}), dict):
            _refuse(path, f"{name}: overrides", contestant["overrides"], "be hyperparameters such as {n_steps: 512}")
    return found


def _whole(path: Path, name: str, value: Any, low: int, high: int | None = None) -> int:
    try:
        return whole(name, value, low, high)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _known(path: Path, what: str, given: Mapping[Any, Any], known: Any) -> None:
    for key in given:
        if key not in known:
            raise UsageError(f"{path}: {what} {key!r} is unknown{did_you_mean(key, known)}")


def _refuse(path: Path, name: str, value: Any, advice: str) -> NoReturn:
    raise UsageError(f"{path}: {name}={value!r} must {advice}")


def _canonical(value: Any) -> Any:
    """The same JSON for values that mean the same."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
