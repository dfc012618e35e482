"""Gymnasium's CartPole and Pendulum without velocities: where things move can only be told from several observations.

                  observation                           action          reward, optimum
CartPoleNoVel     position of the cart, angle           Discrete(2)     CartPole-v1's: 500; without memory some 50
PendulumNoVel     cosine and sine of the angle          Box(1)          Pendulum-v1's: some -150, as with velocities

Time limits are those of CartPole-v1 (500) and Pendulum-v1 (200). RL Zoo has tasks of these names, in which velocities
are zeros instead of being left out; what can be told from them is the same. The bound without memory is that of
sb3-contrib's ``tests/test_lstm.py``.
"""

from typing import Any, ClassVar

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv


class _PositionsOnly(gym.Env[Any, Any]):
    """Shows the entries ``POSITIONS`` of what the environment it is mixed into shows."""

    POSITIONS: ClassVar[list[int]]

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        full = self.observation_space
        self.observation_space = spaces.Box(full.low[self.POSITIONS], full.high[self.POSITIONS], dtype=full.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The initial positions."""
        full, info = super().reset(seed=seed, options=options)
        return full[self.POSITIONS], info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The next positions."""
        full, *rest = super().step(action)
        return full[self.POSITIONS], *rest


class CartPoleNoVel(_PositionsOnly, CartPoleEnv):
    """Position of the cart and angle of the pole."""

    POSITIONS: ClassVar = [0, 2]


class PendulumNoVel(_PositionsOnly, PendulumEnv):
    """Cosine and sine of the angle."""

    POSITIONS: ClassVar = [0, 1]
