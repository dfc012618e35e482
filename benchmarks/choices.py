"""Learning under each choice of solver and critic that is not the default: what pays, and what does not.

    .venv/bin/python -m benchmarks.choices                          # all that is missing in choices.csv, two at a time
    .venv/bin/python -m benchmarks.choices --choices fewer_steps    # one of them against the default

Settings of benchmarks/first_guess.yml, one thread each. ``mean_return`` is the training return averaged over the
whole run, one value for each rollout (Stable-Baselines3's mean of the last 100 episodes), ``final_return`` that of the
last twenty rollouts. A run that is in the file is not made again.
"""

import argparse
import csv
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.halfcheetah import FIRST_GUESS
from sb3_trpo.zoo.hyperparams import load_hyperparams
from sb3_trpo.zoo.models import make_model
from sb3_trpo.zoo.training import hush_mujoco

RESULTS = Path(__file__).parent / "choices.csv"
COLUMNS = ("env", "choice", "seed", "steps", "mean_return", "final_return", "seconds")
CHOICES: dict[str, dict[str, Any]] = {
    "default": {},
    "kronecker": {"cg_preconditioner": "kronecker"},
    "fewer_steps": {"cg_max_steps": 10},
    "few_steps": {"cg_max_steps": 6},
    "gauss_newton": {"critic": "gauss_newton"},
    "holdout": {"critic_kwargs": {"holdout": 0.1, "patience": 2}},
}


class Returns(BaseCallback):
    """The training return at the end of each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer
        if episodes:
            self.returns.append(float(np.mean([episode["r"] for episode in episodes])))


def run(job: tuple[str, str, int, int]) -> dict[str, Any]:
    """Train once, and what came of it."""
    env_id, choice, seed, steps = job
    hush_mujoco()
    th.set_num_threads(1)
    returns, started = Returns(), time.perf_counter()
    hyperparams = {**load_hyperparams("trpo", env_id, FIRST_GUESS), **CHOICES[choice]}
    model = make_model("trpo", env_id, hyperparams, seed=seed, device="cpu")
    model.learn(steps, callback=returns)
    model.env.close()
    mean, final = np.mean(returns.returns), np.mean(returns.returns[-20:])
    values = (*job, round(float(mean)), round(float(final)), round(time.perf_counter() - started, 1))
    return dict(zip(COLUMNS, values, strict=True))


def read() -> list[dict[str, str]]:
    """The runs made so far."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append(row: dict[str, Any]) -> None:
    """Add a run to the file."""
    is_new = not RESULTS.exists()
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def table() -> str:
    """Means over seeds, and the values they are means of."""
    runs = read()
    rows = ["| environment | choice | mean return | final return | by seed |", "|---|---|---|---|---|"]
    for env in dict.fromkeys(run["env"] for run in runs):
        for choice in CHOICES:
            of_it = sorted((r for r in runs if (r["env"], r["choice"]) == (env, choice)), key=lambda r: int(r["seed"]))
            if of_it:
                means, finals = ([float(r[key]) for r in of_it] for key in ("mean_return", "final_return"))
                by_seed = ", ".join(f"{value:.0f}" for value in means)
                rows.append(f"| {env} | {choice} | {np.mean(means):.0f} | {np.mean(finals):.0f} | {by_seed} |")
    return "\n".join(rows)


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choices", nargs="+", choices=list(CHOICES), default=list(CHOICES), metavar="CHOICE")
    parser.add_argument("--envs", nargs="+", default=["HalfCheetah-v5", "Hopper-v5"])
    parser.add_argument("--seeds", type=int, default=4, help="runs of each (default 4)")
    parser.add_argument("--steps", type=float, default=3e5, help="environment steps of each run (default 3e5)")
    parser.add_argument("--table-only", action="store_true", help="print what is there, run nothing")
    arguments = parser.parse_args()
    made = {(run["env"], run["choice"], int(run["seed"]), int(run["steps"])) for run in read()}
    jobs = [
        (env, choice, seed, int(arguments.steps))
        for seed in range(arguments.seeds)
        for env in arguments.envs
        for choice in arguments.choices
    ]
    jobs = [] if arguments.table_only else [job for job in jobs if job not in made]
    if jobs:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            for row in pool.imap_unordered(run, jobs):
                append(row)
                print(row, flush=True)
    print(table())


if __name__ == "__main__":
    main()
