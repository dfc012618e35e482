"""Evaluations come when they should, see what they should, and leave the training as it was."""

import time

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from sb3_trpo.zoo.evaluations import PeriodicEvaluation, evaluate
from sb3_trpo.zoo.models import make_env, make_model
from tests.zoo import toys

toys.register()
TRPO = {"n_envs": 2, "n_steps": 50, "batch_size": 50, "normalize": True}


def trained(env_id, hyperparams, every, steps, *, algo="trpo", seed=1, n_episodes=2, eval_env=None, **options):
    """The model, and the callback that evaluated it."""
    model = make_model(algo, env_id, hyperparams, seed=seed, device="cpu")
    env = make_env(env_id, hyperparams, n_envs=2, training=False) if eval_env is None else eval_env
    evaluation = PeriodicEvaluation(env, every, n_episodes, 100 + seed, **options)
    model.learn(steps, callback=evaluation)
    env.close()
    model.env.close()
    return model, evaluation


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(
    ("algo", "env_id", "hyperparams"),
    [
        ("trpo", "Pendulum-v1", TRPO),
        ("trpo", "Pendulum-v1", {**TRPO, "use_sde": True}),
        ("trpo", "CartPole-v1", TRPO),
        ("trpo", "Ticking-v0", {**TRPO, "sub_sampling_factor": 2}),  # both draw from numpy's global generator
        ("ppo", "Pendulum-v1", {**TRPO, "n_epochs": 2}),
        ("sb3_contrib:TRPO", "CartPole-v1", TRPO),
    ],
)
def test_evaluation_leaves_training_bit_for_bit_as_it_was(algo, env_id, hyperparams, deterministic):
    models = [trained(env_id, hyperparams, every, 400, algo=algo, deterministic=deterministic)[0] for every in (0, 100)]
    weights, others = (list(model.policy.state_dict().values()) for model in models)
    assert all(th.equal(one, other) for one, other in zip(weights, others, strict=True))
    statistics, theirs = (model.get_vec_normalize_env() for model in models)
    assert np.array_equal(statistics.obs_rms.mean, theirs.obs_rms.mean)
    assert np.array_equal(statistics.obs_rms.var, theirs.obs_rms.var)
    assert statistics.ret_rms.var == theirs.ret_rms.var
    assert np.array_equal(models[0].rollout_buffer.rewards, models[1].rollout_buffer.rewards)


def test_evaluation_sees_observations_as_the_training_does():
    env = make_env("Ticking-v0", TRPO, n_envs=2, training=False)
    normalizer, seen = unwrap_vec_normalize(env), []

    def on_evaluation(_):
        training = model[0].get_vec_normalize_env()
        seen.append(training.obs_rms.mean.copy())
        assert np.array_equal(normalizer.obs_rms.mean, training.obs_rms.mean)
        assert np.array_equal(normalizer.obs_rms.var, training.obs_rms.var)
        assert normalizer.obs_rms is not training.obs_rms

    model = [make_model("trpo", "Ticking-v0", TRPO, seed=0)]
    model[0].learn(400, callback=PeriodicEvaluation(env, 100, 2, 0, on_evaluation))
    assert len(seen) == 4
    assert len({tuple(mean) for mean in seen}) == 4, "they should move"
    assert np.allclose(seen[-1], 3.0, atol=0.5)


def test_rewards_are_those_of_the_environment():
    _, evaluation = trained("Ticking-v0", TRPO, 100, 300)
    for seen in evaluation.evaluations:
        assert seen.returns.tolist() == [30.0, 30.0]
        assert seen.lengths.tolist() == [10, 10]
        assert seen.mean == seen.train_return == 30.0


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (0, [1000]),
        (5000, [1000]),
        (1000, [1000]),
        (500, [500, 1000]),
        (250, [300, 500, 800, 1000]),
        (299, [300, 600, 900, 1000]),
        (7, [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]),
    ],
)
def test_evaluations_come_after_the_rollout_that_reaches_a_multiple(every, steps):
    _, evaluation = trained("Ticking-v0", TRPO, every, 1000)
    assert [seen.step for seen in evaluation.evaluations] == steps


def test_a_training_that_goes_on_keeps_to_the_multiples():
    model = make_model("trpo", "Ticking-v0", TRPO, seed=0)
    env = make_env("Ticking-v0", TRPO, n_envs=2, training=False)
    model.learn(300)
    evaluation = PeriodicEvaluation(env, 250, 2, 0)
    model.learn(700, callback=evaluation, reset_num_timesteps=False)
    assert [seen.step for seen in evaluation.evaluations] == [500, 800, 1000]


def test_time_of_evaluations_is_not_time_of_training():
    slow = make_env("Ticking-v0", TRPO, n_envs=1, training=False, env_kwargs={"seconds": 0.01})
    began = time.perf_counter()
    _, evaluation = trained(
        "Ticking-v0",
        {**TRPO, "env_kwargs": {"seconds": 0.001}},
        100,
        300,
        eval_env=slow,
        n_episodes=2,
        on_evaluation=lambda _: time.sleep(0.1),
    )
    elapsed = time.perf_counter() - began
    seconds = [seen.wall_s for seen in evaluation.evaluations]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0.1
    assert seconds[-1] > 0.3
    assert elapsed - seconds[-1] > 2 * (20 * 0.01 + 0.1)  # the third evaluation comes after the last time is taken


@pytest.mark.parametrize("algo", ["trpo", "ppo"])
def test_false_ends_the_training(algo):
    told = []

    def on_evaluation(evaluation):
        told.append(evaluation.step)
        return len(told) < 2

    model, evaluation = trained("Ticking-v0", TRPO, 100, 1000, algo=algo, on_evaluation=on_evaluation)
    assert told == [100, 200]
    assert [seen.step for seen in evaluation.evaluations] == told
    assert model.num_timesteps == 202


def test_every_evaluation_begins_in_the_same_states():
    model = make_model("trpo", "Pendulum-v1", TRPO, seed=0, device="cpu")
    env = make_env("Pendulum-v1", TRPO, n_envs=3, training=False)
    first = evaluate(model, env, 7, seed=5)
    again = evaluate(model, env, 7, seed=5)
    other = evaluate(model, env, 7, seed=6)
    assert len(first.returns) == 7
    assert np.array_equal(first.returns, again.returns)
    assert not np.array_equal(first.returns, other.returns)


def test_a_training_without_an_episode_has_no_return():
    _, evaluation = trained("Pendulum-v1", TRPO, 100, 100)
    assert np.isnan(evaluation.evaluations[0].train_return)
