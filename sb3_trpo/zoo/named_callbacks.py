"""The training callbacks that hyperparameters name, given what no file can say: an environment to play in, the average.

.. code-block:: yaml

    callback: [{AveragedPolicy: {decay: 0.95}}, {Validation: {eval_freq: 2e4}}]
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm
from sb3_trpo.callbacks import AveragedPolicy, Checkpoints, Validation
from sb3_trpo.zoo.algorithms import algorithm_class
from sb3_trpo.zoo.errors import UsageError, whole
from sb3_trpo.zoo.models import make_evaluation_env, named_classes

ENVIRONMENTS = ("env", "eval_env")
"""Parameters that ask for an environment, apart from the one that is trained in."""

FOR_OURS = (AveragedPolicy, Checkpoints, Validation)
"""Those that know what algorithms of this package remember."""

N_EPISODES = 10
"""Episodes that the environment is made for where the callback's ``n_eval_episodes`` is not given."""


@contextmanager
def named_callbacks(env_id: str, hyperparams: Mapping[str, Any]) -> Iterator[list[BaseCallback]]:
    """The callbacks in the order of ``hyperparams["callback"]``, whose environments are closed afterwards.

    One whose ``env`` or ``eval_env`` is required gets an evaluation environment like the one that is trained in; one
    with a parameter ``averaged`` the `AveragedPolicy` listed before it, if there is one.

    :raises UsageError: for one that does not exist or does not take its arguments
    """
    made: list[BaseCallback] = []
    with ExitStack() as stack:
        for cls, kwargs in _classes(hyperparams.get("callback")):
            given = dict(kwargs)
            for name, parameter in inspect.signature(cls).parameters.items():
                if name in given:
                    given[name] = _as_its_default(given[name], parameter.default)
                elif name in ENVIRONMENTS and parameter.default is parameter.empty:
                    n_episodes = whole("n_eval_episodes", given.get("n_eval_episodes", N_EPISODES), 1)
                    given[name] = stack.enter_context(closing(make_evaluation_env(env_id, hyperparams, n_episodes)))
                elif name == "averaged":
                    given[name] = kept_average(made)
            try:
                made.append(cls(**given))
            except (TypeError, ValueError) as error:
                raise UsageError(f"callback={hyperparams['callback']!r} cannot be made: {error}") from error
        yield made


def check_callbacks(algo: str, named: Any) -> None:
    """Refuse what names no callbacks, or callbacks that cannot go with ``algo`` or with each other.

    :raises UsageError: saying which
    """
    classes = [cls for cls, _ in _classes(named)]
    for cls in classes:
        if issubclass(cls, FOR_OURS) and not issubclass(algorithm_class(algo), TrustRegionAlgorithm):
            raise UsageError(f"callback={named!r}: {cls.__name__} is for algorithms of sb3_trpo, which {algo} is not")
    later = [k for k, cls in enumerate(classes) if issubclass(cls, AveragedPolicy)]
    if later and any(issubclass(cls, Validation) for cls in classes[: later[-1]]):
        raise UsageError(f"callback={named!r}: AveragedPolicy must stand before Validation, which validates it")


def _classes(named: Any) -> list[tuple[type[BaseCallback], dict[str, Any]]]:
    return named_classes(named, "callback", BaseCallback, "sb3_trpo.callbacks")  # type: ignore[type-abstract]


def _as_its_default(value: Any, default: Any) -> Any:
    """``value``, as an integer where that is what it stands in the place of, and what it is: YAML reads 1e5 as 1e5."""
    wants_integer = isinstance(default, int) and not isinstance(default, bool)
    return int(value) if wants_integer and isinstance(value, float) and value.is_integer() else value


def kept_average(callbacks: Sequence[BaseCallback]) -> AveragedPolicy | None:
    """The one among ``callbacks`` that keeps an average of the policies."""
    return next((callback for callback in callbacks if isinstance(callback, AveragedPolicy)), None)
