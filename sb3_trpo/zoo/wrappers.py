"""Wrappers for ``env_wrapper`` in hyperparameter files: where action masks come from, and what is hidden."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.wrappers import ActionMasker

from sb3_trpo.zoo.errors import UsageError


class MasksFromMethod(ActionMasker):
    """Gives ``action_masks()`` from a method of the environment with another name.

    Differs from `ActionMasker` in that the name is looked for behind other wrappers, too: Gymnasium's own are always
    there, and since its version 1.0 they hide what they wrap.

    :param method: name of a method without arguments that returns the mask
    :raises UsageError: when the environment has no such method
    """

    def __init__(self, env: gym.Env[Any, Any], method: str):
        if not (env.has_wrapper_attr(method) and callable(env.get_wrapper_attr(method))):
            raise UsageError(f"method={method!r} must be the name of a method of {env.unwrapped}")
        super().__init__(env, lambda wrapped: wrapped.get_wrapper_attr(method)())


class MasksFromInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Gives ``action_masks()`` from what ``reset`` and ``step`` tell in ``info``, as Gymnasium's Taxi does.

    :param key: under which the mask stands there
    """

    def __init__(self, env: gym.Env[Any, Any], key: str = "action_mask"):
        super().__init__(env)
        self.key = key
        self._masks: NDArray[np.bool_] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment does."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._see(info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment does."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._see(info)
        return observation, reward, terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are allowed now, one truth value each.

        :raises UsageError: before the first reset
        """
        if self._masks is None:
            raise UsageError(f"the masks of {self.unwrapped} are known after reset(): call it first")
        return self._masks

    def _see(self, info: dict[str, Any]) -> None:
        if self.key not in info:
            raise UsageError(f"key={self.key!r} must be in the info of {self.unwrapped}, which holds {sorted(info)}")
        self._masks = np.asarray(info[self.key]).astype(bool)


class HideObservations(gym.ObservationWrapper[Any, Any, Any]):
    """Sets numbers of an observation to zero: what is hidden must be remembered, or inferred from what was seen before.

    :param indices: which numbers of the observation, a vector, are hidden
    :raises UsageError: for observations that are no vectors, and indices that they do not have
    """

    def __init__(self, env: gym.Env[Any, Any], indices: Sequence[int]):
        super().__init__(env)
        space = env.observation_space
        if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
            raise UsageError(f"observations of {env.unwrapped} must be vectors to hide numbers of them, not {space}")
        size = space.shape[0]
        if not all(isinstance(index, int) and 0 <= index < size for index in indices):
            raise UsageError(f"indices={indices!r} must be whole numbers in [0, {size - 1}]")
        self._hidden = list(indices)

    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        """The observation with zeros in it."""
        seen = np.array(observation)
        seen[self._hidden] = 0
        return seen
