"""sb3-contrib's environments with invalid actions, reproducible and counting the invalid actions that are taken.

observation   the state: an option of each action dimension, drawn anew at every step
action        as the observation
reward        1 if the action equals the state in every dimension, else 0; an invalid action costs nothing more
masks         `action_masks`, one entry for each option of each dimension, options of a dimension side by side; the
              invalid ones are drawn anew at every step, never among them the state
episode       100 steps, then truncated
optimum       100, always the state. A policy that knows nothing finds it with probability 1 in the number of (valid)
              actions: masks help as much as they leave fewer
info          ``invalid_actions``: actions of this episode so far with an invalid option in some dimension

Source: `sb3_contrib.common.envs`. Differs from it in that states and masks are drawn from the environment's own
generator, so that ``reset(seed=...)`` decides the episode: there, they come from the action space's and numpy's.
"""

from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.envs import InvalidActionEnvDiscrete, InvalidActionEnvMultiBinary, InvalidActionEnvMultiDiscrete
from stable_baselines3.common.envs import IdentityEnv


class InvalidAction(Exception):
    """An action that the mask forbids was taken where none may be."""


class _Counting(IdentityEnv[Any]):
    """What the three environments share.

    :param strict: raise `InvalidAction` on the first one: a run that ends has taken none, in training and evaluation
    """

    n_invalid_actions: int
    possible_actions: NDArray[np.int64]
    invalid_actions: list[int]

    def __init__(self, *args: Any, strict: bool = False, **kwargs: Any):
        self.strict = strict
        self.taken = 0
        super().__init__(*args, **kwargs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new episode, with a count of zero."""
        self.taken = 0
        state, _ = super().reset(seed=seed, options=options)
        return state, {"invalid_actions": 0}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Whether the action was the state, and the next state."""
        is_invalid = not set(self._places(action)).isdisjoint(self.invalid_actions)
        if is_invalid and self.strict:
            raise InvalidAction(f"action {action} has an invalid option, valid ones are {self.action_masks()}")
        self.taken += is_invalid
        state, reward, terminated, truncated, _ = super().step(action)
        return state, reward, terminated, truncated, {"invalid_actions": self.taken}

    def action_masks(self) -> NDArray[np.bool_]:
        """Which options are valid; sb3-contrib's list, made faster."""
        masks = np.ones(len(self.possible_actions), bool)
        masks[self.invalid_actions] = False
        return masks

    def _choose_next_state(self) -> None:
        drawn = self.np_random.integers(self._sizes)
        self.state = drawn[0] if isinstance(self.action_space, spaces.Discrete) else drawn.astype(self._dtype)
        others = np.delete(self.possible_actions, self._places(drawn))
        self.invalid_actions = self.np_random.choice(others, self.n_invalid_actions, replace=False).tolist()

    def _places(self, action: Any) -> NDArray[np.int64]:
        """Where the options of an action stand in the mask, one for each dimension."""
        return self._first + action

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Numbers of options of the dimensions."""
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return np.array([space.n])
        return np.full(space.n, 2) if isinstance(space, spaces.MultiBinary) else space.nvec

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        """Where the first option of each dimension stands in the mask."""
        return np.cumsum(self._sizes) - self._sizes

    @cached_property
    def _dtype(self) -> Any:
        return self.action_space.dtype


class InvalidActionsDiscrete(_Counting, InvalidActionEnvDiscrete):
    """One dimension."""


class InvalidActionsMultiDiscrete(_Counting, InvalidActionEnvMultiDiscrete):
    """Several dimensions, some options of which are invalid; every dimension keeps the one it needs."""


class InvalidActionsMultiBinary(_Counting, InvalidActionEnvMultiBinary):
    """Switches, some of which cannot be where they are not wanted: as many are decided by the mask alone."""
