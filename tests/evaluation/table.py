"""Tables of scores made up for tests."""

import numpy as np

from sb3_trpo.evaluation.scores import Score


def score(env="Hopper-v5", implementation="sb3_trpo", seed=0, step=100, mean=1.0, wall_s=2.0, **others):
    values = {
        "algo": "TRPO",
        "eval_std": 0.5,
        "eval_iqm": mean,
        "n_episodes": 10,
        "train_return": float("nan"),
        "config_hash": "abc",
        "versions": "torch 2.9",
    }
    values.update(others)
    return Score(env=env, implementation=implementation, seed=seed, step=step, eval_mean=mean, wall_s=wall_s, **values)


def campaign(envs=("Hopper-v5", "Walker-v5"), contestants=("ours", "theirs", "other"), seeds=5, evaluations=4):
    """Noisy learning curves; those of a contestant further back are lower."""
    rng = np.random.default_rng(0)
    return [
        score(env, name, seed, 1000 * k, 1000 * k * (scale + 1) / (rank + 1) + 300 * rng.normal(), 100.0 * k + seed)
        for scale, env in enumerate(envs)
        for rank, name in enumerate(contestants)
        for seed in range(seeds)
        for k in range(1, evaluations + 1)
    ]
