"""A rollout that nothing can be learned from is refused: the weights stay those of the last update.

What the environments give is looked at when they give it (`sb3_trpo.algorithms.watch`); what the algorithm saw of it,
and what its critic made of it, before the update. The next `learn` begins with a reset.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.algorithms.faults import ExperienceError, check_observations, is_finite, where_not_finite
from sb3_trpo.algorithms.watch import watched

if TYPE_CHECKING:
    from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm

LARGEST_REWARD = 1e15
"""The squares of returns of larger rewards, which the critic is fitted by, may leave the range of float32."""

FOUND_AFTERWARDS = {
    "values": ("value", "by the critic"),
    "log_probs": ("log-probability", "of the action taken"),
    "rewards": ("reward", "with what the critic expects after a time limit"),
    "advantages": ("advantage", "from rewards and values too large to add up"),
}
"""Arrays (T, E) of a buffer -> what their numbers are called, and more about them."""


@contextmanager
def guarded(algorithm: "TrustRegionAlgorithm", env: VecEnv, buffer: RolloutBuffer) -> Iterator[None]:
    """Refuse a rollout into ``buffer``, collected inside the block, that nothing can be learned from.

    :raises ExperienceError: at the step in question, or at the end of the block
    """
    try:
        with watched(env, lambda: buffer.pos):
            try:
                yield
            except (ValueError, RuntimeError):  # torch's, for one, of a distribution of what a wrapper made NaN
                _check_observations_seen(algorithm, buffer.pos)
                raise
        if buffer.full:
            _check_observations_seen(algorithm, buffer.pos)
            check_rollout(buffer)
            _warn_of_scale(algorithm, buffer)
    except ExperienceError:
        algorithm._last_obs = None
        raise


def check_rollout(buffer: RolloutBuffer) -> None:
    """Refuse a full rollout whose numbers are not finite.

    :raises ExperienceError: naming the first of them
    """
    observations: Any = buffer.observations
    parts = observations if isinstance(observations, dict) else {None: observations}
    for key, array in parts.items():
        if not is_finite(array):
            step, env, *position = where_not_finite(array)
            what = "observation" if key is None else f"observation {key!r}"
            raise ExperienceError(
                what, env, _step_before(step), f"is not finite at index {position} for the algorithm: look at wrappers"
            )
    for name, (what, of_which) in FOUND_AFTERWARDS.items():
        array = getattr(buffer, name)
        if not is_finite(array):
            step, env = where_not_finite(array)
            raise ExperienceError(
                what, env, step, f"is {array[step, env]}, {of_which}: scale the rewards, or lower the learning rate"
            )


def _check_observations_seen(algorithm: "TrustRegionAlgorithm", step: int) -> None:
    """Those that the algorithm would act on at ``step``."""
    if algorithm._last_obs is not None:
        check_observations(algorithm._last_obs, algorithm.observation_space, _step_before(step))


def _step_before(step: int) -> int | None:
    """The step that returned what is acted on at ``step``."""
    return step - 1 if step else None


def _warn_of_scale(algorithm: "TrustRegionAlgorithm", buffer: RolloutBuffer) -> None:
    """Once for each model."""
    largest = float(np.abs(buffer.rewards).max())
    if largest > LARGEST_REWARD and not algorithm._has_warned_of_scale:
        algorithm._has_warned_of_scale = True
        warnings.warn(
            f"the reward scale is too large: one of {largest:.3g} was met, and the critic cannot be fitted to returns "
            "of that size in float32: divide the rewards, or wrap the environment in VecNormalize",
            stacklevel=4,
        )
