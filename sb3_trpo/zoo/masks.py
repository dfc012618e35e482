"""Algorithms that act by masks, and environments that have none for them."""

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.callbacks.episodes import has_masks, takes_masks
from sb3_trpo.zoo.errors import UsageError


def check_masks(algorithm: type[BaseAlgorithm], env: VecEnv) -> None:
    """Refuse an environment without masks for an algorithm that acts by them.

    :raises UsageError: which says how to give it masks
    """
    if takes_masks(algorithm) and not has_masks(env):
        raise UsageError(
            f"{algorithm.__name__} needs an environment with a method action_masks(): set env_wrapper to "
            "{sb3_trpo.zoo.wrappers.MasksFromMethod: {method: NAME}} if it has one by another name, to "
            "sb3_trpo.zoo.wrappers.MasksFromInfo if info['action_mask'] holds them, or to a wrapper of your own "
            "such as a subclass of sb3_contrib.common.wrappers.ActionMasker"
        )
