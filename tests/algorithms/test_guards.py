"""Garbage from an environment is refused by name, environment and step, and nothing is spoilt by it."""

import json
import pickle
import warnings
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnvWrapper, VecNormalize

from sb3_trpo import TRPO, MaskableTRPO
from sb3_trpo.algorithms.faults import ExperienceError, is_finite
from sb3_trpo.algorithms.guards import LARGEST_REWARD
from sb3_trpo.algorithms.watch import WATCHES, watched
from tests.algorithms.kinds import BOX, DICT, KINDS, algorithm_of, as_masked, make_model
from tests.envs import Walk

NAN, INF = float("nan"), float("inf")
N_STEPS, AT, LENGTH = 16, 21, 9
"""Steps of a rollout; the step at which a fault strikes, in the second rollout; steps of an episode."""


class Faulty(gym.Wrapper):
    """Episodes of `LENGTH` steps, of which step number ``at`` of all steps gives ``reward`` or ``observation``."""

    def __init__(self, env, at, reward=0.0, observation=None, on_reset=False):
        super().__init__(env)
        self.at, self.reward, self.observation, self.on_reset = at, reward, observation, on_reset
        self.taken = 0

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        is_due = self.on_reset and self.taken == self.at + 1
        self.on_reset = self.on_reset and not is_due  # once
        return (self.observation(obs) if is_due else obs), info

    def step(self, action):
        obs, reward, _, _, info = self.env.step(action)
        is_due = self.taken == self.at
        self.taken += 1
        truncated = self.taken % LENGTH == 0
        if not is_due:
            return obs, reward, False, truncated, info
        if self.on_reset:
            return obs, reward, True, False, info
        obs = obs if self.observation is None else self.observation(obs)
        return obs, reward if self.reward == 0.0 else self.reward, False, truncated, info


def with_one(value):
    """The same observation with one bad number in it."""

    def change(obs):
        obs = obs.copy()
        obs[1] = value
        return obs

    return change


# what is named, and how an environment comes by it
FAULTS = {
    "reward nan": ("reward", {"reward": NAN}),
    "reward inf": ("reward", {"reward": INF}),
    "reward -inf": ("reward", {"reward": -INF}),
    "reward none": ("reward", {"reward": None}),
    "observation nan": ("observation", {"observation": with_one(NAN)}),
    "observation inf": ("observation", {"observation": with_one(INF)}),
    "observation too long": ("observation", {"observation": lambda obs: np.zeros(4, np.float32)}),
    "observation that would be broadcast": ("observation", {"observation": lambda obs: obs[:1]}),
    "last observation of an episode": ("observation", {"observation": with_one(NAN), "at": 3 * LENGTH - 1}),
    "last observation none": ("observation", {"observation": lambda obs: None, "at": 3 * LENGTH - 1}),
    "first observation of an episode": ("observation", {"observation": with_one(-INF), "on_reset": True}),
    "exploding values": ("value", {}),
}
SPACES = {
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(2),
}


class Explode(BaseCallback):
    """Before the second rollout the critic becomes too large for its own values."""

    def _on_rollout_start(self):
        if self.model.num_timesteps:
            with th.no_grad():
                self.model.policy.value_net.weight.fill_(3e38)

    def _on_step(self):
        return True


def environments(make_env, arguments, monitored=False, at=AT):
    """Three of them, of which number 1 is at fault."""

    def one(index):
        faults = {"at": at, **arguments} if index == 1 else {"at": -1}
        env = Faulty(make_env(), **faults)
        return Monitor(env) if monitored else env

    return DummyVecEnv([lambda index=index: one(index) for index in range(3)])


def weights(model):
    return [tensor.detach().clone() for tensor in model.policy.state_dict().values()]


def assert_file_is_finite(path):
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".pth"):
                with archive.open(name) as file:
                    assert all_finite(th.load(file, weights_only=False))
        text = archive.read("data").decode()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in the data of the file"))


