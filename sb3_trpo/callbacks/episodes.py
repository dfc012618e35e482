"""Episodes played beside a training, which leave its random generators as they were.

An algorithm that acts by masks is told at every step which actions the environment allows. Whoever asks for a model's
actions through `predictor` need not know whether it has masks, a memory, or both. sb3-contrib's ``evaluate_policy``
passes masks, but then never the memory's state.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.algorithms.training_state import generator_states, set_generators


class Episodes(NamedTuple):
    """``returns`` and ``lengths`` (n_episodes,)."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]


def play(
    model: BaseAlgorithm,
    env: VecEnv,
    n_episodes: int,
    seed: int,
    deterministic: bool = True,
    poll: Callable[[], None] = lambda: None,
) -> Episodes:
    """Play ``n_episodes`` from the initial states of ``seed``; ``poll`` is called at every step.

    A model acts by the masks of the environment and by its memory where it has one. The global random generators are as
    they were afterwards.

    :raises ValueError: when the algorithm acts by masks and the environment has none
    """
    with generators_kept():
        env.seed(seed)
        returns, lengths = evaluate_policy(
            predictor(model, env),
            env,
            n_episodes,
            deterministic=deterministic,
            callback=lambda *_: poll(),
            return_episode_rewards=True,
            warn=False,
        )
    return Episodes(np.asarray(returns, np.float64), np.asarray(lengths, np.int64))


@contextmanager
def generators_kept() -> Iterator[None]:
    """Actions that are sampled draw from torch's generator, and some environments from Python's or numpy's."""
    states = generator_states()
    try:
        yield
    finally:
        set_generators(states)


def predictor(model: BaseAlgorithm, env: VecEnv) -> PolicyPredictor:
    """What chooses the actions of ``model`` in ``env``: the model itself, or with the masks of the environment.

    :raises ValueError: when the algorithm acts by masks and the environment has none
    """
    if not takes_masks(type(model)):
        return model
    if not has_masks(env):
        raise ValueError(f"{type(model).__name__} needs an environment with a method action_masks(): {env} has none")
    return _Masked(model, env)


def takes_masks(algorithm: type[BaseAlgorithm]) -> bool:
    """Whether an algorithm acts by masks, told by the ``action_masks`` of its ``predict``."""
    return "action_masks" in inspect.signature(algorithm.predict).parameters


def has_masks(env: VecEnv) -> bool:
    """Whether an environment tells which actions it allows."""
    return bool(is_masking_supported(env))


class _Masked(PolicyPredictor):
    """A model that is told the masks of ``env`` whenever it is asked for actions."""

    def __init__(self, model: Any, env: VecEnv):
        self._model, self._env = model, env

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        masks = get_action_masks(self._env)
        actions, next_state = self._model.predict(
            observation, state=state, episode_start=episode_start, deterministic=deterministic, action_masks=masks
        )
        return actions, next_state
