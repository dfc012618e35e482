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


class Fading(gym.Env):
    """Short episodes whose lengths and returns differ; what an action is worth depends on what is observed."""

    observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = spaces.Discrete(4)

    def _observation(self):
        self.seen = self.np_random.normal(size=2).astype(np.float32)
        return self.seen

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action):
        reward = float(action * self.seen[0])
        return self._observation(), reward, bool(self.np_random.random() < 0.1), False, {}


class Masked(gym.Env):
    """Ten steps with another allowed one of four actions each, for a reward of 1; the others are an error.

    Observed are two random numbers and, hidden behind them, nothing of what is allowed.
    """

    observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.allowed = int(self.np_random.integers(4))
        return self.np_random.normal(size=2).astype(np.float32), {"action_mask": self._mask().astype(np.int8)}

    def step(self, action):
        if action != self.allowed:
            raise RuntimeError(f"action {action} is not allowed")
        self.t += 1
        self.allowed = int(self.np_random.integers(4))
        observation = self.np_random.normal(size=2).astype(np.float32)
        return observation, 1.0, False, self.t >= 10, {"action_mask": self._mask().astype(np.int8)}

    def valid_actions(self):
        return self._mask()

    def _mask(self):
        return np.arange(4) == self.allowed


class SelfMasked(Masked):
    """The same, with a method of the name that is looked for."""

    def action_masks(self):
        return self._mask()


TOYS = {"Ticking-v0": Ticking, "Fading-v0": Fading, "Masked-v0": Masked, "SelfMasked-v0": SelfMasked}


TAXI = "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"
"""Gymnasium's own environment with masks, by the name that it has in the version that is installed."""


def register():
    """Give them ids."""
    for name, cls in TOYS.items():
        if name not in gym.registry:
            gym.register(name, cls)
