r"""Models saved by ``sb3_contrib.TRPO``, and what their numbers mean here.

sb3-contrib averages the KL over the A action dimensions of `Box` and `MultiBinary` spaces, so its Fisher matrix and
KL are 1/A of those of the joint action. With :math:`F_{contrib} = F / A` the same step comes from

.. math:: \delta = A \, \delta_{contrib}, \qquad \lambda = A \, \lambda_{contrib}.
"""

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv


def n_averaged_dimensions(action_space: spaces.Space[Any]) -> int:
    """A: the action dimensions that sb3-contrib averages its KL over; 1 where it sums or has a single one."""
    if isinstance(action_space, (spaces.Box, spaces.MultiBinary)):
        return int(np.prod(action_space.shape))
    return 1


def translation(settings: Mapping[str, Any], algorithm: str, given: Collection[str]) -> dict[str, Any]:
    """Constructor arguments under which the model behaves here as it did there; ``given`` ones are the user's own."""
    n_dimensions = n_averaged_dimensions(settings["action_space"])
    translated = {name: n_dimensions * settings[name] for name in ("target_kl", "cg_damping") if name not in given}
    if n_dimensions > 1 and translated:
        changes = ", ".join(f"{name} {settings[name]:g} -> {value:g}" for name, value in translated.items())
        warnings.warn(
            f"this model was saved by sb3_contrib.TRPO, which averages the KL over the {n_dimensions} action "
            f"dimensions; {algorithm} bounds the KL of the joint action. Translated to the same region: {changes}",
            stacklevel=3,
        )
    never_used = {} if "max_grad_norm" in given else {"max_grad_norm": None}  # saved as 0
    return {**never_used, **translated}


def current_observation_space(settings: Mapping[str, Any], env: VecEnv) -> dict[str, Any]:
    """``custom_objects`` with the environment's observation space, where it is the saved one written differently.

    Gymnasium once wrote an unbounded observation as the largest float and now writes it as infinity, which
    Stable-Baselines3 takes for another space.
    """
    saved, current = settings["observation_space"], env.observation_space
    if not (isinstance(saved, spaces.Box) and isinstance(current, spaces.Box) and saved.shape == current.shape):
        return {}
    largest = np.finfo(np.float32).max
    bounds = [np.clip(bound, -largest, largest) for bound in (saved.low, saved.high, current.low, current.high)]
    same = np.allclose(bounds[0], bounds[2]) and np.allclose(bounds[1], bounds[3])
    return {"observation_space": current} if same else {}
