"""What environments remember between two steps, as plain data: captured, and put back into others like them.

Of every layer, be it a wrapper or the environment itself, those attributes are taken that are numbers, strings, arrays
or collections of them, numpy's generators, also those of spaces, running statistics, and the physics of MuJoCo. That is
all there is to classic control, to Gymnasium's MuJoCo tasks, and to most environments written in Python. Where an
attribute is anything else that might change, such as the world of Box2D, nothing is taken at all: half a state is none.
For the same reason everything is looked at before anything is put back.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from inspect import isdatadescriptor
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers.utils import RunningMeanStd as GymRunningMeanStd
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_trpo.algorithms import environment_values
from sb3_trpo.algorithms.environment_values import Kind, State, StateError, copied, put_array, type_name
from sb3_trpo.algorithms.subproc import WorkerError

TAKEN_APART = (RunningMeanStd, GymRunningMeanStd, StackedObservations)
"""Objects that hold nothing but what is taken of a layer."""
NO_STATE = (
    EnvSpec, np.dtype, np.ufunc,
    type, ModuleType, FunctionType, MethodType, BuiltinFunctionType, partial,
)  # fmt: skip
"""Attributes of these types do not change from step to step."""
NEVER_TAKEN = frozenset({
    "env", "venv", "envs", "spec", "metadata", "render_mode", "class_attributes", "_saved_kwargs", "_ezpickle_args",
    "_ezpickle_kwargs", "screen", "surf", "clock", "window", "viewer", "renderer", "mujoco_renderer", "model",
    "t_start", "episode_times",
})  # fmt: skip
"""The next layer, what was decided when the layer was made, what shows it, and clocks. Whoever changes a MuJoCo model
while it is simulated has to do so again.
"""
HISTORY = {Monitor: frozenset({"episode_returns", "episode_lengths"})}
"""What a layer only writes, and more of it with every episode."""


class Captured(NamedTuple):
    """``state``, None if it cannot be captured, for the ``reason``."""

    state: State | None
    reason: str = ""


def capture(env: VecEnv) -> Captured:
    """What ``env``, its wrappers and the environments in it remember now.

    Those in processes of their own are asked if they are wrapped in `Resumable`.
    """
    try:
        wrappers = [_taken(layer) for layer in _vec_wrappers(env)]
        states = _ask(env, "capture_state")
        if failed := [state for state in states if isinstance(state, str)]:
            return Captured(None, failed[0])
        return Captured({"wrappers": wrappers, "envs": states})
    except Exception as error:  # an environment of the user's may raise anything, and the model is saved all the same
        return Captured(None, _reason(error))


def restore(env: VecEnv, state: State) -> None:
    """Have ``env`` go on where `capture` found one like it.

    :raises ValueError: when its layers are not those that were captured, or cannot take what was captured of them;
        nothing is changed then
    """
    wrappers, states = list(_vec_wrappers(env)), state["envs"]
    if len(states) != env.num_envs:
        raise ValueError(f"the state of {len(states)} environments was saved, and there are {env.num_envs}")
    _check_layers(wrappers, state["wrappers"])
    if refusals := [refusal for refusal in _ask(env, "refusal_of_state", states) if refusal]:
        raise ValueError(refusals[0])
    _ask(env, "restore_state", states)
    _put_layers(wrappers, state["wrappers"])


class Resumable(gym.Wrapper[Any, Any, Any, Any]):
    """Around an environment, be it in a process of its own: captures its state, and restores it, where it is.

    What is wrong is returned and not raised, for an exception would end that process.
    """

    def capture_state(self) -> list[State] | str:
        """What the environment and its wrappers remember; the reason if that cannot be captured."""
        try:
            return [_taken(layer) for layer in _gym_layers(self.env)]
        except Exception as error:
            return _reason(error)

    def refusal_of_state(self, state: list[State]) -> str:
        """Why the environment cannot go on from ``state``, empty if it can."""
        try:
            _check_layers(list(_gym_layers(self.env)), state)
        except Exception as error:
            return _reason(error)
        return ""

    def restore_state(self, state: list[State]) -> None:
        """Go on where `capture_state` found an environment like this one, of a state that is not refused."""
        _put_layers(list(_gym_layers(self.env)), state)


def _ask(env: VecEnv, method: str, *arguments: Sequence[Any]) -> list[Any]:
    """What ``method`` of `Resumable` returns for each environment at the bottom of ``env``.

    :param arguments: of the method, each a sequence over the environments
    :raises StateError: when the environments cannot be reached
    """
    inner = env.unwrapped
    if isinstance(inner, DummyVecEnv):
        here = [Resumable(one) for one in inner.envs]
        return [getattr(one, method)(*of_one) for one, *of_one in zip(here, *arguments, strict=True)]
    if isinstance(inner, SubprocVecEnv) and inner.has_attr(method):
        if not arguments:
            return inner.env_method(method)  # of all at once
        of_each = enumerate(zip(*arguments, strict=True))
        return [inner.env_method(method, *of_one, indices=index)[0] for index, of_one in of_each]
    raise StateError(f"{type(inner).__name__} does not let its environments be looked into")


def _reason(error: Exception) -> str:
    is_ours = isinstance(error, (StateError, WorkerError))
    return str(error) if is_ours else f"{type(error).__name__}: {error}"


def _vec_wrappers(env: VecEnv) -> Iterator[VecEnvWrapper]:
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv


def _gym_layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, Resumable):
            yield env
        env = env.env
    yield env


def _check_layers(layers: list[Any], states: list[State]) -> None:
    """Refuse states that are not of ``layers`` like these, each of which can take its own.

    :raises StateError: saying what is in the way
    """
    found, saved = ([*map(type_name, layers)], [state["type"] for state in states])
    if found != saved:
        raise StateError(f"the saved state is of the layers {' > '.join(saved)}, and there are {' > '.join(found)}")
    for layer, state in zip(layers, states, strict=True):
        _check(layer, state)


def _put_layers(layers: list[Any], states: list[State]) -> None:
    for layer, state in zip(layers, states, strict=True):
        _put(layer, state)


def _taken(layer: Any) -> State:
    """The state of one layer.

    :raises StateError: for an attribute that might be part of it, and cannot be taken
    """
    values: State = {}
    state: State = {"type": type_name(layer), "values": values}
    skipped = NEVER_TAKEN | HISTORY.get(type(layer), frozenset())
    for name, value in vars(layer).items():
        if name in skipped or isinstance(value, NO_STATE):
            continue
        for kind, (is_one, take, _) in KINDS.items():
            if is_one(value):
                state.setdefault(kind, {})[name] = take(value)
                break
        else:
            try:
                values[name] = copied(value)
            except StateError as unknown:
                raise StateError(f"{type_name(layer)}.{name} is {unknown}") from None
    return state


def _check(layer: Any, state: State) -> None:
    """Refuse a state that ``layer`` cannot take, or that would change more than a state.

    :raises StateError: naming the attribute
    """
    if isinstance(layer, gym.Env) and "generators" in state:
        layer.np_random  # noqa: B018  # made when it is first asked for
    for kind, (is_one, _, put) in KINDS.items():
        if put is None:
            continue
        for name, saved in state.get(kind, {}).items():
            current = vars(layer).get(name)
            if not is_one(current):
                raise StateError(f"{type_name(layer)}.{name} is none of its {kind}")
            try:
                put(deepcopy(current), saved)
            except Exception as error:
                raise StateError(
                    f"{type_name(layer)}.{name} cannot take what was saved of it: {_reason(error)}"
                ) from error
    for name, value in state["values"].items():
        of_class = getattr(type(layer), name, None)
        is_fixed = isdatadescriptor(of_class) or callable(of_class) or callable(vars(layer).get(name))
        if is_fixed or name in NEVER_TAKEN or name.startswith("__"):
            raise StateError(f"{type_name(layer)}.{name} is not part of a state")
        copied(value)


def _put(layer: Any, state: State) -> None:
    """Give one layer a state that it can take."""
    for kind, (_, _, put) in KINDS.items():
        if put is None:
            continue
        for name, saved in state.get(kind, {}).items():
            put(vars(layer)[name], saved)
    for name, value in state["values"].items():
        if not put_array(vars(layer).get(name), value):
            setattr(layer, name, copied(value))


def _check_and_put(holder: Any, state: State) -> None:
    _check(holder, state)
    _put(holder, state)


KINDS = {
    **environment_values.KINDS,
    "objects": Kind(lambda value: isinstance(value, TAKEN_APART), _taken, _check_and_put),
}
"""Attributes that are more than plain data."""
