"""Algorithms by name: ours, RL Zoo's short names, and any class of Stable-Baselines3's interface.

trpo                            sb3_trpo.TRPO
ppo, a2c                        stable_baselines3's
sb3_contrib:TRPO                module and class, separated by a colon
"""

import importlib
import inspect
from typing import TYPE_CHECKING

from sb3_trpo.zoo.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

ALGORITHMS = {
    "trpo": "sb3_trpo:TRPO",
    "ppo": "stable_baselines3:PPO",
    "a2c": "stable_baselines3:A2C",
}
"""Short name -> where the class is."""

OURS = ("trpo",)
"""The short names of this package: those with hyperparameter files and search spaces of their own."""

SET_BY_THE_CALLER = ("self", "env", "_init_setup_model", "seed", "device", "verbose", "tensorboard_log")
"""Constructor arguments that have options of their own and no place in a hyperparameter file."""


def algorithm_class(algo: str) -> "type[BaseAlgorithm]":
    """The class that ``algo`` names.

    :param algo: a short name, or ``module:Class``
    :raises UsageError: when there is no such class, or it is no algorithm of Stable-Baselines3's interface
    """
    from stable_baselines3.common.base_class import BaseAlgorithm

    module, separator, name = ALGORITHMS.get(algo, algo).partition(":")
    if not separator:
        raise UsageError(f"algorithm {algo!r} is unknown{did_you_mean(algo, ALGORITHMS)} (or write module:Class)")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UsageError(f"algorithm {algo!r}: {error}; install it, or choose another") from error
    if not (isinstance(found, type) and issubclass(found, BaseAlgorithm)):
        known = [key for key, value in vars(importlib.import_module(module)).items() if isinstance(value, type)]
        raise UsageError(f"algorithm {algo!r}: {module} has no algorithm {name!r}{did_you_mean(name, known)}")
    return found


def argument_names(algo: str) -> list[str]:
    """Names of the constructor arguments that a hyperparameter file may set."""
    parameters = inspect.signature(algorithm_class(algo)).parameters
    return [name for name in parameters if name not in SET_BY_THE_CALLER]
