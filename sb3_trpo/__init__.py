"""Trust Region Policy Optimization for Stable-Baselines3."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_trpo.algorithms.trpo import TRPO

__version__ = "0.1.0"

__all__ = ["TRPO", "__version__"]


def __getattr__(name: str) -> Any:
    """Torch is loaded with the first algorithm asked for, and not by ``sb3-trpo --help``."""
    if name == "TRPO":
        from sb3_trpo.algorithms.trpo import TRPO

        return TRPO
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
