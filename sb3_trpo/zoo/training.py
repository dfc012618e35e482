"""One training run with evaluations: what searches and benchmarks are made of."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo.zoo.evaluations import Evaluation, OnEvaluation, PeriodicEvaluation
from sb3_trpo.zoo.models import make_callbacks, make_env, make_model

EVALUATION_SEED = 10_000
"""Added to the seed of a run for its evaluation environment: other initial states than those of training."""


def train_and_evaluate(
    algo: str,
    env_id: str,
    hyperparams: Mapping[str, Any],
    *,
    seed: int,
    n_timesteps: int | None = None,
    eval_freq: int = 0,
    n_eval_episodes: int = 10,
    on_evaluation: OnEvaluation | None = None,
    callbacks: Sequence[BaseCallback] = (),
    device: str = "cpu",
) -> list[Evaluation]:
    """Train one model from scratch and return its evaluations, the last of them at the end.

    :param n_timesteps: environment steps, those of the hyperparameters by default
    :param eval_freq: steps between evaluations, 0 for one at the end
    :param on_evaluation: told of each evaluation; False ends the training
    :raises UsageError: for hyperparameters that cannot be used
    """
    model = make_model(algo, env_id, dict(hyperparams), seed=seed, device=device)
    evaluation_env = make_env(env_id, hyperparams, n_envs=min(n_eval_episodes, 16), training=False)
    evaluation = PeriodicEvaluation(evaluation_env, eval_freq, n_eval_episodes, EVALUATION_SEED + seed, on_evaluation)
    try:
        model.learn(
            int(hyperparams["n_timesteps"] if n_timesteps is None else n_timesteps),
            callback=[*make_callbacks(hyperparams), *callbacks, evaluation],
        )
    finally:
        evaluation_env.close()
        if model.env is not None:
            model.env.close()
    return evaluation.evaluations


def use_threads(n: int) -> None:
    """Have torch use ``n`` threads: one is fastest for the small networks of control tasks."""
    th.set_num_threads(n)
