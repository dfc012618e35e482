"""What is no experience: rewards, observations and values that are not finite, absent or of a wrong shape."""

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_trpo.core.activations import Array


class ExperienceError(ValueError):
    """``what`` (reward, observation, value ...) of environment ``env`` at ``step`` cannot be learned from.

    Steps are those of the rollout, from 0; an observation is of the step that returned it, or of a reset (None).
    """

    def __init__(self, what: str, env: int, step: int | None, problem: str):
        super().__init__(what, env, step, problem)  # what a copy in another process is made from
        self.what, self.env, self.step, self.problem = what, env, step, problem

    def __str__(self) -> str:
        """The sentence that a user reads."""
        when = "at a reset" if self.step is None else f"at step {self.step} of the rollout"
        return f"the {self.what} of environment {self.env} {when} {self.problem}"


def check_rewards(rewards: Any, step: int | None) -> None:
    """Refuse rewards (E,) that are not finite numbers."""
    if not is_finite(rewards):
        numbers = np.asarray(rewards, dtype=float)  # None becomes NaN
        env = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise ExperienceError(
            "reward", env, step, f"is {numbers[env]}: step() must return a finite number within float32, and not None"
        )


def check_observations(observations: Any, space: spaces.Space[Any], step: int | None) -> None:
    """Refuse observations (E, ...) of another shape than ``space`` has, or that are not finite."""
    if isinstance(space, spaces.Dict) and isinstance(observations, dict):
        for key, part in observations.items():
            if key in space.spaces:
                _check_part(part, space.spaces[key], step, f"observation {key!r}")
    else:
        _check_part(observations, space, step, "observation")


def check_observation(observation: Any, space: spaces.Space[Any], env: int, step: int | None) -> None:
    """Refuse the observation of one environment, which need not be an array.

    :raises ExperienceError: also where a part of it is missing
    """
    if isinstance(space, spaces.Dict):
        missing = [key for key in space.spaces if not isinstance(observation, dict) or key not in observation]
        if missing:
            raise ExperienceError("observation", env, step, f"has no {missing[0]!r}, which the observation space has")
        for key, part in space.spaces.items():
            _check_single(observation[key], part, env, step, f"observation {key!r}")
    else:
        _check_single(observation, space, env, step, "observation")


def is_finite(numbers: Any) -> bool:
    """Whether an array holds neither NaN nor infinity; what is no array, or of whole numbers, is not looked at.

    The product with itself is the quickest look at all numbers. It is finite only if they are.
    """
    if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "fO":
        return True
    if numbers.dtype.kind == "O":
        numbers = numbers.astype(float)
    return math.isfinite(np.vdot(numbers, numbers)) or bool(np.isfinite(numbers).all())


def where_not_finite(numbers: Array) -> tuple[int, ...]:
    """The index of the first number that is not finite."""
    return tuple(int(i) for i in np.argwhere(~np.isfinite(numbers))[0])


def _check_part(observations: Any, space: spaces.Space[Any], step: int | None, what: str) -> None:
    if not isinstance(observations, np.ndarray) or isinstance(space, spaces.Tuple):
        return
    if observations.shape[1:] != space.shape:
        raise ExperienceError(what, 0, step, _of_shape(observations.shape[1:], space))
    if not is_finite(observations):
        env, *position = where_not_finite(observations)
        raise ExperienceError(what, env, step, _of_value(observations[(env, *position)], position))


def _check_single(observation: Any, space: spaces.Space[Any], env: int, step: int | None, what: str) -> None:
    if observation is None:
        raise ExperienceError(what, env, step, f"is None, the observation space is {space}")
    if np.shape(observation) != space.shape:
        raise ExperienceError(what, env, step, _of_shape(np.shape(observation), space))
    numbers = np.asarray(observation)
    if not is_finite(numbers):
        position = where_not_finite(numbers)
        raise ExperienceError(what, env, step, _of_value(numbers[position], position))


def _of_shape(shape: tuple[int, ...], space: spaces.Space[Any]) -> str:
    return f"has the shape {shape}, the observation space has {space.shape}: make them agree"


def _of_value(value: Any, position: Any) -> str:
    return f"holds {value} at index {list(position)}: look for what makes it in step() or reset()"
