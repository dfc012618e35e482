"""Checks of constructor arguments: a `ValueError` that names the argument, its value, and what would be right."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo.core.trust_region import AdaptiveRadius, FixedRadius, RadiusController, ScheduledRadius

RADIUS_ALIASES: dict[str, type[RadiusController]] = {
    "fixed": FixedRadius,
    "scheduled": ScheduledRadius,
    "adaptive": AdaptiveRadius,
}

INTEGERS = {  # the least that is allowed
    "n_steps": 1,
    "batch_size": 1,
    "cg_max_steps": 1,
    "line_search_max_iter": 1,
    "n_critic_updates": 0,
    "sde_sample_freq": -1,
}
NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "gamma": ("in [0, 1]", lambda x: 0 <= x <= 1),
    "gae_lambda": ("in [0, 1]", lambda x: 0 <= x <= 1),
    "cg_tolerance": ("in [0, 1)", lambda x: 0 <= x < 1),
    "line_search_shrinking_factor": ("in (0, 1)", lambda x: 0 < x < 1),
}


@contextmanager
def assertions_as_value_errors() -> Iterator[None]:
    """Turn Stable-Baselines3's assertions and unsupported spaces into the `ValueError` that users are promised."""
    try:
        yield
    except (AssertionError, NotImplementedError) as error:
        raise ValueError(" ".join(str(argument).strip() for argument in error.args)) from error


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


def check_schedule(name: str, value: Any, *, positive: bool = False) -> None:
    """Refuse anything but a number or a schedule: a function of the remaining progress, which falls from 1 to 0.

    A schedule may reach zero; one that starts at zero, is negative or not finite is refused here, as far as it can
    be seen at the start, the middle and the end of training.
    """
    if not callable(value):
        allowed = "> 0" if positive else ">= 0"
        check_number(
            name,
            value,
            f"{allowed}, or a function of the remaining progress",
            lambda x: x > 0 or (x == 0 and not positive),
        )
        return
    for progress in (1.0, 0.5, 0.0):
        at = f"{name}({progress})"
        try:
            current = float(value(progress))
        except Exception as error:
            raise ValueError(
                f"{name}={value!r} cannot be evaluated at remaining progress {progress}: {error}"
            ) from error
        check_number(at, current, ">= 0", lambda x: x >= 0)
        if positive and progress == 1.0:
            check_number(at, current, "> 0 at the start of training", lambda x: x > 0)


def check_action_space(space: spaces.Space[Any]) -> None:
    """Refuse action spaces that no policy of Stable-Baselines3 can act in."""
    if isinstance(space, spaces.Box):
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ValueError(
                f"action space {space} must be bounded: wrap the environment in gymnasium.wrappers.RescaleAction"
            )
        if not np.issubdtype(space.dtype, np.floating):
            raise ValueError(
                f"action space {space} must have a floating-point dtype: use MultiDiscrete for integer actions"
            )
    elif isinstance(space, spaces.Discrete):
        if space.start != 0:
            raise ValueError(f"action space {space} must start at 0: add the offset in an action wrapper")
    elif isinstance(space, spaces.MultiDiscrete):
        if space.nvec.ndim != 1 or np.any(space.start):
            raise ValueError(
                f"action space {space} must be one-dimensional and start at 0: flatten it in an action wrapper"
            )
    elif isinstance(space, spaces.MultiBinary):
        if len(space.shape) != 1:
            raise ValueError(f"action space {space} must be one-dimensional: flatten it in an action wrapper")
    else:
        raise ValueError(f"action space {space} is not supported: use Box, Discrete, MultiDiscrete or MultiBinary")


def check_hyperparameters(algorithm: Any) -> None:
    """Refuse what cannot train, before the first environment step; also what was given to `load`.

    :param algorithm: a `TrustRegionAlgorithm` whose constructor arguments are set as its attributes
    """
    policy_class, aliases = algorithm.policy_class, ", ".join(map(repr, algorithm.policy_aliases))
    if not (isinstance(policy_class, type) and issubclass(policy_class, ActorCriticPolicy)):
        raise ValueError(f"policy={policy_class!r} must be one of {aliases}, or a subclass of ActorCriticPolicy")
    check_action_space(algorithm.action_space)

    check_schedule("learning_rate", algorithm.learning_rate)
    check_schedule("target_kl", algorithm.target_kl, positive=True)
    check_schedule("cg_damping", algorithm.cg_damping)
    for name, low in INTEGERS.items():
        check_integer(name, getattr(algorithm, name), low)
    for name, (allowed, accept) in NUMBERS.items():
        check_number(name, getattr(algorithm, name), allowed, accept)
    if algorithm.max_grad_norm is not None:
        check_number("max_grad_norm", algorithm.max_grad_norm, "> 0, or None for no limit", lambda x: x > 0)

    rollout_size = algorithm.n_steps * algorithm.n_envs
    if algorithm.normalize_advantage and rollout_size < 2:
        raise ValueError(
            f"n_steps * n_envs = {algorithm.n_steps} * {algorithm.n_envs} must be greater than 1 to standardise "
            "advantages: raise n_steps, or pass normalize_advantage=False"
        )
    check_integer("sub_sampling_factor", algorithm.sub_sampling_factor, 1, rollout_size, "the rollout is no longer")


def make_radius_controller(radius: Any, radius_kwargs: Any) -> RadiusController:
    """The controller of an alias or class, built with ``radius_kwargs``."""
    cls = RADIUS_ALIASES.get(radius) if isinstance(radius, str) else radius
    if not (
        isinstance(cls, type) and callable(getattr(cls, "radius", None)) and callable(getattr(cls, "update", None))
    ):
        aliases = ", ".join(map(repr, RADIUS_ALIASES))
        raise ValueError(f"radius={radius!r} must be one of {aliases}, or a class with the methods of RadiusController")
    if radius_kwargs is not None and not isinstance(radius_kwargs, dict):
        raise ValueError(f"radius_kwargs={radius_kwargs!r} must be a dictionary of arguments of {cls.__name__}")
    try:
        controller: RadiusController = cls(**(radius_kwargs or {}))
        return controller
    except TypeError as error:
        raise ValueError(f"radius_kwargs={radius_kwargs!r} does not fit {cls.__name__}: {error}") from error