def all_finite(state):
    if isinstance(state, dict):
        return all(all_finite(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return all(all_finite(value) for value in state)
    return not isinstance(state, th.Tensor) or bool(th.isfinite(state).all())


def check_fault(model, name, path):
    """The error, what is left behind, and that training can go on."""
    what, arguments = FAULTS[name]
    at = arguments.get("at", AT)
    before = []

    class Note(BaseCallback):
        def _on_rollout_start(self):
            before[:] = weights(self.model)

        def _on_step(self):
            return True

    callbacks = [Note()] if what != "value" else [Explode(), Note()]
    statistics = model.get_vec_normalize_env()
    with pytest.raises(ExperienceError, match=rf"the {what}") as caught:
        model.learn(10 * 3 * N_STEPS, callback=callbacks)
    error = caught.value
    assert isinstance(error, ValueError)
    if what == "value":
        assert (error.what, error.env, error.step) == ("value", 0, 0)
    else:
        assert (error.what, error.env, error.step) == (what, 1, at - N_STEPS)
        assert "environment 1" in str(error)
        assert f"step {at - N_STEPS}" in str(error)
    assert model._n_updates == 1
    assert all(th.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    if statistics is not None:
        assert np.isfinite(statistics.obs_rms.mean).all()
        assert np.isfinite([statistics.ret_rms.mean, statistics.ret_rms.var]).all()
        assert np.isfinite(statistics.returns).all()
    assert not set(WATCHES) & set(vars(model.get_env().unwrapped))
    model.save(path)
    assert_file_is_finite(path)
    assert what == "value" or model._last_obs is None
    if what == "value":
        return
    for reset in (False, True):
        model.learn(3 * N_STEPS, reset_num_timesteps=reset)
    assert model._n_updates == 3
    assert all_finite(weights(model))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("fault", FAULTS)
def test_48_faults_are_named_and_leave_finite_files(fault, space, tmp_path):
    """Twelve faults in four action spaces, by the fast rollout without statistics."""
    env = environments(lambda: Walk(SPACES[space], BOX), FAULTS[fault][1])
    model = TRPO("MlpPolicy", env, n_steps=N_STEPS, batch_size=16, seed=0, device="cpu")
    check_fault(model, fault, tmp_path / "model.zip")


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # by its buffer
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("fault", FAULTS)
def test_so_they_are_by_the_loop_of_stable_baselines3_and_under_statistics(fault, space, tmp_path):
    """With Monitor, which breaks on an absent reward, and VecNormalize, which would keep NaN for good."""
    env = VecNormalize(environments(lambda: Walk(SPACES[space], BOX), FAULTS[fault][1], monitored=True))
    model = TRPO("MlpPolicy", env, n_steps=N_STEPS, batch_size=16, seed=0, device="cpu", fast_rollout=False)
    check_fault(model, fault, tmp_path / "model.zip")


@pytest.mark.parametrize("kind", ["masked_discrete", "lstm", "lstm_gsde", "masked_lstm", "gsde"])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("fault", ["reward none", "observation inf", "last observation of an episode"])
def test_so_they_are_by_every_algorithm(kind, fast, fault, tmp_path):
    action_space, observation_space, policy, kwargs = KINDS[kind]

    def make_env():
        return as_masked(kind, Walk(action_space, observation_space))

    env = VecNormalize(environments(make_env, FAULTS[fault][1], monitored=fast))
    settings = {"n_steps": N_STEPS, "batch_size": 16, "seed": 0, "device": "cpu", "fast_rollout": fast, **kwargs}
    check_fault(algorithm_of(kind)(policy, env, **settings), fault, tmp_path / "model.zip")


@pytest.mark.parametrize("fast", [True, False])
def test_a_part_of_a_dictionary_is_named(fast):
    def broken(change):
        env = DummyVecEnv([lambda: Faulty(Walk(SPACES["discrete"], DICT), 3, observation=change)])
        return TRPO("MultiInputPolicy", env, n_steps=8, batch_size=8, device="cpu", fast_rollout=fast)

    for change, sentence in (
        (lambda obs: {**obs, "vector": np.full(2, NAN, np.float32)}, r"observation 'vector' .* holds nan at index"),
        (lambda obs: {**obs, "vector": np.zeros(3, np.float32)}, r"observation 'vector' .* has the shape \(3,\)"),
        (lambda obs: {"image": obs["image"], "choice": 0}, r"observation of .* has no 'vector'"),
    ):
        with pytest.raises(ExperienceError, match=sentence) as caught:
            broken(change).learn(16)
        assert (caught.value.env, caught.value.step) == (0, 3)


@pytest.mark.parametrize("fault", ["reward nan", "reward none", "observation nan", "observation too long"])
def test_environments_in_other_processes_are_named_too(fault):
    what, arguments = FAULTS[fault]
    env = SubprocVecEnv(
        [
            lambda index=index: Faulty(Walk(SPACES["box"], BOX), at=3 if index == 1 else -1, **arguments)
            for index in range(2)
        ],
        start_method="fork",
    )
    try:
        model = TRPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")
        with pytest.raises(ExperienceError) as caught:
            model.learn(16)
        assert (caught.value.what, caught.value.env, caught.value.step) == (what, 1, 3)
    finally:
        env.close()


@pytest.mark.parametrize("normalize", [True, False])
def test_the_first_observation_of_all_is_looked_at(normalize):
    env = DummyVecEnv([lambda: Faulty(Walk(SPACES["box"], BOX), -1, observation=with_one(NAN), on_reset=True)])
    env = VecNormalize(env) if normalize else env
    with pytest.raises(ExperienceError, match=r"the observation of environment 0 at a reset holds nan at index \[1\]"):
        TRPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu").learn(8)
    if normalize:
        assert np.isfinite(env.obs_rms.mean).all()


class Spoil(VecEnvWrapper):
    """Above the environments: one number is NaN at one step."""

    def __init__(self, venv, what, at):
        super().__init__(venv)
        self.what, self.at, self.taken = what, at, 0

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        obs, rewards, dones, infos = self.venv.step_wait()
        if self.taken == self.at:
            (obs if self.what == "observation" else rewards)[1] = NAN
        self.taken += 1
        return obs, rewards, dones, infos


@pytest.mark.parametrize("what", ["observation", "reward"])
@pytest.mark.parametrize("kind", ["box", "gsde", "lstm", "opaque_discrete"])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("at", [3, 7])
def test_what_a_wrapper_spoils_is_named_before_the_update(what, kind, fast, at):
    action_space, observation_space, policy, kwargs = KINDS[kind]
    env = Spoil(DummyVecEnv([lambda: Walk(action_space, observation_space) for _ in range(2)]), what, at)
    model = algorithm_of(kind)(policy, env, n_steps=8, batch_size=8, device="cpu", fast_rollout=fast, **kwargs)
    with pytest.raises(ExperienceError, match=rf"the {what} of environment 1 at step {at} of the rollout"):
        model.learn(16)
    assert model._n_updates == 0
    assert model._last_obs is None


def test_other_errors_pass_and_leave_no_trace():
    class Broken(gym.Wrapper):
        def step(self, action):
            raise TypeError("the simulator wants something else")

    env = DummyVecEnv([lambda: Broken(Walk(SPACES["box"], BOX))])
    model = TRPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(TypeError, match="the simulator wants something else"):
        model.learn(8)
    assert not set(WATCHES) & set(vars(env))
    assert model._last_obs is not None


def test_a_watch_goes_round_a_method_of_the_objects_own():
    env = DummyVecEnv([lambda: Walk(SPACES["box"], BOX)])
    calls, original = [], env.step_wait
    own = env.step_wait = lambda: calls.append(1) or original()
    with watched(env), watched(env):
        env.reset()
        env.step(np.zeros((1, 2), np.float32))
    assert calls == [1]
    assert vars(env)["step_wait"] is own


def test_the_error_survives_the_way_to_another_process():
    error = ExperienceError("reward", 3, 7, "is nan")
    twin = pickle.loads(pickle.dumps(error))
    assert (str(twin), twin.what, twin.env, twin.step) == (str(error), "reward", 3, 7)


@pytest.mark.parametrize("scale", [1.0, 1e30])
@pytest.mark.parametrize("value", [1.0, NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, object])
def test_finite_numbers_are_told_from_others_at_any_scale(scale, value, dtype):
    numbers = np.full((3, 4), 1.0 if dtype is np.float16 else scale).astype(dtype)
    numbers[1, 2] = value
    assert is_finite(numbers) == np.isfinite(value)
    assert is_finite(np.array([3, 4]))


@pytest.mark.parametrize("algorithm", [TRPO, MaskableTRPO])
@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_huge_rewards_warn_once_and_leave_a_finite_policy(algorithm, normalize_advantage):
    model = make_model(
        "box" if algorithm is TRPO else "masked_discrete", normalize_advantage=normalize_advantage, target_kl=0.02
    )
    assert type(model) is algorithm
    envs = model.get_env().unwrapped.envs
    for index, env in enumerate(envs):
        envs[index] = gym.wrappers.TransformReward(env, lambda reward: 1e30 * reward)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(4 * 64)
    told = [str(warning.message) for warning in caught if "the reward scale is too large" in str(warning.message)]
    assert len(told) == 1
    assert float(told[0].split("one of ")[1].split()[0]) > LARGEST_REWARD
    assert model._n_updates == 4
    assert all_finite(weights(model))
    assert model.logger.name_to_value["train/is_line_search_success"] == 1.0


def test_ordinary_rewards_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_model("box").learn(128)
