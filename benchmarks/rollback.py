"""What a rollback is worth where trainings fail: a radius ten times too large, and rewards that are mostly noise.

Run: ``python -m benchmarks.rollback``, which is resumable and makes two runs at a time; ``--plot-only`` draws what is
there. TRPO on InvertedPendulum-v5, with a radius of 0.1 in place of 0.01 and Gaussian noise of standard deviation 1 on
every reward of 1, five seeds. Both ways validate every 4,000 steps on ten episodes without noise; the one goes back to
the last good policy when the test says so, and the other goes on. The return at the end is that of twenty more episodes
of the policy that `learn` leaves behind, beside the best of all validations.
"""

import argparse
import csv
import multiprocessing
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo import TRPO
from sb3_trpo.callbacks import Validation
from sb3_trpo.callbacks.episodes import play
from sb3_trpo.callbacks.validation import Comparison, Progress

FOLDER = Path(__file__).parent / "rollback"
RESULTS = FOLDER / "returns.csv"
COLUMNS = ("way", "seed", "at", "step", "mean_return", "rollbacks")
ENV, RADIUS, NOISE, STEPS, EVAL_FREQ, SEEDS = "InvertedPendulum-v5", 0.1, 1.0, 60_000, 4_000, 5
WAYS = ("without rollback", "with rollback")


class NoisyRewards(gym.RewardWrapper):
    """Adds Gaussian noise to every reward."""

    def reward(self, reward: Any) -> float:
        """The reward of one step."""
        return float(reward) + NOISE * self.unwrapped.np_random.normal()


class Noted(Validation):
    """Keeps the mean return of every validation."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.noted: list[tuple[int, float, int]] = []

    def _conclude(self, candidate: Any, now: Progress, compared: Comparison, is_best: bool = False) -> None:
        self.noted.append((now.step, float(compared.new.mean()), now.rollbacks))
        super()._conclude(candidate, now, compared, is_best)


class Watching(Noted):
    """Validates and goes on whatever is found."""

    def _roll_back(self, now: Progress) -> None:
        self._remember(now._replace(rollbacks=0, factor=1.0))


def run(job: tuple[str, int]) -> list[dict[str, Any]]:
    """Train once: the rows of its validations, and of its end."""
    way, seed = job
    th.set_num_threads(1)
    model = TRPO(
        "MlpPolicy",
        make_vec_env(ENV, 4, seed=seed, wrapper_class=NoisyRewards),
        n_steps=256,
        target_kl=RADIUS,
        seed=seed,
        device="cpu",
    )
    env = make_vec_env(ENV, 10)
    validation = (Noted if way == "with rollback" else Watching)(env, eval_freq=EVAL_FREQ, seed=seed)
    model.learn(STEPS, validation)
    final = float(play(model, env, 20, seed=10_000 + seed).returns.mean())
    *_, (step, _, rollbacks) = validation.noted
    rows = [(way, seed, "validation", *noted) for noted in validation.noted]
    return [dict(zip(COLUMNS, row, strict=True)) for row in [*rows, (way, seed, "end", step, final, rollbacks)]]


def read() -> list[dict[str, str]]:
    """The rows of the runs made so far."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append(rows: list[dict[str, Any]]) -> None:
    """Add a run to the file."""
    is_new = not RESULTS.exists()
    FOLDER.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def curve(way: str, seed: int) -> tuple[list[int], list[float], float | None]:
    """Steps and returns of a run's validations, and its return at the end."""
    rows = [row for row in read() if (row["way"], row["seed"]) == (way, str(seed))]
    seen = [row for row in rows if row["at"] == "validation"]
    end = next((float(row["mean_return"]) for row in rows if row["at"] == "end"), None)
    return [int(row["step"]) for row in seen], [float(row["mean_return"]) for row in seen], end


def table() -> str:
    """What every run came to.

    Lows are validations below nine tenths of the best, after the first that was not; for a run with rollbacks they are
    those before it went back.
    """
    lines = ["| way | ends within 10 % of the best | end / best, by seed | lows, by seed |", "|---|---|---|---|"]
    for way in WAYS:
        runs = [(returns, end) for _, returns, end in (curve(way, seed) for seed in range(SEEDS)) if end is not None]
        held = sum(end >= 0.9 * max(returns) for returns, end in runs)
        pairs = ", ".join(f"{end:.0f} / {max(returns):.0f}" for returns, end in runs)
        lows = ", ".join(str(lows_of(returns)) for returns, _ in runs)
        lines.append(f"| {way} | {held} of {len(runs)} | {pairs} | {lows} |")
    return "\n".join(lines)


def lows_of(returns: list[float]) -> int:
    """How many are below nine tenths of the best, after the first that was not."""
    is_low = [value < 0.9 * max(returns) for value in returns]
    return sum(is_low[is_low.index(False) :])


def plot() -> None:
    """One panel a way: validations as lines, the end as a dot."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    for panel, way in zip(panels, WAYS, strict=True):
        for seed in range(SEEDS):
            steps, returns, end = curve(way, seed)
            (line,) = panel.plot(steps, returns, linewidth=1.2, label=f"seed {seed}")
            if end is not None:
                panel.plot(steps[-1] + 1500, end, "o", color=line.get_color(), clip_on=False)
        panel.set(title=way, xlabel="environment steps")
    panels[0].set_ylabel("return without noise")
    panels[0].legend(fontsize="small")
    figure.suptitle(f"{ENV}, radius 10x too large, noisy rewards; dots: policy at the end")
    figure.savefig(FOLDER / "rollback.png", dpi=130)


def main() -> None:
    """Make the runs that are missing, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot-only", action="store_true", help="draw what is there, run nothing")
    arguments = parser.parse_args()
    made = {(row["way"], int(row["seed"])) for row in read() if row["at"] == "end"}
    jobs = [] if arguments.plot_only else [(way, seed) for seed in range(SEEDS) for way in WAYS]
    jobs = [job for job in jobs if job not in made]
    if jobs:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            for rows in pool.imap_unordered(run, jobs):
                append(rows)
                print(rows[-1], flush=True)
    print(table())
    plot()


if __name__ == "__main__":
    main()
