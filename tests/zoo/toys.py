"""Environments for tests of training and evaluation."""

import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Ticking(gym.Env):
    """Episodes of ten steps of ``seconds``, each with a reward of 3; observations from numpy's global generator."""

    observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, seconds=0.0, render_mode=None):
        self.seconds, self.render_mode = seconds, render_mode

    def _observation(self):
        return np.random.normal(3.0, 2.0, 2).astype(np.float32)  # noqa: NPY002

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observation(), {}

    def step(self, action):
        time.sleep(self.seconds)
        self.t += 1
        return self._observation(), 3.0, False, self.t >= 10, {}


def register():
    """Give it an id."""
    if "Ticking-v0" not in gym.registry:
        gym.register("Ticking-v0", Ticking)
