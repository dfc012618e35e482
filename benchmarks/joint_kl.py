"""How far one update really moves the policy, in nats of the joint action, against the radius that was asked for.

    .venv/bin/python -m benchmarks.joint_kl

Same environment, same network, same rollout, ``target_kl=0.01`` for both; medians over seeds.
"""

import argparse

import numpy as np
import sb3_contrib
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_trpo
from tests.envs import Contextual

TARGET_KL = 0.01


def joint_kl(cls: type, n_dims: int, seed: int) -> float:
    """Mean KL(old || new) of one update, by torch's own formula, summed over the action dimensions."""
    env = DummyVecEnv([lambda: Contextual(spaces.Box(-1.0, 1.0, (n_dims,), np.float32))])
    # Stable-Baselines3's own loop for both, so that they draw the same random numbers and see the same rollout.
    same_rollout = {"fast_rollout": False} if cls is sb3_trpo.TRPO else {}
    settings = {"target_kl": TARGET_KL, "seed": seed, "device": "cpu", "n_critic_updates": 1}
    model = cls("MlpPolicy", env, **settings, **same_rollout)
    _, callback = model._setup_learn(model.n_steps)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    observations = th.as_tensor(model.rollout_buffer.observations[:, 0])
    with th.no_grad():
        old = model.policy.get_distribution(observations).distribution
    model.train()
    with th.no_grad():
        new = model.policy.get_distribution(observations).distribution
        return float(th.distributions.kl_divergence(old, new).sum(1).mean())


def main() -> None:
    """Print a row for each number of action dimensions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="rollouts to take the median of (default 5)")
    seeds = range(parser.parse_args().seeds)
    th.set_num_threads(1)
    print("| action dimensions | sb3_trpo | sb3-contrib |\n|---|---|---|")
    for n_dims in (1, 3, 6, 17):
        ours, theirs = (
            np.median([joint_kl(cls, n_dims, seed) for seed in seeds]) for cls in (sb3_trpo.TRPO, sb3_contrib.TRPO)
        )
        print(f"| {n_dims} | {ours:.4f} | {theirs:.4f} |")


if __name__ == "__main__":
    main()
