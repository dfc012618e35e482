"""Scores, statistics and plots of training runs: arrays in, numbers and axes out; imports nothing else of ours."""
