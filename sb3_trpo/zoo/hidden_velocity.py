"""Tasks of Gymnasium without velocities, under the ids that RL Zoo gives them: ``CartPoleNoVel-v1`` and the like.

A single observation no longer tells where the system is heading: tasks for policies with a memory. The ids are
registered when one of them is asked for. Differs from RL Zoo in that nothing else is imported, and in that the wrapper
is part of the registered environment, which therefore can be made in another process.
"""

import dataclasses

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

from sb3_trpo.zoo.wrappers import HideObservations

VELOCITIES = {
    "CartPole-v1": (1, 3),
    "MountainCar-v0": (1,),
    "MountainCarContinuous-v0": (1,),
    "Pendulum-v1": (2,),
    "LunarLander-v3": (2, 3, 5),
    "LunarLanderContinuous-v3": (2, 3, 5),
}
"""Environment -> which numbers of its observation are velocities."""


def hidden_id(env_id: str) -> str:
    """``CartPoleNoVel-v1`` for ``CartPole-v1``."""
    name, _, version = env_id.rpartition("-")
    return f"{name}NoVel-{version}"


def register() -> None:
    """Register those that are not there yet: RL Zoo may have done so."""
    entry_point = f"{HideObservations.__module__}:{HideObservations.__qualname__}"
    for env_id, indices in VELOCITIES.items():
        new_id = hidden_id(env_id)
        if new_id not in gym.registry:
            wrapper = WrapperSpec("HideObservations", entry_point, {"indices": indices})
            gym.registry[new_id] = dataclasses.replace(gym.spec(env_id), id=new_id, additional_wrappers=(wrapper,))
