"""What a features extractor shared by actor and critic costs, on a small image task.

    .venv/bin/python -m benchmarks.shared_extractor

Four quadrants, one bright square, one right answer in four (`tests.envs.Dot`, 8 steps an episode, best return 8).
Three ways to train the critic of a `CnnPolicy`:

- separate: actor and critic have an extractor each (the default of this package);
- shared, head only: one extractor, which the critic's gradient leaves alone (as in sb3-contrib);
- shared, all: one extractor, which the critic's gradient moves as well. It breaks the trust region: the KL after
  the critic's regression is not the one that the line search accepted.
"""

import argparse

import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo import TRPO
from sb3_trpo.algorithms import on_policy
from sb3_trpo.algorithms.actor import Actor
from sb3_trpo.algorithms.critic import Critic
from tests.envs import Dot

WAYS = ("separate", "shared, head only", "shared, all")
RADIUS = 0.02


class Watched(TRPO):
    """TRPO that notes the KL of each whole update and how far the values of each rollout were from its returns."""

    kls: list[float]
    errors: list[float]

    def train(self) -> None:
        """Update, then measure."""
        observations = self.policy.obs_to_tensor(self.rollout_buffer.observations.reshape(-1, 1, 36, 36))[0]
        self.policy.set_training_mode(False)
        actor = Actor(self.policy, observations)
        old = actor.distribution(observations)
        super().train()
        self.errors.append(float(np.sqrt(np.mean((self.rollout_buffer.values - self.rollout_buffer.returns) ** 2))))
        self.kls.append(float(old.kl_divergence(actor.distribution(observations)).mean()))


class Greedy(Critic):
    """A critic to which everything behind the value belongs, a shared extractor too."""

    def __init__(self, policy, actor, observations):
        super().__init__(policy, [], observations)
        (group,) = policy.optimizer.param_groups
        known = {id(parameter) for parameter in group["params"]}
        group["params"] += [parameter for parameter in self.parameters if id(parameter) not in known]


def train(way: str, seed: int, steps: int) -> tuple[float, float, float, float]:
    """Return, mean error of the values, mean and largest KL of the updates."""
    on_policy.Critic = Greedy if way == "shared, all" else Critic
    env: VecEnv = make_vec_env(Dot, 4, seed=seed)
    policy_kwargs = {
        "features_extractor_kwargs": {"features_dim": 64},
        "share_features_extractor": way != "separate",
    }
    model = Watched(
        "CnnPolicy", env, n_steps=128, target_kl=RADIUS, seed=seed, device="cpu", policy_kwargs=policy_kwargs
    )
    model.kls, model.errors = [], []
    model.learn(steps)
    mean, _ = evaluate_policy(model, make_vec_env(Dot, 1, seed=1000 + seed), 50)
    return float(mean), float(np.mean(model.errors)), float(np.mean(model.kls)), float(np.max(model.kls))


def main() -> None:
    """Print one row for each way, medians over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each way (default 3)")
    parser.add_argument("--steps", type=int, default=8192, help="environment steps of each run (default 8192)")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    print("| critic | return (best 8) | error of the values | mean KL / radius | largest |\n|---|---|---|---|---|")
    for way in WAYS:
        scores = np.array([train(way, seed, arguments.steps) for seed in range(arguments.seeds)])
        score, error, mean_kl, largest_kl = np.median(scores, 0)
        print(
            f"| {way} | {score:.2f} | {error:.2f} | {mean_kl / RADIUS:.2f} | {largest_kl / RADIUS:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
