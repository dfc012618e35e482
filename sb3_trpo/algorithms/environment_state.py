"""What environments remember between two steps, as plain data: captured, and put back into others like them.

Of every layer, be it a wrapper or the environment itself, those attributes are taken that are numbers, strings, arrays
or collections of them, numpy's generators, also those of spaces, running statistics, and the physics of MuJoCo. That is
all there is to classic control, to Gymnasium's MuJoCo tasks, and to most environments written in Python. Where an
attribute is anything else that might change, such as the world of Box2D, nothing is taken at all: half a state is none.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers.utils import RunningMeanStd as GymRunningMeanStd
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_trpo.algorithms.subproc import WorkerError

State = dict[str, Any]
"""Of one layer: its ``type``, and what was taken of it, by kind and name."""

PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
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


class UnknownState(Exception):
    """An attribute that might be part of the state, and cannot be taken."""


def capture(env: VecEnv) -> Captured:
    """What ``env``, its wrappers and the environments in it remember now.

    Those in processes of their own are asked if they are wrapped in `Resumable`.
    """
    try:
        wrappers = [_taken(layer) for layer in _vec_wrappers(env)]
        inner = env.unwrapped
        if isinstance(inner, DummyVecEnv):
            return Captured({"wrappers": wrappers, "envs": [_chain(one) for one in inner.envs]})
        if isinstance(inner, SubprocVecEnv) and inner.has_attr("capture_state"):
            states = inner.env_method("capture_state")
            if failed := [state for state in states if isinstance(state, str)]:
                raise UnknownState(failed[0])
            return Captured({"wrappers": wrappers, "envs": states})
        raise UnknownState(f"{type(inner).__name__} does not let its environments be looked into")
    except (UnknownState, WorkerError) as unknown:
        return Captured(None, str(unknown))
    except Exception as error:  # an environment of the user's may raise anything, and the model is saved all the same
        return Captured(None, f"{type(error).__name__}: {error}")


def restore(env: VecEnv, state: State) -> None:
    """Have ``env`` go on where `capture` found one like it.

    :raises ValueError: when its layers are not those that were captured; nothing is changed then
    """
    wrappers, inner, states = list(_vec_wrappers(env)), env.unwrapped, state["envs"]
    if len(states) != env.num_envs:
        raise ValueError(f"the state of {len(states)} environments was saved, and there are {env.num_envs}")
    _check_layers(wrappers, state["wrappers"])
    if isinstance(inner, SubprocVecEnv):
        if not inner.has_attr("restore_state"):
            raise ValueError("the environments are in processes of their own and not wrapped in Resumable")
        for index, one in enumerate(states):
            inner.env_method("restore_state", one, indices=index)
    elif isinstance(inner, DummyVecEnv):
        chains = [list(_gym_layers(one)) for one in inner.envs]
        for layers, saved in zip(chains, states, strict=True):
            _check_layers(layers, saved)
        for layers, saved in zip(chains, states, strict=True):
            _put_all(layers, saved)
    else:
        raise ValueError(f"{type(inner).__name__} does not let its environments be looked into")
    _put_all(wrappers, state["wrappers"])


class Resumable(gym.Wrapper[Any, Any, Any, Any]):
    """Around an environment in a process of its own: captures its state, and restores it, where it is."""

    def capture_state(self) -> list[State] | str:
        """What the environment and its wrappers remember; the reason if that cannot be captured."""
        try:
            return _chain(self.env)
        except UnknownState as unknown:
            return str(unknown)

    def restore_state(self, state: list[State]) -> None:
        """Go on where `capture_state` found an environment like this one."""
        layers = list(_gym_layers(self.env))
        _check_layers(layers, state)
        _put_all(layers, state)


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


def _chain(env: gym.Env[Any, Any]) -> list[State]:
    return [_taken(layer) for layer in _gym_layers(env)]


def _check_layers(layers: list[Any], states: list[State]) -> None:
    found, saved = ([*map(_type_name, layers)], [state["type"] for state in states])
    if found != saved:
        raise ValueError(f"the saved state is of the layers {' > '.join(saved)}, and there are {' > '.join(found)}")


def _put_all(layers: list[Any], states: list[State]) -> None:
    for layer, state in zip(layers, states, strict=True):
        _put(layer, state)


def _type_name(layer: Any) -> str:
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


def _taken(layer: Any) -> State:
    """The state of one layer.

    :raises UnknownState: for an attribute that might be part of it, and cannot be taken
    """
    values: State = {}
    state: State = {"type": _type_name(layer), "values": values}
    skipped = NEVER_TAKEN | HISTORY.get(type(layer), frozenset())
    for name, value in vars(layer).items():
        if name in skipped or isinstance(value, NO_STATE):
            continue
        for kind, (is_it, take, _) in KINDS.items():
            if is_it(value):
                state.setdefault(kind, {})[name] = take(value)
                break
        else:
            try:
                values[name] = _copied(value)
            except UnknownState as unknown:
                raise UnknownState(f"{_type_name(layer)}.{name} is {unknown}") from None
    return state


def _put(layer: Any, state: State) -> None:
    """Give one layer a state that was taken of one like it."""
    if isinstance(layer, gym.Env) and "generators" in state:
        layer.np_random  # noqa: B018  # made when it is first asked for
    for kind, (_, _, put) in KINDS.items():
        for name, value in state.get(kind, {}).items():
            put(getattr(layer, name), value)
    for name, value in state["values"].items():
        current = getattr(layer, name, None)
        if name in NEVER_TAKEN or name.startswith("__") or callable(current):
            raise ValueError(f"{_type_name(layer)}.{name} is not part of a state")
        if isinstance(current, np.ndarray) and isinstance(value, np.ndarray) and _fits(current, value):
            current[...] = value  # somebody else may hold it
        else:
            setattr(layer, name, _copied(value))


def _fits(current: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> bool:
    return current.flags.writeable and (current.shape, current.dtype) == (value.shape, value.dtype)


def _copied(value: Any) -> Any:
    """A copy that shares nothing with ``value``.

    :raises UnknownState: for what is no number, string, array, or collection of those
    """
    kind = type(value)
    if kind in PLAIN or isinstance(value, np.generic):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise UnknownState("an array of objects")
        return value.copy()
    if isinstance(value, Mapping) and issubclass(kind, dict):
        return {_copied(key): _copied(part) for key, part in value.items()}
    if kind in (list, tuple, set, frozenset):
        return kind(value) if PLAIN.issuperset(map(type, value)) else kind(map(_copied, value))
    if kind is deque:
        return deque(map(_copied, value), value.maxlen)
    raise UnknownState(f"a {kind.__module__}.{kind.__qualname__}")


def _is_generator(value: Any) -> bool:
    return isinstance(value, (np.random.Generator, np.random.RandomState))


def _generator_state(generator: Any) -> State:
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
    return dict(bits.get_state(legacy=False)) if bits is generator else dict(bits.state)


def _set_generator(generator: Any, state: State) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _space_state(space: gym.Space[Any]) -> State:
    """The generators that a space and its parts sample with, None before the first sample."""
    generator = space._np_random
    return {
        "generator": None if generator is None else _generator_state(generator),
        "parts": [_space_state(part) for part in _parts(space)],
    }


def _set_space(space: gym.Space[Any], state: State) -> None:
    if state["generator"] is not None:
        _set_generator(space.np_random, state["generator"])
    for part, saved in zip(_parts(space), state["parts"], strict=True):
        _set_space(part, saved)


def _parts(space: gym.Space[Any]) -> list[gym.Space[Any]]:
    if isinstance(space, gym.spaces.Dict):
        return list(space.spaces.values())
    return list(space.spaces) if isinstance(space, gym.spaces.Tuple) else []


def _file_size(writer: ResultsWriter) -> State:
    """How much of the file of episodes had been written: whoever goes on with it may cut off what came later."""
    if writer.file_handler.closed:
        return {"size": None}
    writer.file_handler.flush()
    return {"size": os.fstat(writer.file_handler.fileno()).st_size}


def _is_physics(value: Any) -> bool:
    return _type_name(value) == "mujoco._structs.MjData"


def _physics(data: Any) -> State:
    """What MuJoCo integrates, and all that it has computed of it: some tasks look at numbers of the step before."""
    import mujoco

    integrated = np.empty(mujoco.mj_stateSize(data.model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(data.model, data, integrated, mujoco.mjtState.mjSTATE_INTEGRATION)
    return {"integrated": integrated, "computed": {name: array.copy() for name, array in _arrays(data)}}


def _set_physics(data: Any, state: State) -> None:
    import mujoco

    mujoco.mj_setState(data.model, data, state["integrated"], mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(data.model, data)  # finds the contacts
    for name, array in _arrays(data):
        value = state["computed"].get(name)
        if value is not None and _fits(array, value):
            array[...] = value


def _arrays(data: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for name in dir(data):
        if not name.startswith("_"):
            value = getattr(data, name)
            if isinstance(value, np.ndarray) and value.size > 0:
                yield name, value


KINDS: dict[str, tuple[Callable[[Any], bool], Callable[[Any], State], Callable[[Any, State], None]]] = {
    "generators": (_is_generator, _generator_state, _set_generator),
    "spaces": (lambda value: isinstance(value, gym.Space), _space_state, _set_space),
    "objects": (lambda value: isinstance(value, TAKEN_APART), _taken, _put),
    "files": (lambda value: isinstance(value, ResultsWriter), _file_size, lambda writer, state: None),
    "physics": (_is_physics, _physics, _set_physics),
}
"""Attributes that are more than plain data -> whether a value is one, how its state is taken, and how it is put."""
