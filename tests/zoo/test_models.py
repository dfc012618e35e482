"""Environments and models made of hyperparameters."""

import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
    unwrap_vec_normalize,
)

import sb3_trpo
from sb3_trpo.algorithms.policies import MlpPolicy
from sb3_trpo.zoo import models
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.models import check_env, import_class, make_env, make_model

CAMERA = "Camera-v0"
PARTS = "CameraAndNumbers-v0"


class Camera(gym.Env):
    """Images with the channels last, or a dictionary with one among its parts."""

    image = spaces.Box(0, 255, (40, 36, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, parts=False, size=1.0):
        self.size = size
        self.observation_space = (
            spaces.Dict({"eye": self.image, "numbers": spaces.Box(-1, 1, (2,), np.float32)}) if parts else self.image
        )
        self.closed = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), self.size, False, False, {}

    def close(self):
        self.closed += 1


class Broken(gym.Env):
    def __init__(self):
        raise gym.error.DependencyNotInstalled("the simulator\nis not installed, run `pip install simulator`")


class TwiceTheReward(gym.RewardWrapper):
    def __init__(self, env, factor=2.0):
        super().__init__(env)
        self.factor = factor

    def reward(self, reward):
        return self.factor * reward


@pytest.fixture(autouse=True)
def _registered():
    gym.register(CAMERA, entry_point=f"{__name__}:Camera", max_episode_steps=5)
    gym.register(PARTS, entry_point=f"{__name__}:Camera", max_episode_steps=5, kwargs={"parts": True})
    gym.register("Broken-v0", entry_point=f"{__name__}:Broken")
    yield
    for env_id in (CAMERA, PARTS, "Broken-v0"):
        del gym.registry[env_id]


@pytest.fixture
def made():
    """`make_env` whose environments are closed after the test."""
    envs = []

    def make(*args, **kwargs):
        envs.append(make_env(*args, **kwargs))
        return envs[-1]

    yield make
    for env in envs:
        env.close()


def refusal(function, *args, **kwargs):
    with pytest.raises(UsageError) as refused:
        function(*args, **kwargs)
    message = str(refused.value)
    assert "\n" not in message
    return message


# ---- environments ----


def test_numbers_of_environments_and_their_seeds(made):
    env = made("CartPole-v1", {"n_envs": 3}, seed=7)
    assert isinstance(env, DummyVecEnv)
    assert env.num_envs == 3
    first = env.reset()
    assert len(np.unique(first, axis=0)) == 3
    np.testing.assert_array_equal(made("CartPole-v1", {"n_envs": 3}, seed=7).reset(), first)
    assert made("CartPole-v1", {"n_envs": 3}, n_envs=2).num_envs == 2
    assert made("CartPole-v1", {"n_envs": 4.0}).num_envs == 4
    assert made("CartPole-v1", {}).num_envs == 1


def test_wrappers_stand_around_each_environment_in_their_order(made):
    twice = f"{__name__}.TwiceTheReward"
    for given, reward in [
        (twice, 2.0),
        ([twice], 2.0),
        ({twice: {"factor": 5.0}}, 5.0),
        ([twice, {twice: {"factor": 10.0}}], 20.0),
        ({twice: None}, 2.0),
        (None, 1.0),
    ]:
        env = made("CartPole-v1", {"env_wrapper": given})
        env.reset()
        assert env.step(np.zeros(1, int))[1] == reward


def test_arguments_reach_the_environment_and_the_monitor(made, tmp_path):
    entry = {"env_kwargs": {"size": 3.0}, "monitor_kwargs": "dict(allow_early_resets=False)"}
    env = made(CAMERA, entry, monitor_folder=tmp_path / "logs")
    assert env.get_attr("size") == [3.0]
    assert env.get_attr("allow_early_resets") == [False]
    assert env.env_is_wrapped(Monitor) == [True]
    assert (tmp_path / "logs" / "0.monitor.csv").is_file()
    assert made(CAMERA, entry, env_kwargs={"size": 4.0}).get_attr("size") == [4.0]


def test_the_vectorised_environment_can_be_wrapped(made):
    wrapper = {"stable_baselines3.common.vec_env.VecExtractDictObs": {"key": "numbers"}}
    env = made(PARTS, {"vec_env_wrapper": wrapper, "normalize": True})
    assert env.reset().shape == (1, 2)
    assert isinstance(env, VecNormalize)


def test_frames_are_stacked_after_normalisation(made):
    env = made("Pendulum-v1", {"frame_stack": 4, "normalize": True, "n_envs": 2})
    assert env.reset().shape == (2, 12)
    assert isinstance(env, VecFrameStack)
    assert isinstance(env.venv, VecNormalize)


