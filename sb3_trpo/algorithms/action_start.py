"""Discrete actions that do not start at zero.

A policy chooses among options 0 ... n - 1, and so do its buffer, its distribution and its action masks. The environment
of ``Discrete(n, start=s)`` or ``MultiDiscrete(..., start=s)`` takes start + option. What leaves the algorithm, by a
step of a rollout or by `predict`, is for the environment. Differs from Stable-Baselines3, which ignores the start.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.core.activations import Array


def has_start(space: spaces.Space[Any]) -> bool:
    """Whether the environment's actions are others than the policy's options."""
    return isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and bool(np.any(space.start))


def for_environment(options: Array, space: Any) -> Array:
    """The environment's actions for a policy's ``options`` (E, ...)."""
    return np.asarray(options + space.start) if has_start(space) else options


@contextmanager
def options_taken(env: VecEnv, space: Any) -> Iterator[None]:
    """Inside the block ``env`` takes a policy's options as actions, for loops that know nothing of a start."""
    if not has_start(space):
        yield
        return
    own = vars(env).get("step_async")

    def step_async(env: VecEnv, options: Array) -> None:
        actions = for_environment(options, space)
        type(env).step_async(env, actions) if own is None else own(actions)

    env.step_async = MethodType(step_async, env)  # type: ignore[method-assign]  # of a copy's own in a copy
    try:
        yield
    finally:
        del env.step_async
        if own is not None:
            env.step_async = own  # type: ignore[method-assign]
