"""Algorithms and other classes by name: ours, RL Zoo's short names, and any class of Stable-Baselines3's interface.

trpo                            sb3_trpo.TRPO
trpo_mask, trpo_lstm,
trpo_mask_lstm                  its variants with action masks, with a memory, with both
ppo, a2c                        stable_baselines3's
ppo_mask, ppo_lstm              sb3_contrib's MaskablePPO and RecurrentPPO
sb3_contrib:TRPO                module and class, separated by a colon
"""

import importlib
import inspect
from typing import TYPE_CHECKING, TypeVar

from sb3_trpo.zoo.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

T = TypeVar("T")

ALGORITHMS = {
    "trpo": "sb3_trpo:TRPO",
    "trpo_mask": "sb3_trpo:MaskableTRPO",
    "trpo_lstm": "sb3_trpo:RecurrentTRPO",
    "trpo_mask_lstm": "sb3_trpo:MaskableRecurrentTRPO",
    "ppo": "stable_baselines3:PPO",
    "a2c": "stable_baselines3:A2C",
    "ppo_mask": "sb3_contrib:MaskablePPO",
    "ppo_lstm": "sb3_contrib:RecurrentPPO",
}
"""Short name -> where the class is."""

OURS = ("trpo", "trpo_mask", "trpo_lstm", "trpo_mask_lstm")
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
    if not (module and separator and name):
        raise UsageError(f"algorithm {algo!r} is unknown{did_you_mean(algo, ALGORITHMS)} (or write module:Class)")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, TypeError) as error:  # a TypeError for relative names
        raise UsageError(f"algorithm {algo!r}: {error}; install it, or choose another") from error
    if not (isinstance(found, type) and issubclass(found, BaseAlgorithm)):
        classes = vars(importlib.import_module(module)).items()
        known = [key for key, cls in classes if isinstance(cls, type) and issubclass(cls, BaseAlgorithm)]
        raise UsageError(f"algorithm {algo!r}: {module} has no algorithm {name!r}{did_you_mean(name, known)}")
    return found


def argument_names(algo: str) -> list[str]:
    """Names of the constructor arguments that a hyperparameter file may set.

    Those of a class that passes ``**kwargs`` on are its own and its parent's.
    """
    names: dict[str, None] = {}
    for cls in algorithm_class(algo).__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)]
        names.update(dict.fromkeys(p.name for p in named))
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in names if name not in SET_BY_THE_CALLER]


def default_policy(algo: str) -> str:
    """The policy where none is named: ``MlpPolicy``, ``MlpLstmPolicy``, ..., the first that the algorithm knows."""
    return next(iter(algorithm_class(algo).policy_aliases), "MlpPolicy")


def import_class(path: str, name: str, base: type[T]) -> type[T]:
    """The class at ``module.Class``.

    :param name: of the hyperparameter, for the message
    :raises UsageError: when it does not exist or is no subclass of ``base``
    """
    module, _, attribute = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{name}={path!r} cannot be imported ({error}): write module.Class") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UsageError(f"{name}={path!r} must be a subclass of {base.__name__}")
    return found
