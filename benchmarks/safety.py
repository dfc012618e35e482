"""What the guards cost: an iteration with them and without, side by side.

Run: ``python -m benchmarks.safety``. Guarded is the package as it is; for the bare one, the looks at what environments
give, the checks of a rollout and the copies that an interrupted update would be undone by are taken out. Pairs of one
iteration each, in turn, of the same policy with the same random numbers: both do the same work, and the machine's ups
and downs meet both alike. Seconds are those of the processor on one thread, which other processes do not add to. The
ratio is the median of the pairs' ratios, with the quartiles.
"""

import gc
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import torch as th
import typer
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo import TRPO
from sb3_trpo.algorithms import on_policy
from sb3_trpo.algorithms.transaction import Before

PARTS = ("rollout", "update", "iteration")


@contextmanager
def bare() -> Iterator[None]:
    """The same algorithm without its guards."""
    train = on_policy.TrustRegionAlgorithm.train.__wrapped__.__wrapped__  # type: ignore[attr-defined]
    with (
        patch.object(on_policy, "guarded", lambda *arguments: nullcontext()),
        patch.object(on_policy.TrustRegionAlgorithm, "train", on_policy.one_numpy_thread()(train)),
    ):
        yield


def iteration(model: TRPO, callback: Any, seed: int) -> tuple[float, float, float]:
    """Processor seconds of one rollout, of one update, and of both."""
    assert isinstance(model.env, VecEnv)
    model.set_random_seed(seed)
    model._last_obs = model.env.reset()  # type: ignore[assignment]
    started = time.process_time()
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    collected = time.process_time()
    model.train()
    ended = time.process_time()
    return collected - started, ended - collected, ended - started


def measure(env_id: str, pairs: int) -> np.ndarray:
    """Ratios (pairs, 3) of guarded over bare seconds."""
    model = TRPO("MlpPolicy", env_id, seed=0, device="cpu")
    _, callback = model._setup_learn(10**9)
    ways: list[Callable[[], Any]] = [nullcontext, bare]
    ratios = []
    for pair in range(pairs + 1):
        seconds, before = {}, Before(model)
        before.note()
        for way in ways if pair % 2 else ways[::-1]:
            before.bring_back()
            gc.collect()
            with way():
                seconds[way] = iteration(model, callback, pair)
        ratios.append(np.divide(seconds[nullcontext], seconds[bare]))
    return np.array(ratios[1:])  # the first warms up


def main(env: list[str] = ("CartPole-v1", "HalfCheetah-v5"), pairs: int = 40) -> None:  # type: ignore[assignment]
    """Print the ratios for each environment."""
    warnings.simplefilter("ignore")
    th.set_num_threads(1)
    for env_id in env:
        low, median, high = np.quantile(measure(env_id, pairs), (0.25, 0.5, 0.75), axis=0)
        for part, *numbers in zip(PARTS, median, low, high, strict=True):
            print("{} {}: {:.4f} ({:.4f} to {:.4f})".format(env_id, part, *numbers), flush=True)


if __name__ == "__main__":
    typer.run(main)
