"""A cue, a delay filled with symbols that look like cues, and the moment when the cue is wanted.

observation   (3 + n_symbols,) of 0 and 1: the phase (cue, delay, recall) and a symbol, both one-hot. In the first phase
              the symbol is the cue; in the others it is drawn at random and tells nothing
action        ``Discrete(n_symbols)``; counts at recall only
reward        1 if the action at recall is the cue, else 0; 0 everywhere else
episode       1 step of cue, ``delay`` steps of delay, 1 of recall
optimum       1
no memory     1 / n_symbols: at recall, the observation is independent of the cue, so that every action is right with
              this probability

The return is the probability of remembering. A memory must open for the cue and stay closed for the symbols of the
delay, the problem for which the LSTM's gates were made (Hochreiter and Schmidhuber, Long Short-Term Memory, 1997, whose
noise-free and noisy "long time lag" tasks this follows).
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

CUE, DELAY, RECALL = range(3)


class DelayedRecall(gym.Env[NDArray[np.float32], int]):
    """Recall one of ``n_symbols`` after ``delay`` steps of other symbols."""

    def __init__(self, n_symbols: int = 4, delay: int = 6):
        if n_symbols < 2 or delay < 0:
            raise ValueError(f"n_symbols={n_symbols!r} must be >= 2 and delay={delay!r} >= 0")
        self.n_symbols, self.delay = n_symbols, delay
        # Not MultiDiscrete([3, n_symbols]), for which sb3-contrib's recurrent policies cannot be built.
        self.observation_space = spaces.Box(0, 1, (3 + n_symbols,))
        self.action_space = spaces.Discrete(n_symbols)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Show a new cue."""
        super().reset(seed=seed)
        self.time = 0
        self.cue = self._draw()
        return self._shown(CUE, self.cue), {}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Show another symbol; at recall, say whether the action was the cue."""
        is_over = self.time > self.delay
        reward = float(is_over and action == self.cue)
        self.time += 1
        phase = DELAY if self.time <= self.delay else RECALL
        return self._shown(phase, self._draw()), reward, is_over, False, {}

    def _draw(self) -> int:
        return int(self.np_random.integers(self.n_symbols))

    def _shown(self, phase: int, symbol: int) -> NDArray[np.float32]:
        observation = np.zeros(3 + self.n_symbols, np.float32)
        observation[[phase, 3 + symbol]] = 1
        return observation
