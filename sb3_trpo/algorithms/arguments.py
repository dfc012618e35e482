"""Checks of constructor arguments: a `ValueError` that names the argument, its value, and what would be right."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo.algorithms.experience import STRETCH
from sb3_trpo.algorithms.policies import ALGORITHM_FOR, Kind, kind_of

Check = Callable[[str, Any], None]


def check_integer(name: str, value: Any, low: int, high: int | None = None, why: str = "") -> None:
    """Refuse anything but an integer in [``low``, ``high``]."""
    allowed = f">= {low}" if high is None else f"in [{low}, {high}]"
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):
        raise ValueError(f"{name}={value!r} must be an integer {allowed}{why and ': ' + why}")


def check_number(name: str, value: Any, allowed: str, accept: Callable[[float], bool]) -> None:
    """Refuse anything but a finite real number that ``accept`` accepts; ``allowed`` says which those are."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and accept(float(value))):
        raise ValueError(f"{name}={value!r} must be a finite number {allowed}")


def check_schedule(name: str, value: Any, positive: bool = False) -> None:
    """Refuse anything but a number or a schedule: a function of the remaining progress, which falls from 1 to 0.

    A schedule may reach zero; one that starts at zero, is negative or not finite is refused here, as far as it can
    be seen at the start, the middle and the end of training.
    """
    if not callable(value):
        least = "> 0" if positive else ">= 0"
        check_number(
            name,
            value,
            f"{least}, or a function of the remaining progress",
            lambda x: x > 0 or (x == 0 and not positive),
        )
        return
    for progress in (1.0, 0.5, 0.0):
        at = f"{name}({progress})"
        try:
            current = float(value(progress))
        except Exception as error:
            raise ValueError(f"{name}={value!r} must have a value at remaining progress {progress}: {error}") from error
        check_number(at, current, ">= 0", lambda x: x >= 0)
        if positive and progress == 1.0:
            check_number(at, current, "> 0 at the start of training", lambda x: x > 0)


def check_any_schedule(name: str, value: Any) -> None:
    """Refuse anything but a finite number or a schedule of such, of either sign."""
    if not callable(value):
        check_number(name, value, "or a function of the remaining progress", lambda x: True)
        return
    for progress in (1.0, 0.5, 0.0):
        try:
            current = float(value(progress))
        except Exception as error:
            raise ValueError(f"{name}={value!r} must have a value at remaining progress {progress}: {error}") from error
        check_number(f"{name}({progress})", current, "", lambda x: True)


def check_type(name: str, value: Any, kind: type | tuple[type, ...], article: str) -> None:
    """Refuse anything but an instance of ``kind``."""
    if not isinstance(value, kind):
        raise ValueError(f"{name}={value!r} must be {article}")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Refuse anything but one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")


def check_class(name: str, value: Any, base: type) -> None:
    """Refuse anything but a subclass of ``base``."""
    if not (isinstance(value, type) and issubclass(value, base)):
        raise ValueError(f"{name}={value!r} must be a subclass of {base.__name__}")


def check_device(name: str, value: Any) -> None:
    """Refuse what torch does not know as a device."""
    try:
        th.device("cpu" if value == "auto" else value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name}={value!r} must be 'auto' or a torch device such as 'cuda': {error}") from None


LARGEST_LOG_STD = 20.0
"""Beyond it, inverse variances and their products leave the range of float32."""


def check_policy_kwargs(name: str, value: Any) -> None:
    """Refuse what is no dictionary, and a first exploration that no arithmetic can follow."""
    check_type(name, value, dict, "a dictionary of keyword arguments")
    if "log_std_init" in value:
        given, allowed = value["log_std_init"], f"in [{-LARGEST_LOG_STD:g}, {LARGEST_LOG_STD:g}]"
        check_number(f"{name}['log_std_init']", given, allowed, lambda x: abs(x) <= LARGEST_LOG_STD)


def check_policy_class(policy: Any, kind: Kind, algorithm: str) -> None:
    """Refuse a policy class that ``algorithm``, which trains policies of ``kind``, cannot train."""
    if not (isinstance(policy, type) and issubclass(policy, (ActorCriticPolicy, MaskableActorCriticPolicy))):
        base = "MaskableActorCriticPolicy" if kind == Kind(masks=True, memory=False) else "ActorCriticPolicy"
        raise ValueError(f"policy={policy!r} must be a subclass of {base}")
    if kind_of(policy) != kind:
        right = ALGORITHM_FOR[kind_of(policy)]
        raise ValueError(
            f"policy={policy.__name__} is one for {right}: train it by that, or give {algorithm} one of its own kind"
        )


