"""Callbacks for `learn`."""

from sb3_trpo.callbacks.checkpoints import Checkpoints
from sb3_trpo.callbacks.signals import EndedBySignals, Interrupted, SignalWatch

__all__ = ["Checkpoints", "EndedBySignals", "Interrupted", "SignalWatch"]
