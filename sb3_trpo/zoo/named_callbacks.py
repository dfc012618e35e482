"""The training callbacks that hyperparameters name, given what no file can say: an environment to play in, the average.

.. code-block:: yaml

    callback: [{AveragedPolicy: {decay: 0.95}}, {Validation: {eval_freq: 20000}}]
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo.callbacks import AveragedPolicy
from sb3_trpo.zoo.errors import UsageError, whole
from sb3_trpo.zoo.models import make_evaluation_env, named_classes

ENVIRONMENTS = ("env", "eval_env")
"""Parameters that ask for an environment, apart from the one that is trained in."""

N_EPISODES = 10
"""Episodes that the environment is made for where the callback's ``n_eval_episodes`` is not given."""


@contextmanager
def named_callbacks(env_id: str, hyperparams: Mapping[str, Any]) -> Iterator[list[BaseCallback]]:
    """The callbacks in the order of ``hyperparams["callback"]``, whose environments are closed afterwards.

    One whose ``env`` or ``eval_env`` is required gets an evaluation environment like the one that is trained in; one
    with a parameter ``averaged`` the `AveragedPolicy` listed before it, if there is one.

    :raises UsageError: for one that does not exist or does not take its arguments
    """
    named = named_classes(hyperparams.get("callback"), "callback", BaseCallback, "sb3_trpo.callbacks")  # type: ignore[type-abstract]
    made: list[BaseCallback] = []
    with ExitStack() as stack:
        for cls, kwargs in named:
            given = dict(kwargs)
            for name, parameter in inspect.signature(cls).parameters.items():
                if name in given:
                    continue
                if name in ENVIRONMENTS and parameter.default is parameter.empty:
                    n_episodes = whole("n_eval_episodes", given.get("n_eval_episodes", N_EPISODES), 1)
                    given[name] = stack.enter_context(closing(make_evaluation_env(env_id, hyperparams, n_episodes)))
                elif name == "averaged":
                    given[name] = kept_average(made)
            try:
                made.append(cls(**given))
            except (TypeError, ValueError) as error:
                raise UsageError(f"callback={hyperparams['callback']!r} cannot be made: {error}") from error
        yield made


def kept_average(callbacks: Sequence[BaseCallback]) -> AveragedPolicy | None:
    """The one among ``callbacks`` that keeps an average of the policies."""
    return next((callback for callback in callbacks if isinstance(callback, AveragedPolicy)), None)
