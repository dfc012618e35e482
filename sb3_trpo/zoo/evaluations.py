"""Evaluation while training: episodes between two updates, which leave the training bit for bit as it was."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_trpo.callbacks.averaged import AveragedPolicy, evaluated
from sb3_trpo.callbacks.episodes import play
from sb3_trpo.callbacks.multiples import has_passed_multiple
from sb3_trpo.zoo.masks import check_masks


class Evaluation(NamedTuple):
    """What was seen after ``step`` environment steps of training.

    ``returns`` and ``lengths`` (n_episodes,) of the episodes played, ``train_return`` the mean of the last 100 training
    episodes (NaN before one has ended), ``wall_s`` the seconds of training so far without those of evaluation.
    """

    step: int
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    train_return: float
    wall_s: float

    @property
    def mean(self) -> float:
        """Mean return of the episodes."""
        return float(self.returns.mean())


OnEvaluation = Callable[[Evaluation], bool | None]
"""Told of each evaluation; False ends the training."""


class PeriodicEvaluation(BaseCallback):
    """Plays ``n_episodes`` every ``every`` steps and at the end, each time from the same initial states.

    Evaluated is the policy between two updates, on the first occasion at or after each multiple of ``every``: every
    step that it is credited with has been learned from. Observation statistics are those of the training environment.

    :param env: evaluation environment, not the one that is trained in
    :param every: environment steps between two evaluations; 0 for one at the end
    :param seed: of the evaluation environment, set anew before every evaluation
    :param on_evaluation: told of each; a False ends the training
    :param last: step of the last evaluation that was made, of a training that goes on; that of its start by default
    :param poll: called at every step of an evaluation, to end it by an exception
    :param averaged: evaluate this average in place of the present policy; list it before
    """

    def __init__(
        self,
        env: VecEnv,
        every: int,
        n_episodes: int,
        seed: int,
        on_evaluation: OnEvaluation | None = None,
        deterministic: bool = True,
        last: int | None = None,
        poll: Callable[[], None] = lambda: None,
        averaged: AveragedPolicy | None = None,
    ):
        super().__init__()
        self.env, self.every, self.n_episodes, self.env_seed = env, every, n_episodes, seed
        self.on_evaluation, self.deterministic, self.poll = on_evaluation, deterministic, poll
        self.averaged = averaged
        self.last_before, self.last = last, 0
        self.evaluations: list[Evaluation] = []
        self._goes_on = True
        self._evaluation_seconds = 0.0

    def _on_training_start(self) -> None:
        self._started = time.perf_counter()
        self.last = self.num_timesteps if self.last_before is None else self.last_before

    def _on_rollout_start(self) -> None:
        if has_passed_multiple(self.every, self.last, self.num_timesteps):
            self._evaluate()

    def _on_step(self) -> bool:
        return self._goes_on

    def _on_training_end(self) -> None:
        if self._goes_on and not (self.evaluations and self.evaluations[-1].step == self.num_timesteps):
            self._evaluate()

    def _evaluate(self) -> None:
        began = time.perf_counter()
        wall_s = began - self._started - self._evaluation_seconds
        model = evaluated(self.model, self.averaged)
        evaluation = evaluate(model, self.env, self.n_episodes, self.env_seed, self.deterministic, self.poll)
        episodes = self.model.ep_info_buffer
        train_return = float(np.mean([episode["r"] for episode in episodes])) if episodes else float("nan")
        self.last = self.num_timesteps
        self.evaluations.append(evaluation._replace(step=self.num_timesteps, train_return=train_return, wall_s=wall_s))
        self.logger.record("eval/mean_reward", evaluation.mean)
        self.logger.record("eval/mean_ep_length", float(evaluation.lengths.mean()))
        if self.on_evaluation is not None:
            self._goes_on = self.on_evaluation(self.evaluations[-1]) is not False
        self._evaluation_seconds += time.perf_counter() - began


def evaluate(
    model: BaseAlgorithm,
    env: VecEnv,
    n_episodes: int,
    seed: int,
    deterministic: bool = True,
    poll: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Play ``n_episodes`` from the initial states of ``seed``, with the observation statistics of the model's own
    environment, if it has one; ``step``, ``train_return`` and ``wall_s`` are left open.

    A model acts by the masks of the environment and by its memory where it has one. The global random generators are as
    they were afterwards.

    :raises UsageError: when the algorithm acts by masks and the environment has none
    """
    check_masks(type(model), env)
    training_env = model.get_env()
    if training_env is not None and training_env is not env:
        sync_envs_normalization(training_env, env)
    episodes = play(model, env, n_episodes, seed, deterministic, poll)
    return Evaluation(0, episodes.returns, episodes.lengths, float("nan"), 0.0)
