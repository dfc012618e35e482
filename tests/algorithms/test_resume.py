"""A training that is saved, loaded and continued is the one that was not interrupted."""

import io
import random
import warnings

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo import TRPO
from tests.algorithms.test_environment_state import World
from tests.resuming import KINDS, N_ENVS, N_STEPS, assert_same_training, load, logged, new_model

FEW = (1, 3)
ALL = tuple(range(20))


class SaveAtBoundaries(BaseCallback):
    """Saves the model before some rollouts, and in the middle of them where ``after`` steps are asked for."""

    def __init__(self, at, after=0):
        super().__init__()
        self.at, self.after, self.files = at, after, {}

    def _on_training_start(self):
        self.model.keep_boundaries()

    def _on_rollout_start(self):
        self.steps = 0
        if not self.after:
            self.save()

    def _on_step(self):
        self.steps += 1
        if self.steps == self.after:
            self.save()
        return True

    def save(self):
        if self.model._n_updates in self.at:
            file = io.BytesIO()
            self.model.save(file)
            self.files[self.model._n_updates] = file


def disturb_generators():
    random.random()
    np.random.rand()  # noqa: NPY002
    th.rand(1)


def assert_goes_on(kind, at, after=0, n_updates=20):
    total = n_updates * N_STEPS * N_ENVS
    model, saving = new_model(kind), SaveAtBoundaries(at, after)
    rows = logged(model)
    model.learn(total, saving)
    assert set(saving.files) == set(at)
    for done, file in saving.files.items():
        file.seek(0)
        other = load(kind, file)
        assert other.num_timesteps == done * N_STEPS * N_ENVS
        assert other.timesteps_left == total - other.num_timesteps
        other_rows = logged(other)
        disturb_generators()
        other.learn(other.timesteps_left, reset_num_timesteps=False)
        assert_same_training(model, other)
        assert other_rows == rows[done:]


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_model_saved_between_two_updates_goes_on_exactly(kind):
    assert_goes_on(kind, FEW, n_updates=6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_model_saved_between_any_two_updates_goes_on_exactly(kind):
    assert_goes_on(kind, ALL)


@pytest.mark.parametrize("kind", ["VecNormalize", "recurrent", "gSDE", "colored noise", "memory and noise"])
def test_a_model_saved_during_a_rollout_goes_on_from_its_start(kind):
    """Where that is kept, as by the checkpoints of ours."""
    assert_goes_on(kind, (2,), after=7, n_updates=4)


def test_a_model_saved_after_learning_goes_on_exactly():
    whole = new_model("VecNormalize").learn(120)
    whole.learn(200, reset_num_timesteps=False)
    file = io.BytesIO()
    new_model("VecNormalize").learn(120).save(file)
    file.seek(0)
    other = load("VecNormalize", file)
    other.learn(200, reset_num_timesteps=False)
    assert_same_training(whole, other)


def test_a_model_that_waits_to_go_on_can_be_saved_again():
    first, second = io.BytesIO(), io.BytesIO()
    new_model("CartPole").learn(80).save(first)
    first.seek(0)
    load("CartPole", first).save(second)
    ends = []
    for file in (first, second):
        file.seek(0)
        ends.append(load("CartPole", file).learn(80, reset_num_timesteps=False))
    assert_same_training(*ends)


def test_by_default_environments_begin_anew():
    """As in Stable-Baselines3."""
    model = new_model("CartPole").learn(80)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    cls, _, make, _ = KINDS["CartPole"]
    other = cls.load(file, env=make())
    assert other._training_state is None
    assert other._last_obs is None
    other.learn(80, reset_num_timesteps=False)
    assert other.num_timesteps == 160


def test_a_new_count_begins_anew():
    model = new_model("CartPole").learn(80)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    other = load("CartPole", file)
    rows = logged(other)
    other.learn(40)
    assert other.num_timesteps == 40
    assert [row["time/iterations"] for row in rows] == ["1"]


def test_a_state_that_could_not_be_saved_is_told_of():
    def make():
        return make_vec_env(World, 1, seed=0)

    model = TRPO("MlpPolicy", make(), n_steps=16, seed=0).learn(16)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    other = TRPO.load(file, env=make(), force_reset=False)
    with pytest.warns(UserWarning, match=r"begin new episodes, for their state was not saved: .*World\.world is a"):
        other.learn(16, reset_num_timesteps=False)
    assert other.num_timesteps == 32


def test_a_state_without_its_fields_is_refused():
    model = new_model("CartPole").learn(40)
    model._training_state = {"attributes": {"policy": None}}
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    with pytest.raises(ValueError, match="the saved state of training must have the fields attributes, generators"):
        load("CartPole", file)


def test_a_signal_may_come_while_something_is_recorded():
    """The logger notes the value first, and then where it is left out."""

    class Interrupts(BaseCallback):
        def _on_step(self):
            self.logger.name_to_value["time/iterations"] = 1
            raise KeyboardInterrupt

    model, file = new_model("CartPole"), io.BytesIO()
    with pytest.raises(KeyboardInterrupt):
        model.learn(N_STEPS * N_ENVS, Interrupts())
    assert "time/iterations" not in model.logger.name_to_excluded
    model.save(file)
    file.seek(0)
    assert load("CartPole", file).num_timesteps == model.num_timesteps


def test_another_environment_is_refused():
    model = new_model("CartPole").learn(40)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    other = TRPO.load(file, env=make_vec_env("CartPole-v1", 3), force_reset=False)
    with pytest.raises(ValueError, match="the state of 2 environments was saved, and there are 3"):
        other.learn(40, reset_num_timesteps=False)


def test_a_model_without_environment_can_be_saved():
    file, again = io.BytesIO(), io.BytesIO()
    new_model("CartPole").learn(40).save(file)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TRPO.load(file).save(again)
    again.seek(0)
    assert TRPO.load(again).num_timesteps == 40
