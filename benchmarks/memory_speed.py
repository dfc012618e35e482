"""Time of an update of RecurrentTRPO and of sb3-contrib's RecurrentPPO on the same rollouts.

``python -m benchmarks.memory_speed`` measures and writes ``memory_speed.csv`` and a table. Defaults of both, but for
rollouts of N = 2048 steps; the same networks with the same weights and the same rollout, CartPole-v1, one thread. Both
update in turn, five times; a ratio is the median of the ratios within turns. A rollout is timed on the way.
"""

import csv
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo import RecurrentTRPO

RESULTS = Path(__file__).parent / "memory_speed.csv"
TURNS = 5
N = 2048
CASES = [(1, 64), (8, 64), (32, 64), (8, 256)]
"""Environments, hidden units."""


class Turn(NamedTuple):
    """Seconds of one rollout and of one update on it."""

    n_envs: int
    hidden: int
    contestant: str
    turn: int
    rollout_s: float
    update_s: float


def make(algorithm: Any, n_envs: int, hidden: int) -> Any:
    """A model with defaults, and rollouts of N steps."""
    kwargs = {"lstm_hidden_size": hidden}
    env = make_vec_env("CartPole-v1", n_envs, seed=0)
    return algorithm(
        "MlpLstmPolicy", env, n_steps=N // n_envs, batch_size=128, policy_kwargs=kwargs, seed=0, device="cpu"
    )


def measure(n_envs: int, hidden: int) -> list[Turn]:
    """Both in turn, each time from the same weights on the same rollout."""
    ours, theirs = make(RecurrentTRPO, n_envs, hidden), make(RecurrentPPO, n_envs, hidden)
    turns = []
    callbacks = {model: model._setup_learn(10**9)[1] for model in (ours, theirs)}
    for turn in range(TURNS):
        theirs.policy.load_state_dict(ours.policy.state_dict())
        seconds = {}
        for model, callback in callbacks.items():
            began = time.perf_counter()
            model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
            seconds[model] = time.perf_counter() - began
        ours.rollout_buffer = theirs.rollout_buffer
        order = [ours, theirs] if turn % 2 else [theirs, ours]
        for model in order:
            began = time.perf_counter()
            model.train()
            taken = time.perf_counter() - began
            turns.append(Turn(n_envs, hidden, type(model).__name__, turn, seconds[model], taken))
        ours.rollout_buffer = ours._make_rollout_buffer()  # one of its own again
    return turns


def table(turns: list[Turn]) -> str:
    """Medians, and ratios within turns, as Markdown."""
    rows = ["| environments, hidden units | what | RecurrentTRPO | RecurrentPPO | ratio |", "|---|---|---|---|---|"]
    for n_envs, hidden in dict.fromkeys((turn.n_envs, turn.hidden) for turn in turns):
        for what, name in (("update", "update_s"), ("rollout of 2048 steps", "rollout_s")):
            ours, theirs = (
                [getattr(t, name) for t in turns if t[:3] == (n_envs, hidden, contestant)]
                for contestant in ("RecurrentTRPO", "RecurrentPPO")
            )
            ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
            medians = f"{statistics.median(ours):.2f} s | {statistics.median(theirs):.2f} s"
            rows.append(f"| {n_envs}, {hidden} | {what} | {medians} | {ratio:.1f}x |")
    return "\n".join(rows)


def read() -> list[Turn]:
    """What was measured."""
    with RESULTS.open(encoding="utf-8") as stream:
        return [
            Turn(int(r["n_envs"]), int(r["hidden"]), r["contestant"], int(r["turn"]), *map(float, [*r.values()][4:]))
            for r in csv.DictReader(stream)
        ]


def main() -> None:
    """Measure all cases, write as they come."""
    th.set_num_threads(1)
    turns: list[Turn] = []
    for case in CASES:
        turns += measure(*case)
        with RESULTS.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(Turn._fields)
            writer.writerows(turns)
    print(table(turns))


if __name__ == "__main__":
    main()
