"""Train, evaluate and save a model from Python, with the hyperparameters that are shipped.

    python examples/train.py --env Pendulum-v1 --steps 1e5

The command line does the same and more: ``sb3-trpo train --env Pendulum-v1``.
"""

import argparse

from stable_baselines3.common.evaluation import evaluate_policy

from sb3_trpo.zoo import load_hyperparams, make_env, make_model


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="id of a registered environment (default CartPole-v1)")
    parser.add_argument("--steps", type=float, help="environment steps (default: from hyperparams/trpo.yml)")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default 0)")
    arguments = parser.parse_args()

    hyperparams = load_hyperparams("trpo", arguments.env)
    model = make_model("trpo", arguments.env, hyperparams, seed=arguments.seed, device="cpu", verbose=1)
    model.learn(arguments.steps or hyperparams["n_timesteps"])
    model.save("model")

    evaluation_env = make_env(arguments.env, hyperparams, n_envs=4, training=False)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        evaluation_env.obs_rms = normalizer.obs_rms  # type: ignore[attr-defined]  # of the same wrapper
    mean, std = evaluate_policy(model, evaluation_env, n_eval_episodes=20)
    print(f"return over 20 episodes: {mean:.1f} ± {std:.1f}; saved to model.zip")


if __name__ == "__main__":
    main()
