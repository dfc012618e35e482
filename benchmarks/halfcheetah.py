"""TRPO of this package against sb3-contrib's on HalfCheetah-v5, at the same joint trust-region radius.

    .venv/bin/python -m benchmarks.halfcheetah run       # 1e6 steps, seeds 0-2, two runs at a time; resumable
    .venv/bin/python -m benchmarks.halfcheetah report    # table on the terminal, learning_curves.png

Each run writes one CSV (env, implementation, seed, step, train_return, wall_s, eval_mean, eval_std, n_episodes) when
it has finished; those of one seed run close together, so that wall-clock is compared under the same load. Both get
the same settings, translated: the defaults (one environment, no normalisation) at a joint radius of 0.06, and "tuned",
the entry of benchmarks/first_guess.yml. One thread each.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ENV = "HalfCheetah-v5"
FOLDER = Path(__file__).parent / "halfcheetah"
FIRST_GUESS = Path(__file__).parent / "first_guess.yml"
COLUMNS = ["env", "implementation", "seed", "step", "train_return", "wall_s", "eval_mean", "eval_std", "n_episodes"]
IMPLEMENTATIONS = ("sb3_trpo", "sb3_contrib", "sb3_trpo, tuned", "sb3_contrib, tuned")
ACTION_DIMENSIONS = 6


def make_model(implementation: str, seed: int):
    """The contestant, untrained: both packages get the same settings, sb3-contrib's averaged over the actions."""
    from sb3_trpo.zoo.hyperparams import load_hyperparams, model_arguments
    from sb3_trpo.zoo.models import make_env

    package, _, tuned = implementation.partition(", ")
    hyperparams = load_hyperparams("trpo", ENV, FIRST_GUESS)
    joint = {"cg_damping": 0.1, **model_arguments(hyperparams)} if tuned else {"target_kl": 0.06, "cg_damping": 0.6}
    if package == "sb3_trpo":
        from sb3_trpo import TRPO
    else:
        from sb3_contrib import TRPO

        joint.update({name: joint[name] / ACTION_DIMENSIONS for name in ("target_kl", "cg_damping")})
    env = make_env(ENV, hyperparams, seed=seed) if tuned else ENV
    return TRPO(env=env, seed=seed, device="cpu", **{"policy": "MlpPolicy", **joint})


def train_one(implementation: str, seed: int, total_steps: int, file: Path) -> None:
    """Train, evaluate deterministically, and write the rows of one run at once."""
    import numpy as np
    import torch as th
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy

    th.set_num_threads(1)

    class Curve(BaseCallback):
        """The mean return of the last 100 training episodes, after each rollout."""

        def __init__(self):
            super().__init__()
            self.rows = []

        def _on_training_start(self):
            self.started = time.perf_counter()

        def _on_step(self):
            return True

        def _on_rollout_end(self):
            if self.model.ep_info_buffer:
                train_return = np.mean([episode["r"] for episode in self.model.ep_info_buffer])
                self.rows.append([self.num_timesteps, train_return, time.perf_counter() - self.started])

    model, curve = make_model(implementation, seed), Curve()
    model.learn(total_steps, callback=curve)
    wall_s = time.perf_counter() - curve.started
    env = model.get_env()
    if hasattr(env, "training"):
        env.training = env.norm_reward = False
    env.seed(10_000 + seed)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=20, deterministic=True, return_episode_rewards=True)

    rows = [[ENV, implementation, seed, step, f"{r:.2f}", f"{t:.2f}", "", "", ""] for step, r, t in curve.rows[4::5]]
    final = [f"{np.mean(returns):.2f}", f"{np.std(returns, ddof=1):.2f}", len(returns)]
    rows.append([ENV, implementation, seed, model.num_timesteps, f"{curve.rows[-1][1]:.2f}", f"{wall_s:.2f}", *final])
    temporary = file.with_suffix(".tmp")
    with temporary.open("w", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    temporary.replace(file)


def run(arguments: argparse.Namespace) -> None:
    """Train what has no file yet, in processes of their own."""
    FOLDER.mkdir(exist_ok=True)

    def launch(job: tuple[str, int]) -> None:
        implementation, seed = job
        file = FOLDER / f"{implementation.replace(', ', '_')}-{seed}.csv"
        if not file.exists():
            print(f"{implementation} seed {seed} started", flush=True)
            command = [sys.executable, __file__, "one", implementation, str(seed), str(int(arguments.steps)), str(file)]
            root = Path(__file__).parent.parent
            subprocess.run(
                command, check=True, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
            )
            print(f"{implementation} seed {seed} done", flush=True)

    jobs = [(implementation, seed) for seed in range(arguments.seeds) for implementation in IMPLEMENTATIONS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(launch, jobs))
    report(arguments)


def report(arguments: argparse.Namespace) -> None:
    """Print the table of final scores and draw the learning curves against steps and wall-clock."""
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from sb3_trpo.evaluation.curves import Curve, band, plot_bands

    runs: dict[str, list[list[dict[str, str]]]] = {}
    for file in sorted(FOLDER.glob("*.csv")):
        with file.open() as stream:
            rows = list(csv.DictReader(stream))
        runs.setdefault(rows[0]["implementation"], []).append(rows)
    runs = {name: runs[name] for name in IMPLEMENTATIONS if name in runs}

    def column(rows, name):
        return np.array([float(row[name]) for row in rows])

    print("| | deterministic return of 20 episodes, by seed | mean | wall-clock, s | steps/s |\n|---|---|---|---|---|")
    for name, group in runs.items():
        scores = [float(rows[-1]["eval_mean"]) for rows in group]
        walls = [float(rows[-1]["wall_s"]) for rows in group]
        each = ", ".join(
            f"{rows[-1]['seed']}: {score:.0f} ± {float(rows[-1]['eval_std']):.0f}"
            for rows, score in zip(group, scores, strict=True)
        )
        speed = np.median([float(rows[-1]["step"]) / wall for rows, wall in zip(group, walls, strict=True)])
        print(f"| {name} | {each} | {np.mean(scores):.0f} | {', '.join(f'{w:.0f}' for w in walls)} | {speed:.0f} |")

    figure, panels = plt.subplots(1, 2, figsize=(11, 4), sharey=True, constrained_layout=True)
    for panel, x, label in zip(panels, ("step", "wall_s"), ("environment steps", "wall-clock, s"), strict=True):
        curves = {
            name: band([Curve(column(rows, x), column(rows, "train_return")) for rows in group])
            for name, group in runs.items()
        }
        plot_bands(panel, curves, label)
    panels[1].set_ylabel("")
    figure.suptitle(f"{ENV}: mean and range over {arguments.seeds} seeds (training return, last 100 episodes)")
    figure.savefig(FOLDER / "learning_curves.png", dpi=120)
    print(f"drawn: {FOLDER / 'learning_curves.png'}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=float, default=1e6, help="environment steps of each run (default 1e6)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1 (default 3)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default 2)")
    parser.add_argument("what", choices=["run", "report", "one"])
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "one":
        implementation, seed, steps, file = arguments.rest
        train_one(implementation, int(seed), int(steps), Path(file))
    else:
        {"run": run, "report": report}[arguments.what](arguments)


if __name__ == "__main__":
    main()
