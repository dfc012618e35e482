"""Hyperparameter files, training runs, searches and benchmarks: RL Zoo's ways, and what the command line is made of.

.. code-block:: python

    from sb3_trpo.zoo import load_hyperparams, make_model, sample_trpo_params

    model = make_model("trpo", "HalfCheetah-v5", load_hyperparams("trpo", "HalfCheetah-v5"), seed=1)

Names are loaded when they are asked for: the command line starts without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_trpo.zoo.errors import UsageError
    from sb3_trpo.zoo.hyperparams import load_hyperparams
    from sb3_trpo.zoo.models import make_env, make_model
    from sb3_trpo.zoo.spaces import sample_environment, sample_trpo_params, start_params

__all__ = [
    "UsageError",
    "load_hyperparams",
    "make_env",
    "make_model",
    "sample_environment",
    "sample_trpo_params",
    "start_params",
]

_HOMES = {
    "UsageError": "errors",
    "load_hyperparams": "hyperparams",
    "make_env": "models",
    "make_model": "models",
    "sample_environment": "spaces",
    "sample_trpo_params": "spaces",
    "start_params": "spaces",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"sb3_trpo.zoo.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
