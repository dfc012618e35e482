"""Looking at what environments give before anything else does.

That is below all wrappers of the vectorised environment: one NaN would spoil the running statistics of `VecNormalize`
for good. A look costs about one microsecond a step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from traceback import walk_tb
from types import MethodType
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.algorithms.faults import (
    ExperienceError,
    check_observation,
    check_observations,
    check_rewards,
)

FEW = 64
"""Numbers up to which Python looks at them faster than numpy does."""

Now = Callable[[], int | None]
Method = Callable[..., Any]


@contextmanager
def watched(env: VecEnv, now: Now = lambda: None) -> Iterator[None]:
    """Inside the block, what the environments below all wrappers of ``env`` give is refused where it is no experience.

    :param now: the step of the rollout that it belongs to
    :raises ExperienceError: from ``step`` and ``reset`` of ``env``
    """
    inner = env.unwrapped
    own = {name: vars(inner)[name] for name in WATCHES if name in vars(inner)}
    for name, watch in WATCHES.items():
        if hasattr(inner, name):
            method = _unbound(own[name]) if name in own else getattr(type(inner), name)
            checked = watch(method, inner.observation_space, now)
            setattr(inner, name, MethodType(checked, inner))  # of a copy's own in a copy
    try:
        yield
    finally:
        for name in WATCHES:
            vars(inner).pop(name, None)
        vars(inner).update(own)


def _unbound(method: Method) -> Method:
    """A method that an object has of its own, in the form of one of its class."""
    if isinstance(method, MethodType):
        return method.__func__
    return lambda env, *args: method(*args)


def _watched_step_wait(step_wait: Method, space: spaces.Space[Any], now: Now) -> Method:
    shape, array = space.shape, np.ndarray

    def checked(env: VecEnv) -> Any:
        try:
            observations, rewards, dones, infos = result = step_wait(env)
        except (ValueError, TypeError) as error:
            _explain(error, space, now())
            raise
        is_fine = (
            type(observations) is array
            and observations.size <= FEW
            and observations.shape[1:] == shape
            and rewards.dtype != object  # those of other processes may hold None
            # a sum is finite only if all numbers are
            and isfinite(sum(observations.ravel().tolist()) + sum(rewards.tolist()))
        )
        if not is_fine:
            check_rewards(rewards, now())
            check_observations(observations, space, now())
        if True in dones.tolist():
            for index in np.flatnonzero(dones):
                if "terminal_observation" in infos[index]:
                    check_observation(infos[index]["terminal_observation"], space, int(index), now())
        return result

    return checked


def _watched_reset(reset: Method, space: spaces.Space[Any], now: Now) -> Method:
    def checked(env: VecEnv) -> Any:
        try:
            observations = reset(env)
        except (ValueError, TypeError) as error:
            _explain(error, space, None)
            raise
        check_observations(observations, space, None)
        return observations

    return checked


def _watched_save_obs(save_obs: Method, space: spaces.Space[Any], now: Now) -> Method:
    """Of `DummyVecEnv`, whose buffer would take the shape (1,) for any other."""

    def checked(env: VecEnv, env_idx: int, obs: Any) -> None:
        check_observation(obs, space, env_idx, now())
        save_obs(env, env_idx, obs)

    return checked


WATCHES = {"step_wait": _watched_step_wait, "reset": _watched_reset, "_save_obs": _watched_save_obs}
"""Methods of vectorised environments by which experience comes in -> the same with a look at it."""


def _explain(error: Exception, space: spaces.Space[Any], step: int | None) -> None:
    """Say which environment gave what broke a method, where the frames of ``error`` still hold it.

    An absent reward breaks whatever computes with it first, often `Monitor`; observations of unequal shapes break the
    stacking of those that other processes sent.
    """
    if isinstance(error, ExperienceError):
        return
    frames = [frame.f_locals for frame, _ in walk_tb(error.__traceback__)]
    found = {name: value for variables in frames for name, value in variables.items()}
    for index, observation in enumerate(found.get("obs_list", ())):  # of `SubprocVecEnv`
        check_observation(observation, space, index, step)
    if frames[-1].get("reward", 0.0) is None:
        index = found.get("env_idx", 0)  # of `DummyVecEnv`
        raise ExperienceError("reward", index, step, "is None: step() must return a finite number") from error
