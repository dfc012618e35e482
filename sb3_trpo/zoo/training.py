"""One training run with evaluations: what searches and benchmarks are made of."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from sb3_trpo.zoo.errors import UsageError, whole
from sb3_trpo.zoo.evaluations import Evaluation, OnEvaluation, PeriodicEvaluation
from sb3_trpo.zoo.models import make_evaluation_env, make_model
from sb3_trpo.zoo.named_callbacks import kept_average, named_callbacks

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
    steps = hyperparams.get("n_timesteps") if n_timesteps is None else n_timesteps
    if steps is None:
        raise UsageError(f"the hyperparameters of {env_id} have no n_timesteps: give n_timesteps")
    steps = whole("n_timesteps", steps, 1)
    eval_freq, n_eval_episodes = whole("eval_freq", eval_freq, 0), whole("n_eval_episodes", n_eval_episodes, 1)
    with ExitStack() as stack:
        model = make_model(algo, env_id, dict(hyperparams), seed=seed, device=device)
        if model.env is not None:
            stack.enter_context(closing(model.env))
        evaluation_env = stack.enter_context(closing(make_evaluation_env(env_id, hyperparams, n_eval_episodes)))
        named = stack.enter_context(named_callbacks(env_id, hyperparams))
        evaluation = PeriodicEvaluation(
            evaluation_env, eval_freq, n_eval_episodes, EVALUATION_SEED + seed, on_evaluation,
            averaged=kept_average(named),
        )  # fmt: skip
        model.set_logger(Logger(None, []))  # the default one leaves a folder in /tmp
        model.learn(steps, callback=[*named, *callbacks, evaluation])
    return evaluation.evaluations


def use_threads(n: int) -> None:
    """Have torch use ``n`` threads: one is fastest for the small networks of control tasks."""
    th.set_num_threads(n)


def hush_mujoco() -> None:
    """MuJoCo repeats a deprecation of Gymnasium's models for every environment; what tells of trouble is shown."""
    try:
        import mujoco
    except ImportError:
        return
    mujoco.set_mju_user_warning(lambda text: None if "settotalmass" in text else warnings.warn(text, stacklevel=2))
