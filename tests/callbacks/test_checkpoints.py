"""Checkpoints from which a training goes on exactly."""
