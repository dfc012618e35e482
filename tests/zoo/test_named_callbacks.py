"""Training callbacks named in YAML: what they are given, and what a training makes of the average."""

import numpy as np
import pytest
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo import TRPO
from sb3_trpo.callbacks import AveragedPolicy, Validation
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.evaluations import evaluate
from sb3_trpo.zoo.hyperparams import check_hyperparams
from sb3_trpo.zoo.models import make_evaluation_env
from sb3_trpo.zoo.named_callbacks import kept_average, named_callbacks
from sb3_trpo.zoo.playing import evaluate_run
from sb3_trpo.zoo.runs import load_model, load_statistics
from sb3_trpo.zoo.train_run import resume, train
from sb3_trpo.zoo.training import EVALUATION_SEED, train_and_evaluate

SB3 = "stable_baselines3.common.callbacks"
SMALL = {"n_envs": 2, "n_steps": 32, "normalize": True, "n_timesteps": 192, "learning_rate": 1e-3}
"""No schedule: a training of one length is the beginning of a longer one."""


def made(callback, **hyperparams):
    with named_callbacks("Pendulum-v1", {"callback": callback, **hyperparams}) as callbacks:
        return callbacks


def test_callbacks_are_made_of_their_names():
    [callback] = made([{f"{SB3}.CheckpointCallback": {"save_freq": 10, "save_path": "somewhere"}}])
    assert isinstance(callback, CheckpointCallback)
    assert callback.save_freq == 10
    assert made(None) == made([]) == []


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        ("collections.OrderedDict", "must be a subclass of BaseCallback"),
        ("nowhere.Callback", "callback='nowhere.Callback' cannot be imported"),
        (f"{SB3}.CheckpointCallback", "callback"),
        ({f"{SB3}.CheckpointCallback": {"every": 3}}, "callback"),
        ("AveragePolicy", "has no attribute 'AveragePolicy'"),
        ("averaged", "must be a subclass of BaseCallback"),
        ({"AveragedPolicy": {"decay": 1.5}}, "decay=1.5"),
        ({"Validation": {"n_eval_episodes": 1}}, "n_eval_episodes"),
        ({"Validation": {"n_eval_episodes": "many"}}, "n_eval_episodes"),
    ],
)
def test_a_callback_that_cannot_be_made_is_refused(callback, says):
    with pytest.raises(UsageError) as refusal:
        made(callback)
    assert says in str(refusal.value)


def test_what_plays_gets_an_environment_like_that_of_the_training_for_as_long_as_it_trains(monkeypatch):
    closed = []
    monkeypatch.setattr(DummyVecEnv, "close", lambda env: closed.append(env))
    named = [{"Validation": {"n_eval_episodes": 4, "eval_freq": 2e4}}, f"{SB3}.EvalCallback"]
    with named_callbacks("Pendulum-v1", {"callback": named, "normalize": True}) as (validation, evaluation):
        assert isinstance(validation, Validation)
        assert isinstance(evaluation, EvalCallback)
        for env, n_envs in [(validation.env, 4), (evaluation.eval_env, 10)]:
            assert isinstance(env, VecNormalize)
            assert not env.training
            assert not env.norm_reward
            assert env.num_envs == n_envs
        assert type(validation.eval_freq) is int
        assert not closed
    assert len(closed) == 2


@pytest.mark.parametrize(
    ("algo", "callback", "says"),
    [
        ("ppo", "AveragedPolicy", "AveragedPolicy is for algorithms of sb3_trpo, which ppo is not"),
        ("sb3_contrib:TRPO", ["Validation"], "Validation is for algorithms of sb3_trpo"),
        ("trpo", ["Validation", {"AveragedPolicy": {"decay": 0.9}}], "AveragedPolicy must stand before Validation"),
        ("trpo", "AveragePolicy", "callback='sb3_trpo.callbacks.AveragePolicy' cannot be imported"),
        ("trpo", 3, "callback="),
        ("trpo", {"Validation": 3}, "callback="),
    ],
)
def test_callbacks_that_cannot_go_together_are_refused_before_anything_is_built(algo, callback, says):
    with pytest.raises(UsageError) as refusal:
        check_hyperparams(algo, {"policy": "MlpPolicy", "callback": callback}, "grid.yml")
    assert str(refusal.value).startswith("grid.yml: ")
    assert says in str(refusal.value)
    check_hyperparams("trpo", {"callback": ["AveragedPolicy", "Validation"]}, "grid.yml")


