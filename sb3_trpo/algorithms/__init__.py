"""Trust-region algorithms in the interface of Stable-Baselines3."""
