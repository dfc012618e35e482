"""What Kronecker factors do for conjugate gradient: residual, share of the possible improvement, and time per step.

    .venv/bin/python -m benchmarks.preconditioner

At several moments of a training the same system (F + 0.1 I) x = g is solved with and without them, and the solutions
after k steps are compared with one that has converged: ``residual`` is relative, ``share`` the improvement that the
linear model foretells for a step of the radius's length along the solution, as a share of the best one. Written to
preconditioner.csv. One thread; the times are medians of five, side by side.
"""

import argparse
import csv
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch as th
from stable_baselines3.common.logger import configure

from sb3_trpo import TRPO
from sb3_trpo.algorithms.actor import Actor
from sb3_trpo.core.conjugate_gradient import LinearMap, conjugate_gradient
from sb3_trpo.core.kronecker import kronecker_preconditioner
from sb3_trpo.core.problem import TrustRegionProblem
from sb3_trpo.zoo.training import hush_mujoco

RESULTS = Path(__file__).parent / "preconditioner.csv"
DAMPING = 0.1
STEPS = (2, 4, 8, 15, 25)
COLUMNS = ("env", "at", "solver", "cg_steps", "residual", "share", "setup_ms", "step_ms")


def problem_of(model: TRPO) -> TrustRegionProblem:
    """That of a new rollout."""
    _, callback = model._setup_learn(0, reset_num_timesteps=False)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    experience = model._experience()
    return model._pose_problem(Actor(model.policy, experience.steps), experience).problem


def milliseconds(function: Callable[[], object]) -> float:
    """Median of five."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1e3


def compare(problem: TrustRegionProblem) -> list[tuple[str, int, float, float, float, float]]:
    """Solver, steps, residual, share, time of the factors and of a step."""
    g = problem.gradient / problem.gradient.abs().max()

    def damped(v: th.Tensor) -> th.Tensor:
        return problem.fisher_vector_product(v) + DAMPING * v

    def factors() -> LinearMap | None:
        found = problem.kronecker_factors()
        return None if found is None else kronecker_preconditioner(found, DAMPING)

    def length_adjusted(x: th.Tensor) -> float:
        return float(g @ x) / math.sqrt(float(x @ damped(x)))

    best = length_adjusted(conjugate_gradient(damped, g, max_steps=300, tolerance=1e-6, preconditioner=factors()).x)
    rows = []
    product_ms = milliseconds(lambda: damped(g))
    for solver, preconditioner in (("plain", None), ("kronecker", factors())):
        setup_ms = milliseconds(factors) if preconditioner else 0.0
        step_ms = product_ms + (milliseconds(lambda p=preconditioner: p(g)) if preconditioner else 0.0)
        for k in STEPS:
            cg = conjugate_gradient(damped, g, max_steps=k, tolerance=0.0, preconditioner=preconditioner)
            rows.append((solver, k, cg.residual, length_adjusted(cg.x) / best, setup_ms, step_ms))
    return rows


def main() -> None:
    """Train a little, compare, train a little more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=["HalfCheetah-v5", "Hopper-v5", "CartPole-v1"])
    parser.add_argument("--at", nargs="+", type=float, default=[0, 4e4, 1.5e5], help="environment steps to look at")
    arguments = parser.parse_args()
    hush_mujoco()
    th.set_num_threads(1)
    rows = []
    print("| environment | steps trained | solver | CG steps | residual | share of the improvement | ms |")
    print("|---|---|---|---|---|---|---|")
    for env in arguments.envs:
        model = TRPO("MlpPolicy", env, target_kl=0.02, seed=0, device="cpu")
        model.set_logger(configure(None, []))
        for at in sorted(arguments.at):
            if at > model.num_timesteps:
                model.learn(at - model.num_timesteps, reset_num_timesteps=False)
            for solver, k, residual, share, setup_ms, step_ms in compare(problem_of(model)):
                rows.append(
                    (
                        env,
                        int(at),
                        solver,
                        k,
                        f"{residual:.2e}",
                        f"{share:.4f}",
                        *(f"{x:.2f}" for x in (setup_ms, step_ms)),
                    )
                )
                total = setup_ms + k * step_ms
                print(f"| {env} | {at:.0f} | {solver} | {k} | {residual:.1e} | {share:.3f} | {total:.1f} |", flush=True)
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
