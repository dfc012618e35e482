"""Whether both packages learn alike: many seeds of HalfCheetah-v5, the same settings, the first 220,000 steps.

    .venv/bin/python -m benchmarks.early_learning

Returns at that point fall into two groups, gaits found early and gaits found late, so that a few long runs say little.
The settings are those of benchmarks/first_guess.yml with its schedules for 1e6 steps; one row per run is appended to
early_learning.csv as it comes, and runs which are there are not repeated.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch as th
from scipy.stats import mannwhitneyu
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.halfcheetah import make_model

FILE = Path(__file__).parent / "early_learning.csv"
IMPLEMENTATIONS = ("sb3_trpo, tuned", "sb3_contrib, tuned")


class StopAt(BaseCallback):
    """End the training early, with the schedules of the whole one."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def _on_step(self) -> bool:
        return self.num_timesteps < self.steps


def main() -> None:
    """Train what is missing and compare the two samples of returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6, help="runs of each, seeds from 10 on (default 6)")
    parser.add_argument("--steps", type=int, default=220_000, help="where to stop (default 220000)")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    returns: dict[tuple[str, int], float] = {}
    if FILE.exists():
        with FILE.open() as stream:
            returns = {(name, int(seed)): float(value) for name, seed, value in csv.reader(stream)}
    for seed in range(10, 10 + arguments.seeds):
        for name in IMPLEMENTATIONS:
            if (name, seed) in returns:
                continue
            model = make_model(name, seed).learn(1_000_000, callback=StopAt(arguments.steps))
            returns[name, seed] = float(np.mean([episode["r"] for episode in list(model.ep_info_buffer)[-30:]]))
            with FILE.open("a", newline="") as stream:
                csv.writer(stream).writerow([name, seed, f"{returns[name, seed]:.0f}"])
    samples = [[value for (name, _), value in returns.items() if name == which] for which in IMPLEMENTATIONS]
    for name, sample in zip(IMPLEMENTATIONS, samples, strict=True):
        print(f"{name}: {', '.join(f'{value:.0f}' for value in sample)}; mean {np.mean(sample):.0f}")
    print(f"Mann-Whitney p = {mannwhitneyu(*samples).pvalue:.2f}")


if __name__ == "__main__":
    main()
