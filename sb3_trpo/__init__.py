"""Trust Region Policy Optimization for Stable-Baselines3."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_trpo.algorithms.maskable import MaskableTRPO
    from sb3_trpo.algorithms.maskable_recurrent import MaskableRecurrentTRPO
    from sb3_trpo.algorithms.recurrent import RecurrentTRPO
    from sb3_trpo.algorithms.subproc import WatchedSubprocVecEnv
    from sb3_trpo.algorithms.trpo import TRPO

__version__ = "0.1.0"

__all__ = ["TRPO", "MaskableRecurrentTRPO", "MaskableTRPO", "RecurrentTRPO", "WatchedSubprocVecEnv", "__version__"]

_MODULES = {
    "TRPO": "trpo",
    "MaskableTRPO": "maskable",
    "RecurrentTRPO": "recurrent",
    "MaskableRecurrentTRPO": "maskable_recurrent",
    "WatchedSubprocVecEnv": "subproc",
}


def __getattr__(name: str) -> Any:
    """Torch is loaded with the first of these asked for, and not by ``sb3-trpo --help``."""
    if name in _MODULES:
        return getattr(import_module(f"sb3_trpo.algorithms.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
