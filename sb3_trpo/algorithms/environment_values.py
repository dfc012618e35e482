"""What single attributes of environments remember, as plain data: taken, and put into others like them.

Plain data are numbers, strings, arrays and collections of them, which are copied. Generators, spaces, files and the
physics of MuJoCo stay the objects that they are, and what changes in them is taken.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import ResultsWriter

State = dict[str, Any]

PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
COLLECTIONS = frozenset({list, tuple, set, frozenset})


class StateError(ValueError):
    """A state that cannot be taken, or not be put."""


class Kind(NamedTuple):
    """Of attributes that are more than plain data: whether a value ``is_one``, how to ``take`` its state, and how to
    ``put`` that into another; None for what is taken only.
    """

    is_one: Callable[[Any], bool]
    take: Callable[[Any], State]
    put: Callable[[Any, State], None] | None


def copied(value: Any) -> Any:
    """A copy that shares nothing with ``value``.

    :raises StateError: for what is no number, string, array, or collection of those
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in COLLECTIONS:
        return kind(value) if PLAIN.issuperset(map(type, value)) else kind(map(copied, value))
    if isinstance(value, dict):
        return {copied(key): copied(part) for key, part in value.items()}
    if isinstance(value, np.generic):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise StateError("an array of objects")
        return value.copy()
    if kind is deque:
        return deque(map(copied, value), value.maxlen)
    raise StateError(f"a {type_name(value)}")


def put_array(current: Any, value: Any) -> bool:
    """Write ``value`` into the array ``current``, which somebody else may hold, where it is one that it fits into."""
    is_fit = (
        isinstance(current, np.ndarray)
        and isinstance(value, np.ndarray)
        and current.flags.writeable
        and (current.shape, current.dtype) == (value.shape, value.dtype)
    )
    if is_fit:
        current[...] = value
    return is_fit


STAND_INS = {"rl_zoo3.gym_patches.PatchedTimeLimit": "gymnasium.wrappers.common.TimeLimit"}
"""Types that take another's place, with the same attributes, in processes that have imported what puts them there."""


def type_name(value: Any) -> str:
    """Module and name of the type of ``value``, or of the one that it stands in for."""
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    return STAND_INS.get(name, name)


def _is_generator(value: Any) -> bool:
    return isinstance(value, (np.random.Generator, np.random.RandomState))


def _take_generator(generator: Any) -> State:
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
    return dict(bits.get_state(legacy=False)) if bits is generator else dict(bits.state)


def _put_generator(generator: Any, state: State) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _take_space(space: gym.Space[Any]) -> State:
    """The generators that a space and its parts sample with, None before the first sample."""
    generator = space._np_random
    return {
        "generator": None if generator is None else _take_generator(generator),
        "parts": [_take_space(part) for part in _parts(space)],
    }


def _put_space(space: gym.Space[Any], state: State) -> None:
    if state["generator"] is not None:
        _put_generator(space.np_random, state["generator"])
    for part, saved in zip(_parts(space), state["parts"], strict=True):
        _put_space(part, saved)


def _parts(space: gym.Space[Any]) -> list[gym.Space[Any]]:
    if isinstance(space, gym.spaces.Dict):
        return list(space.spaces.values())
    return list(space.spaces) if isinstance(space, gym.spaces.Tuple) else []


def _take_size(writer: ResultsWriter) -> State:
    """How much of the file of episodes had been written: whoever goes on with it may cut off what came later."""
    if writer.file_handler.closed:
        return {"size": None}
    writer.file_handler.flush()
    return {"size": os.fstat(writer.file_handler.fileno()).st_size}


def _is_physics(value: Any) -> bool:
    return type_name(value) == "mujoco._structs.MjData"


def _take_physics(data: Any) -> State:
    """What MuJoCo integrates, and all that it has computed of it: some tasks look at numbers of the step before."""
    import mujoco

    integrated = np.empty(mujoco.mj_stateSize(data.model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(data.model, data, integrated, mujoco.mjtState.mjSTATE_INTEGRATION)
    return {"integrated": integrated, "computed": {name: array.copy() for name, array in _arrays(data)}}


def _put_physics(data: Any, state: State) -> None:
    import mujoco

    mujoco.mj_setState(data.model, data, state["integrated"], mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(data.model, data)  # finds the contacts
    for name, array in _arrays(data):
        put_array(array, state["computed"].get(name))


def _arrays(data: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for name in dir(data):
        if not name.startswith("_"):
            value = getattr(data, name)
            if isinstance(value, np.ndarray) and value.size > 0:
                yield name, value


KINDS = {
    "generators": Kind(_is_generator, _take_generator, _put_generator),
    "spaces": Kind(lambda value: isinstance(value, gym.Space), _take_space, _put_space),
    "files": Kind(lambda value: isinstance(value, ResultsWriter), _take_size, None),
    "physics": Kind(_is_physics, _take_physics, _put_physics),
}
