"""Action masks at play: an algorithm that acts by them is told at every step which actions the environment allows.

Evaluations and `enjoy` ask for a model's actions through `predictor`, and so need not know whether it has masks, a
memory, or both. sb3-contrib's ``evaluate_policy`` passes masks, but then never the memory's state.
"""

import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.zoo.errors import UsageError


def predictor(model: BaseAlgorithm, env: VecEnv) -> PolicyPredictor:
    """What chooses the actions of ``model`` in ``env``: the model itself, or with the masks of the environment.

    :raises UsageError: when the algorithm acts by masks and the environment has none
    """
    if not takes_masks(type(model)):
        return model
    check_masks(type(model), env)
    return _Masked(model, env)


def takes_masks(algorithm: type[BaseAlgorithm]) -> bool:
    """Whether an algorithm acts by masks, told by the ``action_masks`` of its ``predict``."""
    return "action_masks" in inspect.signature(algorithm.predict).parameters


def check_masks(algorithm: type[BaseAlgorithm], env: VecEnv) -> None:
    """Refuse an environment without masks for an algorithm that acts by them.

    :raises UsageError: which says how to give it masks
    """
    if takes_masks(algorithm) and not is_masking_supported(env):
        raise UsageError(
            f"{algorithm.__name__} needs an environment with a method action_masks(): set env_wrapper to "
            "{sb3_trpo.zoo.wrappers.MasksFromMethod: {method: NAME}} if it has one by another name, to "
            "sb3_trpo.zoo.wrappers.MasksFromInfo if info['action_mask'] holds them, or to a wrapper of your own "
            "such as a subclass of sb3_contrib.common.wrappers.ActionMasker"
        )


class _Masked(PolicyPredictor):
    """A model that is told the masks of ``env`` whenever it is asked for actions."""

    def __init__(self, model: Any, env: VecEnv):
        self._model, self._env = model, env

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        masks = get_action_masks(self._env)
        actions, next_state = self._model.predict(
            observation, state=state, episode_start=episode_start, deterministic=deterministic, action_masks=masks
        )
        return actions, next_state
