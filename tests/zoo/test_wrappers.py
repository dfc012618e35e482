"""Wrappers that hyperparameter files may name: masks from elsewhere, velocities that are hidden."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_trpo.zoo import hidden_velocity
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.hidden_velocity import VELOCITIES, hidden_id
from sb3_trpo.zoo.models import check_env, make_env, make_model
from sb3_trpo.zoo.wrappers import HideObservations, MasksFromInfo, MasksFromMethod
from tests.zoo import toys

toys.register()
PLACE = "sb3_trpo.zoo.wrappers"
WRAPPERS = [
    {f"{PLACE}.MasksFromMethod": {"method": "valid_actions"}},
    f"{PLACE}.MasksFromInfo",
    {f"{PLACE}.MasksFromInfo": {"key": "action_mask"}},
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_masks_come_from_a_method_or_from_what_is_told(wrapper, vec_env):
    env = make_env("Masked-v0", {"env_wrapper": wrapper, "normalize": True}, n_envs=2, seed=1, vec_env=vec_env)
    env.reset()
    for _ in range(12):  # past the end of an episode
        masks = np.stack(env.env_method("action_masks"))
        assert masks.dtype == bool
        env.step(masks.argmax(1))  # raises for what is not allowed
    env.close()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_an_algorithm_learns_with_masks_from_a_wrapper(wrapper):
    make_model("ppo_mask", "Masked-v0", {"env_wrapper": wrapper, "n_steps": 16, "batch_size": 16}, seed=0).learn(32)


def test_gymnasiums_taxi_tells_its_masks():
    env = MasksFromInfo(gym.make(toys.TAXI))
    _, info = env.reset(seed=0)
    assert np.array_equal(env.action_masks(), info["action_mask"].astype(bool))
    _, _, _, _, info = env.step(int(env.action_masks().argmax()))
    assert np.array_equal(env.action_masks(), info["action_mask"].astype(bool))


def refusal(call, *arguments, **options):
    with pytest.raises(UsageError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_a_method_that_is_not_there_is_refused():
    wrapper = {f"{PLACE}.MasksFromMethod": {"method": "valid"}}
    message = refusal(make_env, "Masked-v0", {"env_wrapper": wrapper})
    assert message.startswith("environment 'Masked-v0' cannot be made: method='valid' must be the name of a method of")
    assert "method='observation_space' must be" in refusal(MasksFromMethod, gym.make("Masked-v0"), "observation_space")


def test_sb3_contribs_wrapper_sees_no_method_behind_those_of_gymnasium():
    wrapper = {"sb3_contrib.common.wrappers.ActionMasker": {"action_mask_fn": "valid_actions"}}
    assert "has no attribute 'valid_actions'" in refusal(make_env, "Masked-v0", {"env_wrapper": wrapper})


def test_masks_that_are_not_told_are_refused():
    env = MasksFromInfo(gym.make("Masked-v0"), "mask")
    assert "known after reset()" in refusal(env.action_masks)
    assert "key='mask' must be in the info" in refusal(env.reset)
    assert "which holds ['action_mask']" in refusal(env.reset)


# ---- velocities ----


def test_what_is_hidden_is_zero_and_the_rest_is_not():
    seen = HideObservations(gym.make("CartPole-v1"), [1, 3])
    whole = gym.make("CartPole-v1")
    observation, expected = seen.reset(seed=1)[0], whole.reset(seed=1)[0]
    for _ in range(5):
        assert observation[[1, 3]].tolist() == [0, 0]
        assert observation[[0, 2]].tolist() == expected[[0, 2]].tolist()
        assert observation.dtype == expected.dtype
        assert seen.observation_space.contains(observation)
        observation, expected = seen.step(1)[0], whole.step(1)[0]


@pytest.mark.parametrize("indices", [[4], [-1], ["x"], [1.0]])
def test_numbers_that_are_not_there_cannot_be_hidden(indices):
    assert "must be whole numbers in [0, 3]" in refusal(HideObservations, gym.make("CartPole-v1"), indices)


def test_only_vectors_have_numbers_to_hide():
    assert "must be vectors" in refusal(HideObservations, gym.make(toys.TAXI), [0])


def test_environments_without_velocities_are_registered_when_they_are_asked_for(monkeypatch):
    for env_id in VELOCITIES:
        monkeypatch.delitem(gym.registry, hidden_id(env_id), raising=False)
    spec = check_env("CartPoleNoVel-v1")
    assert spec.max_episode_steps == 500
    assert set(map(hidden_id, VELOCITIES)) <= set(gym.registry)
    before = gym.registry["PendulumNoVel-v1"]
    hidden_velocity.register()
    assert gym.registry["PendulumNoVel-v1"] is before
    assert "did you mean 'CartPoleNoVel-v1'?" in refusal(check_env, "CartPoleNoVel-v2")


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
@pytest.mark.parametrize("env_id", ["CartPoleNoVel-v1", "PendulumNoVel-v1", "MountainCarNoVel-v0"])
def test_environments_without_velocities_hide_them(env_id, vec_env):
    env = make_env(env_id, {}, n_envs=2, seed=0, vec_env=vec_env)
    hidden = list(VELOCITIES[env_id.replace("NoVel", "")])
    env.reset()
    for _ in range(3):
        observation = env.step(np.array([env.action_space.sample() for _ in range(2)]))[0]
        assert (observation[:, hidden] == 0).all()
        assert (np.delete(observation, hidden, 1) != 0).all()
    env.close()


THE_SAME = """
import gymnasium as gym, numpy as np
from sb3_trpo.zoo import hidden_velocity
hidden_velocity.register()
ours = {i: gym.registry.pop(hidden_velocity.hidden_id(i)) for i in hidden_velocity.VELOCITIES}
import rl_zoo3.import_envs
from rl_zoo3.wrappers import MaskVelocityWrapper
theirs = {key: tuple(value) for key, value in MaskVelocityWrapper.velocity_indices.items()}
assert theirs == hidden_velocity.VELOCITIES, theirs
for env_id in ("CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0"):
    envs = gym.make(ours[env_id]), gym.make(hidden_velocity.hidden_id(env_id))
    observations = [env.reset(seed=3)[0] for env in envs]
    for _ in range(20):
        assert np.array_equal(*observations)
        action = envs[0].action_space.sample()
        observations = [env.step(action)[0] for env in envs]
"""


def test_environments_without_velocities_are_rl_zoos():
    """In a process of its own: RL Zoo patches Gymnasium."""
    finished = subprocess.run([sys.executable, "-W", "ignore", "-c", THE_SAME], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_spaces_are_those_of_the_environment():
    env = make_env("PendulumNoVel-v1", {})
    assert env.observation_space == gym.make("Pendulum-v1").observation_space
    assert isinstance(env.observation_space, spaces.Box)
