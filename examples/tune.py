"""Your own Optuna study over the search space of TRPO, in a minute on Pendulum.

    python examples/tune.py
    python examples/tune.py --env Hopper-v5 --trials 50 --steps 2e5 --storage sqlite:///hopper.db

`sb3-trpo tune` does more: several seeds for each trial, pruning, worker processes, a report.
"""

import argparse

import gymnasium as gym
import optuna
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_trpo import TRPO
from sb3_trpo.zoo import sample_trpo_params


def main() -> None:
    """Parse the command line, search, and print the best parameters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1", help="id of a registered environment (default Pendulum-v1)")
    parser.add_argument("--trials", type=int, default=10, help="trials of this run (default 10)")
    parser.add_argument("--steps", type=float, default=15_000, help="environment steps of a trial (default 15,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the search and of all trainings (default 0)")
    parser.add_argument("--storage", help="database that keeps the study, such as sqlite:///study.db (default: none)")
    arguments = parser.parse_args()
    th.set_num_threads(1)  # networks of this size are slower on more

    env = make_vec_env(arguments.env, seed=arguments.seed)
    box = env.action_space if isinstance(env.action_space, gym.spaces.Box) else None

    def objective(trial: optuna.Trial) -> float:
        params = sample_trpo_params(trial, n_actions=box.shape[0] if box is not None else 0)
        model = TRPO("MlpPolicy", env, seed=arguments.seed, device="cpu", **params)
        model.learn(int(arguments.steps))
        return float(evaluate_policy(model, env, n_eval_episodes=10)[0])

    study = optuna.create_study(
        storage=arguments.storage,
        study_name=f"trpo-{arguments.env}",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=arguments.seed, n_startup_trials=5),
    )
    study.optimize(objective, n_trials=arguments.trials, catch=ValueError)
    print(f"best return {study.best_value:.1f}, trial {study.best_trial.number} of {len(study.trials)}:")
    for name, value in study.best_params.items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
