"""Callbacks for `learn`."""

from sb3_trpo.callbacks.averaged import AveragedPolicy
from sb3_trpo.callbacks.checkpoints import Checkpoints
from sb3_trpo.callbacks.signals import EndedBySignals, Interrupted, SignalWatch
from sb3_trpo.callbacks.validation import Validation

__all__ = ["AveragedPolicy", "Checkpoints", "EndedBySignals", "Interrupted", "SignalWatch", "Validation"]
