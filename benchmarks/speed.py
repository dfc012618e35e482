"""Environment steps per second of `learn()`, this package against sb3-contrib, defaults of both.

    .venv/bin/python -m benchmarks.speed

One environment, one thread, interleaved runs, medians; the ratio is the figure to look at, not the times.
"""

import argparse
import time

import numpy as np
import sb3_contrib
import torch as th

import sb3_trpo

CONTESTANTS = {"sb3_trpo": sb3_trpo.TRPO, "sb3_contrib": sb3_contrib.TRPO}


def microseconds_per_step(cls: type, env: str, steps: int, seed: int) -> float:
    """Wall-clock of one short training."""
    model = cls("MlpPolicy", env, seed=seed, device="cpu")
    started = time.perf_counter()
    model.learn(steps)
    return (time.perf_counter() - started) / steps * 1e6


def main() -> None:
    """Print a row for each environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=["CartPole-v1", "HalfCheetah-v5", "Hopper-v5"])
    parser.add_argument("--runs", type=int, default=5, help="runs of each to take the median of (default 5)")
    parser.add_argument("--steps", type=int, default=3 * 2048, help="environment steps of each run (default 6144)")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    print("| environment | sb3_trpo, us/step | sb3-contrib, us/step | faster |\n|---|---|---|---|")
    for env in arguments.envs:
        times = np.array(
            [
                [microseconds_per_step(cls, env, arguments.steps, seed) for cls in CONTESTANTS.values()]
                for seed in range(arguments.runs)
            ]
        )
        ours, theirs = np.median(times, 0)
        print(f"| {env} | {ours:.0f} | {theirs:.0f} | {np.median(times[:, 1] / times[:, 0]):.1f}x |", flush=True)


if __name__ == "__main__":
    main()