@pytest.mark.parametrize("stack", [None, 4])
def test_channels_of_images_come_first(made, stack):
    env = made(CAMERA, {} if stack is None else {"frame_stack": stack})
    assert is_vecenv_wrapped(env, VecTransposeImage)
    assert env.observation_space.shape == (3 * (stack or 1), 40, 36)
    model = make_model("trpo", CAMERA, {"policy": "CnnPolicy", "n_steps": 8}, env=env)
    assert model.env is env, "nothing is left for Stable-Baselines3 to wrap"


def test_channels_of_a_part_come_first(made):
    env = made(PARTS, {"n_envs": 2})
    assert env.observation_space["eye"].shape == (3, 40, 36)
    assert env.observation_space["numbers"].shape == (2,)
    model = make_model("trpo", PARTS, {"policy": "MultiInputPolicy", "n_steps": 8}, env=env)
    assert model.env is env
    evaluation = made(PARTS, {}, training=False)
    assert evaluation.observation_space == env.observation_space


def test_normalisation_is_for_training(made):
    entry = {"normalize": {"norm_obs": True, "clip_obs": 5.0}, "gamma": 0.9}
    training = unwrap_vec_normalize(made("Pendulum-v1", entry))
    assert training.training
    assert training.norm_reward
    assert training.gamma == 0.9
    assert training.clip_obs == 5.0
    evaluation = unwrap_vec_normalize(made("Pendulum-v1", entry, training=False))
    assert not evaluation.training
    assert not evaluation.norm_reward
    assert evaluation.norm_obs
    assert unwrap_vec_normalize(made("Pendulum-v1", {"normalize": False})) is None


def test_subprocesses_know_what_only_the_parent_has_registered(made):
    env = made(CAMERA, {"n_envs": 2, "env_wrapper": f"{__name__}.TwiceTheReward"}, vec_env="subproc", seed=1)
    assert is_vecenv_wrapped(env, VecTransposeImage)
    assert isinstance(env.venv, SubprocVecEnv)
    env.reset()
    assert env.step(np.zeros(2, int))[1].tolist() == [2.0, 2.0]


