"""Hyperparameter files, training runs, searches and benchmarks: RL Zoo's ways, and what the command line is made of.

.. code-block:: python

    from sb3_trpo.zoo import load_hyperparams, make_model, sample_trpo_params

    model = make_model("trpo", "HalfCheetah-v5", load_hyperparams("trpo", "HalfCheetah-v5"), seed=1)

Names are loaded when they are asked for: the command line starts without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_trpo.zoo.benchmarking import benchmark
    from sb3_trpo.zoo.errors import UsageError
    from sb3_trpo.zoo.figures import plot, report
    from sb3_trpo.zoo.hyperparams import load_hyperparams
    from sb3_trpo.zoo.models import make_env, make_model
    from sb3_trpo.zoo.playing import enjoy, evaluate_run
    from sb3_trpo.zoo.rl_zoo import register
    from sb3_trpo.zoo.spaces import sample_environment, sample_trpo_params, start_params
    from sb3_trpo.zoo.train_run import resume, train
    from sb3_trpo.zoo.tuning import tune

_HOMES = {
    "UsageError": "errors",
    "benchmark": "benchmarking",
    "enjoy": "playing",
    "evaluate_run": "playing",
    "load_hyperparams": "hyperparams",
    "make_env": "models",
    "make_model": "models",
    "plot": "figures",
    "register": "rl_zoo",
    "report": "figures",
    "resume": "train_run",
    "sample_environment": "spaces",
    "sample_trpo_params": "spaces",
    "start_params": "spaces",
    "train": "train_run",
    "tune": "tuning",
}

__all__ = [
    "UsageError",
    "benchmark",
    "enjoy",
    "evaluate_run",
    "load_hyperparams",
    "make_env",
    "make_model",
    "plot",
    "register",
    "report",
    "resume",
    "sample_environment",
    "sample_trpo_params",
    "start_params",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"sb3_trpo.zoo.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
