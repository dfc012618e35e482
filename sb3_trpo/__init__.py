"""Trust Region Policy Optimization for Stable-Baselines3."""

from sb3_trpo.algorithms.trpo import TRPO

__version__ = "0.1.0"

__all__ = ["TRPO", "__version__"]