def test_modules_that_register_environments_are_imported_by_name(made, tmp_path, monkeypatch):
    (tmp_path / "own_envs_of_a_test.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('OwnOfATest-v0', entry_point='gymnasium.envs.classic_control.cartpole:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert check_env("own_envs_of_a_test:OwnOfATest-v0").id == "OwnOfATest-v0"
        assert made("own_envs_of_a_test:OwnOfATest-v0", {}).num_envs == 1
    finally:
        gym.registry.pop("OwnOfATest-v0", None)


@pytest.mark.parametrize(
    ("env_id", "says"),
    [
        ("CartPole-v7", "environment 'CartPole-v7' is not registered, did you mean 'CartPole-v1'?"),
        ("Cartpole-v1", "did you mean 'CartPole-v1'?"),
        ("HalfCheetah", "did you mean 'HalfCheetah-v"),
        ("qqqq", "environment 'qqqq' is not registered: "),
        ("", "environment '' is not registered"),
        ("no_such_package:X-v0", "No module named 'no_such_package'; install the package that registers it"),
    ],
)
def test_an_unknown_environment_is_refused(env_id, says):
    assert says in refusal(check_env, env_id)
    assert says in refusal(make_env, env_id, {})


@pytest.mark.parametrize(
    ("env_id", "entry", "says"),
    [
        ("Broken-v0", {}, "environment 'Broken-v0' cannot be made: the simulator is not installed"),
        (CAMERA, {"env_kwargs": {"sizes": 3}}, "cannot be made: "),
        ("CartPole-v1", {"env_wrapper": "nowhere.Wrapper"}, "env_wrapper='nowhere.Wrapper' cannot be imported"),
        ("CartPole-v1", {"env_wrapper": "Wrapper"}, "env_wrapper='Wrapper' cannot be imported"),
        ("CartPole-v1", {"env_wrapper": "gymnasium.wrappers.Nothing"}, "cannot be imported"),
        ("CartPole-v1", {"env_wrapper": "collections.OrderedDict"}, "must be a subclass of Wrapper"),
        ("CartPole-v1", {"env_wrapper": {"a.B": {}, "c.D": {}}}, "must be one class, or one class with its arguments"),
        ("CartPole-v1", {"env_wrapper": {f"{__name__}.TwiceTheReward": 3}}, "must be one class"),
        ("CartPole-v1", {"env_wrapper": {f"{__name__}.TwiceTheReward": {"fact": 3}}}, "cannot be made: "),
        ("CartPole-v1", {"vec_env_wrapper": f"{__name__}.TwiceTheReward"}, "must be a subclass of VecEnvWrapper"),
        ("CartPole-v1", {"vec_env_wrapper": "stable_baselines3.common.vec_env.VecExtractDictObs"}, "cannot be made: "),
        ("CartPole-v1", {"env_kwargs": 3}, "env_kwargs=3 must be arguments such as {name: value}"),
        ("Taxi-v4", {"normalize": True}, "environment 'Taxi-v4' cannot be made: "),
        ("Taxi-v4", {"frame_stack": 4}, "environment 'Taxi-v4' cannot be made: "),
    ],
)
def test_what_cannot_be_made_is_refused(env_id, entry, says):
    assert says in refusal(make_env, env_id, entry)


@pytest.mark.slow
def test_an_environment_that_fails_in_its_process_is_refused():
    message = refusal(make_env, "Broken-v0", {}, vec_env="subproc")
    assert re.fullmatch(
        r"environment 'Broken-v0' cannot be made: the process of environment 0 \(pid \d+\) ended with exit code 1, "
        "what it printed tells why",
        message,
    )


def test_an_unknown_kind_of_vectorised_environment_is_refused():
    assert "vec_env='subprocess' is unknown, did you mean 'subproc'?" in refusal(
        make_env, "CartPole-v1", {}, vec_env="subprocess"
    )


def test_an_environment_that_cannot_be_normalised_is_closed(monkeypatch):
    made = []
    original = models.make_vec_env
    monkeypatch.setattr(
        models, "make_vec_env", lambda *args, **kwargs: made.append(original(*args, **kwargs)) or made[-1]
    )
    closed = []
    monkeypatch.setattr(DummyVecEnv, "close", lambda self: closed.append(self))
    refusal(make_env, "Taxi-v4", {"normalize": True})
    assert closed == made
    assert len(made) == 1


# ---- models ----


def test_a_model_is_what_its_hyperparameters_say():
    entry = {
        "n_timesteps": 1e5,
        "n_envs": 2,
        "n_steps": 16,
        "policy": "sb3_trpo.algorithms.policies.MlpPolicy",
        "policy_kwargs": "dict(net_arch=[8])",
        "learning_rate": "lin_1e-2",
        "normalize": True,
        "radius": "adaptive",
    }
    model = make_model("trpo", "Pendulum-v1", entry, seed=3)
    assert isinstance(model, sb3_trpo.TRPO)
    assert isinstance(model.policy, MlpPolicy)
    assert (model.n_envs, model.n_steps, model.seed, model.policy.net_arch) == (2, 16, 3, [8])
    assert model.lr_schedule(0.5) == 5e-3
    assert model.get_vec_normalize_env() is not None
    model.learn(64)
    model.env.close()


def test_the_shipped_hyperparameters_are_the_default():
    model = make_model("trpo", "CartPole-v1")
    assert model.n_envs == 8
    model.env.close()


def test_other_algorithms_are_made_alike():
    model = make_model("ppo", "CartPole-v1", {"clip_range": "lin_0.2", "n_steps": 16, "batch_size": 16})
    assert isinstance(model, PPO)
    assert model.clip_range(0.5) == 0.1
    model.env.close()
    model = make_model("sb3_contrib:TRPO", "CartPole-v1", {"n_steps": 16, "batch_size": 16, "cg_damping": 0.2})
    assert type(model).__module__.startswith("sb3_contrib")
    model.env.close()


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"gamma": 2}, "trpo cannot be built for CartPole-v1: gamma=2 must be"),
        ({"gama": 0.9}, "gama"),
        ({"policy": "CnnPolicy"}, "trpo cannot be built for CartPole-v1: "),
        ({"policy": "NoPolicy"}, "NoPolicy"),
        ({"policy_kwargs": {"layers": 3}}, "layers"),
        ({"use_sde": True}, "trpo cannot be built for CartPole-v1: "),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_and_its_environment_closed(entry, says, monkeypatch):
    made, closed = [], []
    monkeypatch.setattr(models, "make_env", lambda *args, **kwargs: made.append(make_env(*args, **kwargs)) or made[-1])
    monkeypatch.setattr(DummyVecEnv, "close", lambda self: closed.append(self))
    assert says in refusal(make_model, "trpo", "CartPole-v1", entry)
    assert [env.unwrapped for env in made] == closed
    assert len(closed) == 1


def test_an_environment_that_was_given_stays_open(made, monkeypatch):
    closed = []
    env = made("CartPole-v1", {})
    monkeypatch.setattr(DummyVecEnv, "close", lambda self: closed.append(self))
    refusal(make_model, "trpo", "CartPole-v1", {"gamma": 2}, env=env)
    assert closed == []


def test_whatever_goes_wrong_the_environment_is_closed(monkeypatch):
    closed = []
    monkeypatch.setattr(DummyVecEnv, "close", lambda self: closed.append(self))

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(sb3_trpo.TRPO, "__init__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_model("trpo", "CartPole-v1", {})
    assert len(closed) == 1


# ---- classes ----


@pytest.mark.parametrize("path", ["", "x", ".", "..", ".x.Y", "a..B", "collections.", "collections.Nothing"])
def test_what_is_no_path_of_a_class_is_refused(path):
    assert refusal(import_class, path, "policy", object).startswith(f"policy={path!r} ")