def test_validated_is_the_average_that_is_kept_before():
    averaged, validation = made([{"AveragedPolicy": {"decay": 0.5}}, "Validation"])
    assert isinstance(averaged, AveragedPolicy)
    assert validation.averaged is averaged is kept_average([validation, averaged])
    [alone] = made("Validation")
    assert alone.averaged is kept_average([alone]) is None


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_evaluated_is_the_average(decay):
    """A decay of 0 keeps the present policy; the training itself is the same for all."""
    options = {"seed": 3, "eval_freq": 64, "n_eval_episodes": 3}
    plain = train_and_evaluate("trpo", "Pendulum-v1", SMALL, **options)
    named = {**SMALL, "callback": {"AveragedPolicy": {"decay": decay}}}
    averaged = train_and_evaluate("trpo", "Pendulum-v1", named, **options)
    for one, other in zip(plain, averaged, strict=True):
        assert np.array_equal(one.returns, other.returns) == (decay == 0.0)
        assert np.array_equal(one.train_return, other.train_return, equal_nan=True)


def test_a_run_keeps_the_average(tmp_path):
    """As its best model and at the end; the last checkpoint is what goes on, with the average."""
    overrides = {**SMALL, "callback": [{"AveragedPolicy": {"decay": 0.9}}, {"Validation": {"eval_freq": 64}}]}
    options = {"n_eval_episodes": 3, "device": "cpu", "seed": 5, "overrides": overrides, "save_freq": 0}
    whole = train("Pendulum-v1", eval_freq=64, log_folder=tmp_path / "whole", **options)
    half = train("Pendulum-v1", eval_freq=64, log_folder=tmp_path / "half", n_timesteps=128, **options)
    on = resume(half.run.folder, n_timesteps=192)
    assert np.array_equal(whole.evaluation.returns, on.evaluation.returns)
    for run in (whole.run, on.run):
        env = make_evaluation_env("Pendulum-v1", SMALL, 3)
        load_statistics(env, run.averaged, False)
        average = load_model(run, run.averaged, "cpu")
        played = evaluate(average, env, 3, EVALUATION_SEED + 5)
        assert np.array_equal(played.returns, whole.evaluation.returns)
    for one, other in zip(TRPO.load(run.final.model).policy.parameters(), average.policy.parameters(), strict=True):
        assert not one.equal(other)
    score = evaluate_run(run.folder, 3, averaged=True, seed=EVALUATION_SEED + 5)
    assert score.model == "averaged_model.zip"
    assert score.mean == pytest.approx(played.mean)


def test_a_run_without_an_average_has_none_to_play(tmp_path):
    overrides = {key: value for key, value in SMALL.items() if key != "n_timesteps"}
    trained = train("Pendulum-v1", n_timesteps=64, overrides=overrides, log_folder=tmp_path, n_eval_episodes=1)
    with pytest.raises(UsageError, match=r"no averaged_model\.zip: it was trained without callback=AveragedPolicy"):
        evaluate_run(trained.run.folder, 1, averaged=True)
    with pytest.raises(UsageError, match="ask for one"):
        evaluate_run(trained.run.folder, 1, averaged=True, best=True)


def test_nothing_is_made_for_a_callback_that_cannot_be(tmp_path):
    with pytest.raises(UsageError, match="AveragePolicy"):
        train("Pendulum-v1", n_timesteps=64, overrides={"callback": "AveragePolicy"}, log_folder=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
