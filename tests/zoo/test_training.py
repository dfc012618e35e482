"""One training run: its curve, its refusals, and that nothing stays open."""

import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, unwrap_vec_normalize

from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.models import make_evaluation_env
from sb3_trpo.zoo.training import hush_mujoco, train_and_evaluate, use_threads
from tests.zoo import toys

toys.register()
HYPERPARAMS = {"n_envs": 2, "n_steps": 50, "batch_size": 50, "n_timesteps": 3e2, "normalize": True}


def curve(seed=0, env_id="Pendulum-v1", hyperparams=HYPERPARAMS, **options):
    options = {"eval_freq": 100, "n_eval_episodes": 3, **options}
    return train_and_evaluate("trpo", env_id, hyperparams, seed=seed, **options)


@pytest.fixture
def opened(monkeypatch):
    """How many vectorised environments were made, and how many are closed."""
    counts = {"made": 0, "closed": 0}
    make, close = DummyVecEnv.__init__, DummyVecEnv.close

    def made(self, *args):
        counts["made"] += 1
        make(self, *args)

    def closed(self):
        counts["closed"] += 1
        close(self)

    monkeypatch.setattr(DummyVecEnv, "__init__", made)
    monkeypatch.setattr(DummyVecEnv, "close", closed)
    return counts


def test_the_same_seed_gives_the_same_curve():
    first, again, other = curve(), curve(), curve(seed=1)
    assert [seen.step for seen in first] == [100, 200, 300]
    for one, same in zip(first, again, strict=True):
        assert np.array_equal(one.returns, same.returns)
        assert np.array_equal(one.lengths, same.lengths)
        assert np.array_equal(one.train_return, same.train_return, equal_nan=True)
    assert not np.array_equal(first[-1].returns, other[-1].returns)


def test_steps_are_those_of_the_entry_or_those_given():
    assert curve()[-1].step == 300
    assert curve(n_timesteps=150)[-1].step == 200  # whole rollouts
    assert len(curve(n_eval_episodes=20, eval_freq=0)[-1].returns) == 20


def test_an_environment_that_must_not_be_reset_early_is_evaluated():
    hyperparams = {**HYPERPARAMS, "monitor_kwargs": "dict(allow_early_resets=False)"}
    assert len(curve(env_id="CartPole-v1", hyperparams=hyperparams)) == 3


def test_an_evaluation_does_not_move_the_statistics(monkeypatch):
    made = []

    def spy(*args, **kwargs):
        made.append(make_evaluation_env(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr("sb3_trpo.zoo.training.make_evaluation_env", spy)
    counts = []
    curve(on_evaluation=lambda _: counts.append(unwrap_vec_normalize(made[0]).obs_rms.count))
    assert np.allclose(counts, [102, 202, 302]), "the steps and the first states of training"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_timesteps": 0}, "n_timesteps=0"),
        ({"n_timesteps": 10.5}, "n_timesteps=10.5"),
        ({"eval_freq": -1}, "eval_freq=-1"),
        ({"n_eval_episodes": 0}, "n_eval_episodes=0"),
        ({"hyperparams": {"n_steps": 50}}, "no n_timesteps"),
    ],
)
def test_what_cannot_be_used_is_refused(options, words, opened):
    with pytest.raises(UsageError, match=words):
        curve(**options)
    assert opened["made"] == 0


class Fails(BaseCallback):
    """Raises on the first step."""

    def _on_step(self):
        raise RuntimeError("in training")


def test_environments_are_closed(opened):
    curve()
    assert opened == {"made": 2, "closed": 2}


def test_environments_are_closed_after_an_error_in_training(opened):
    with pytest.raises(RuntimeError, match="in training"):
        curve(callbacks=[Fails()])
    assert opened == {"made": 2, "closed": 2}


def test_environments_are_closed_after_an_error_in_an_evaluation(opened):
    def on_evaluation(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curve(on_evaluation=on_evaluation)
    assert opened == {"made": 2, "closed": 2}


def test_environments_are_closed_when_the_second_cannot_be_made(opened, monkeypatch):
    def fails(*args, **kwargs):
        raise UsageError("no more of these")

    monkeypatch.setattr("sb3_trpo.zoo.training.make_evaluation_env", fails)
    with pytest.raises(UsageError, match="no more"):
        curve()
    assert opened == {"made": 1, "closed": 1}


def test_environments_are_closed_for_a_callback_that_does_not_exist(opened):
    with pytest.raises(UsageError, match="callback"):
        curve(hyperparams={**HYPERPARAMS, "callback": "nowhere.Callback"})
    assert opened == {"made": 2, "closed": 2}


def test_no_folder_is_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    curve()
    assert not list(tmp_path.iterdir())


def test_threads_are_set():
    before = th.get_num_threads()
    use_threads(1)
    assert th.get_num_threads() == 1
    use_threads(before)


def test_the_deprecation_of_mujoco_is_not_repeated(tmp_path):
    pytest.importorskip("mujoco")
    code = """
from sb3_trpo.zoo.training import hush_mujoco
hush_mujoco()
import gymnasium as gym
gym.make("HalfCheetah-v5").reset()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "settotalmass" not in done.stderr + done.stdout
    assert not list(tmp_path.iterdir()), "MuJoCo writes what it warns of into a file, too"


def test_other_warnings_of_mujoco_are_shown(monkeypatch):
    mujoco = pytest.importorskip("mujoco")
    handlers = []
    monkeypatch.setattr(mujoco, "set_mju_user_warning", handlers.append)
    hush_mujoco()
    with pytest.warns(UserWarning, match="unstable"):
        handlers[0]("simulation is unstable")
    handlers[0]("settotalmass is deprecated")  # pytest makes errors of warnings
