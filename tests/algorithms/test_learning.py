"""Learning on small budgets, on tasks whose optimum is known."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_trpo import TRPO
from sb3_trpo.zoo.hyperparams import load_hyperparams
from sb3_trpo.zoo.training import train_and_evaluate
from tests.algorithms.kinds import MaskedPolicy, OpaqueCategoricalPolicy
from tests.envs import Dot, Probe


@pytest.mark.parametrize("seed", range(4))
def test_cartpole_is_solved_with_the_settings_that_are_shipped(seed):
    hyperparams = load_hyperparams("trpo", "CartPole-v1")
    last = train_and_evaluate("trpo", "CartPole-v1", hyperparams, seed=seed, n_timesteps=100_000, n_eval_episodes=20)
    assert last[-1].mean >= 475


def test_pendulum_swings_up():
    env = make_vec_env("Pendulum-v1", 8, seed=0)
    settings = {"n_steps": 128, "gamma": 0.9, "target_kl": 0.05, "learning_rate": 3e-3}
    model = TRPO("MlpPolicy", env, seed=0, device="cpu", **settings).learn(1e5)
    mean, _ = evaluate_policy(model, make_vec_env("Pendulum-v1", 8, seed=100), 64)
    assert mean >= -800  # a random policy has about -1200, the optimum is about -150; seeds differ by hundreds


@pytest.mark.parametrize("radius", ["fixed", "adaptive"])
def test_the_probe_finds_the_best_action_and_its_value(radius):
    """Two cues, four options, one of them right: the best action, its probability and the value are known."""
    model = TRPO(
        "MlpPolicy", make_vec_env(Probe, 4, seed=0), n_steps=64, batch_size=64, seed=0, device="cpu", radius=radius
    )
    model.learn(2e4)
    cues = th.tensor([[-1.0], [1.0]])
    probabilities = model.policy.get_distribution(cues).distribution.probs
    assert model.predict(cues.numpy(), deterministic=True)[0].tolist() == [0, 1]
    assert probabilities[0, 0] > 0.95
    assert probabilities[1, 1] > 0.95
    assert probabilities[:, 2:].max() < 0.03
    assert model.policy.predict_values(cues).flatten().tolist() == pytest.approx([1.0, 1.0], abs=0.1)


def test_a_masked_probe_never_takes_what_is_forbidden():
    model = TRPO(MaskedPolicy, make_vec_env(Probe, 4, seed=0), n_steps=64, batch_size=64, seed=0, device="cpu")
    model.learn(8192)
    assert model.rollout_buffer.actions.max() <= 1
    cues = th.tensor([[-1.0], [1.0]])
    probabilities = model.policy.get_distribution(cues).distribution.probs
    assert (probabilities[:, 2:] == 0).all()
    assert min(probabilities[0, 0], probabilities[1, 1]) > 0.95
    assert model.policy.predict_values(cues).flatten().tolist() == pytest.approx([1.0, 1.0], abs=0.1)


def test_an_opaque_distribution_learns_too():
    model = TRPO(
        OpaqueCategoricalPolicy, make_vec_env(Probe, 4, seed=0), n_steps=64, batch_size=64, seed=0, device="cpu"
    )
    model.learn(8192)
    assert model.predict(np.array([[-1.0], [1.0]], np.float32), deterministic=True)[0].tolist() == [0, 1]


@pytest.mark.slow
def test_halfcheetah_runs():
    """With the settings that are shipped; a random policy has about -280, the first 150,000 steps reach 1000."""
    hyperparams = load_hyperparams("trpo", "HalfCheetah-v5")
    last = train_and_evaluate("trpo", "HalfCheetah-v5", hyperparams, seed=0, n_timesteps=150_000, n_eval_episodes=5)
    assert last[-1].mean >= 500


def test_an_image_task_is_learnt():
    env = make_vec_env(Dot, 4, seed=0)
    kwargs = {"features_extractor_kwargs": {"features_dim": 64}}
    model = TRPO("CnnPolicy", env, n_steps=64, target_kl=0.05, seed=0, device="cpu", policy_kwargs=kwargs).learn(8192)
    mean, _ = evaluate_policy(model, make_vec_env(Dot, seed=100), 20)
    assert mean >= 6.0  # of 8; guessing gives 2
