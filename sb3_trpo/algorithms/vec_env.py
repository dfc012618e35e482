"""Stepping `DummyVecEnv` without copying what cannot change.

`DummyVecEnv.step` makes deep copies of observations and infos, so that an environment which reuses its objects does no
harm; for a quick environment that takes longer than the environment itself. An array is copied as well by its own
``copy``, and a dictionary of numbers and strings by a shallow one.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from types import MethodType
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

IMMUTABLE = frozenset(
    {bool, int, float, complex, str, bytes, type(None), np.bool_, np.float64, np.float32, np.int64, np.int32}
)


@contextmanager
def lean_stepping(env: VecEnv) -> Iterator[None]:
    """Inside the block, the `DummyVecEnv` at the bottom of ``env`` steps without needless copies.

    What `step` returns is the same. Any other vectorised environment, subclasses included, is left as it is.
    """
    inner = env.unwrapped
    is_plain = type(inner) is DummyVecEnv and not isinstance(inner.observation_space, spaces.Tuple)
    if not is_plain or "step_wait" in vars(inner):
        yield
        return
    inner.step_wait = MethodType(_step_wait, inner)  # type: ignore[method-assign]  # of a copy's own in a copy
    try:
        yield
    finally:
        del inner.step_wait


def _step_wait(env: DummyVecEnv) -> VecEnvStepReturn:
    """`DummyVecEnv.step_wait` for observations that are one array or a dictionary of arrays."""
    infos, is_shallow = env.buf_infos, True
    buffer: Any = env.buf_obs
    single = buffer.get(None)
    shape = env.observation_space.shape
    for env_idx, one in enumerate(env.envs):
        obs, env.buf_rews[env_idx], terminated, truncated, info = one.step(env.actions[env_idx])
        done = env.buf_dones[env_idx] = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = obs
            obs, env.reset_infos[env_idx] = one.reset()
        if single is not None and getattr(obs, "shape", None) == shape:
            single[env_idx] = obs
        else:
            env._save_obs(env_idx, obs)
        infos[env_idx] = info
        is_shallow = is_shallow and type(info) is dict and IMMUTABLE.issuperset(map(type, info.values()))
    copies: list[dict[str, Any]] = [info.copy() for info in infos] if is_shallow else deepcopy(infos)
    observations: Any = OrderedDict((k, v.copy()) for k, v in buffer.items()) if single is None else single.copy()
    return observations, env.buf_rews.copy(), env.buf_dones.copy(), copies