PPO_ARGUMENTS = {
    "n_epochs": "the policy takes one natural-gradient step per rollout, the critic n_critic_updates passes",
    "clip_range": "the policy is held back by a trust region of the radius target_kl",
    "clip_range_vf": "critic='gauss_newton' holds the values back by a trust region of their own",
    "vf_coef": "the critic has an optimiser of its own, with learning_rate",
}
"""Arguments of PPO that have no place here -> what to use instead."""

Init = TypeVar("Init", bound=Callable[..., None])


def explaining_ppo_arguments(init: Init) -> Init:
    """Have a constructor refuse PPO's arguments with a sentence that says what to use instead.

    :raises TypeError: as for any argument that does not exist
    """

    @wraps(init)
    def explained(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name in PPO_ARGUMENTS:
                raise TypeError(f"{type(self).__name__} has no argument {name!r}: {PPO_ARGUMENTS[name]}")
        init(self, *args, **kwargs)

    return explained  # type: ignore[return-value]


def optional(check: Check) -> Check:
    """The same check, which None passes."""
    return lambda name, value: None if value is None else check(name, value)


def _integer(low: int) -> Check:
    return partial(check_integer, low=low)


def _number(allowed: str, accept: Callable[[float], bool]) -> Check:
    return partial(check_number, allowed=allowed, accept=accept)


_boolean = partial(check_type, kind=(bool, np.bool_), article="True or False")
check_dictionary = partial(check_type, kind=dict, article="a dictionary of keyword arguments")

CHECKS: dict[str, Check] = {
    "learning_rate": check_schedule,
    "n_steps": _integer(1),
    "batch_size": _integer(1),
    "gamma": _number("in [0, 1]", lambda x: 0 <= x <= 1),
    "cg_max_steps": _integer(1),
    "cg_damping": check_schedule,
    "line_search_shrinking_factor": _number("in (0, 1)", lambda x: 0 < x < 1),
    "line_search_max_iter": _integer(1),
    "n_critic_updates": _integer(0),
    "gae_lambda": _number("in [0, 1]", lambda x: 0 <= x <= 1),
    "use_sde": _boolean,
    "sde_sample_freq": _integer(-1),
    "rollout_buffer_class": optional(partial(check_class, base=RolloutBuffer)),
    "rollout_buffer_kwargs": optional(check_dictionary),
    "normalize_advantage": _boolean,
    "target_kl": partial(check_schedule, positive=True),
    "sub_sampling_factor": _integer(1),
    "stats_window_size": _integer(1),
    "tensorboard_log": optional(
        partial(check_type, kind=(str, os.PathLike), article="a folder name, or None for no log")
    ),
    "policy_kwargs": optional(check_policy_kwargs),
    "verbose": lambda name, value: None if isinstance(value, bool) else check_integer(name, value, 0),
    "seed": optional(_integer(0)),
    "device": check_device,
    "cg_tolerance": _number("in [0, 1)", lambda x: 0 <= x < 1),
    "fast_rollout": _boolean,
    "cg_preconditioner": partial(check_choice, choices=("kronecker", None)),
    "ent_coef": check_schedule,
    "entropy_floor": optional(check_any_schedule),
    "reuse": _integer(1),
    "max_grad_norm": optional(_number("> 0, or None for no limit", lambda x: x > 0)),
}


def check_arguments(values: Mapping[str, Any]) -> None:
    """Refuse what cannot train, before the first environment step; names without a check are passed over."""
    for name, check in CHECKS.items():
        if name in values:
            check(name, values[name])


def check_rollout_size(n_steps: int, n_envs: int, sub_sampling_factor: int, normalize_advantage: bool) -> None:
    """Refuse a rollout too short for what is to be done with it."""
    if normalize_advantage and n_steps * n_envs < 2:
        raise ValueError(
            f"n_steps * n_envs = {n_steps} * {n_envs} must be greater than 1 to standardise advantages: "
            "raise n_steps, or pass normalize_advantage=False"
        )
    check_integer("sub_sampling_factor", sub_sampling_factor, 1, n_steps * n_envs, "the rollout is no longer")


def check_reuse(reuse: int, has_memory: bool) -> None:
    """Refuse to use again what would have to be remembered anew: the sequences of another policy's memory."""
    if reuse > 1 and has_memory:
        raise ValueError(f"reuse={reuse!r} is for policies without memory: leave it at 1")


def check_holdout(fraction: float, n_steps: int, n_envs: int, has_memory: bool) -> None:
    """Refuse a rollout of which nothing could be kept aside."""
    if fraction == 0.0:
        return
    if has_memory and n_envs < 2:
        raise ValueError(
            f"{fraction:g} of the rollout is to be kept aside, in whole sequences, and one environment may give but "
            "one: use n_envs >= 2"
        )
    if n_envs * math.ceil(n_steps / STRETCH) < 4:
        raise ValueError(
            f"{fraction:g} of the rollout is to be kept aside, in stretches of up to {STRETCH} steps, at least two on "
            f"either side, and n_steps * n_envs = {n_steps} * {n_envs} may be fewer: raise n_steps"
        )


def check_groups(groups: int, n_envs: int, has_memory: bool) -> None:
    """Refuse a rollout that cannot be cut into groups, which would all be one."""
    if groups and has_memory and n_envs < 2:
        raise ValueError(
            f"the rollout is to be cut into groups={groups}, of whole sequences, and one environment may give but one: "
            "use n_envs >= 2"
        )


ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Those that a policy of Stable-Baselines3 can act in."""


def check_action_space(space: Any, allowed: tuple[type, ...] = ACTION_SPACES, algorithm: str = "the algorithm") -> None:
    """Refuse action spaces that no policy of ``algorithm`` can act in."""
    sentence = f"action space {space} "
    if not (isinstance(space, allowed) and isinstance(space, ACTION_SPACES)):
        names = [cls.__name__ for cls in allowed]
        raise ValueError(f"{sentence}is not supported by {algorithm}: use {', '.join(names[:-1])} or {names[-1]}")
    if 0 in (space.shape or ()):
        raise ValueError(sentence + "has nothing to choose: give it at least one dimension")
    if isinstance(space, spaces.Box):
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ValueError(sentence + "must be bounded: wrap the environment in gymnasium.wrappers.RescaleAction")
        if not np.issubdtype(space.dtype, np.floating):
            raise ValueError(sentence + "must have a floating-point dtype: use MultiDiscrete for integer actions")
    if isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)) and len(space.shape or ()) != 1:
        raise ValueError(sentence + "must be one-dimensional: flatten it in an action wrapper")


def check_exploration(use_sde: bool, space: Any) -> None:
    """Refuse state-dependent exploration where there is nothing continuous to explore."""
    if use_sde and not isinstance(space, spaces.Box):
        raise ValueError(f"use_sde={use_sde!r} is for continuous actions, and {space} has none: leave it False")


def check_action_noise(action_noise: Any, use_sde: bool, space: Any) -> None:
    """Refuse a noise process where nothing continuous is explored, or something else explores."""
    if action_noise is None:
        return
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"action_noise={action_noise!r} is for continuous actions, and {space} has none: leave it None"
        )
    if use_sde:
        raise ValueError(f"action_noise={action_noise!r} and use_sde=True are two ways to explore: choose one of them")


def check_entropy(ent_coef: Any, entropy_floor: Any, entropy: Any) -> None:
    """Refuse an objective with an entropy that has no closed form: ``entropy`` is None then."""
    if entropy is None and (callable(ent_coef) or ent_coef != 0.0 or entropy_floor is not None):
        raise ValueError(
            f"ent_coef={ent_coef!r} and entropy_floor={entropy_floor!r} need an entropy in closed form, and the "
            "policy's action distribution has none: leave them at 0 and None, or do not squash the actions"
        )


def check_observation_space(space: Any) -> None:
    """Refuse observation spaces that no policy of Stable-Baselines3 can see."""
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    for part in parts:
        if not isinstance(part, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
            raise ValueError(
                f"observation space {space} is not supported: use Box, Discrete, MultiDiscrete, MultiBinary, "
                "or one flat Dict of them"
            )
        if isinstance(part, spaces.MultiDiscrete) and len(part.shape) != 1:
            raise ValueError(f"observation space {space} must be one-dimensional: flatten it in a wrapper")


@contextmanager
def as_value_errors(given: str) -> Iterator[None]:
    """Turn what Stable-Baselines3 raises for arguments it cannot use into the `ValueError` that users are promised."""
    try:
        yield
    except (AssertionError, RuntimeError, TypeError, AttributeError) as error:  # NotImplementedError is a RuntimeError
        reason = " ".join(str(argument).strip() for argument in error.args)
        raise ValueError(f"{given} cannot be used: {reason}") from error
