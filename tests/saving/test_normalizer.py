"""Statistics of VecNormalize: readable by everyone, undamaged or refused."""

import os
import pickle
import random
import signal
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo.saving.errors import FileError
from sb3_trpo.saving.normalizer import load_normalizer, save_normalizer
from tests.envs import Contextual
from tests.processes import forked
from tests.test_files import full_disk, leftovers


def pendulum():
    return DummyVecEnv([lambda: gym.make("Pendulum-v1") for _ in range(2)])


@pytest.fixture
def normalizer():
    """One that has seen a few steps."""
    env = VecNormalize(pendulum(), gamma=0.9, clip_obs=5.0)
    env.seed(0)
    env.reset()
    for _ in range(20):
        env.step(np.zeros((2, 1)))
    return env


def numbers(normalizer):
    parts = normalizer.obs_rms if isinstance(normalizer.obs_rms, dict) else {"obs": normalizer.obs_rms}
    return [
        number.tolist() if isinstance(number, np.ndarray) else number
        for rms in [*parts.values(), normalizer.ret_rms]
        for number in (rms.mean, rms.var, rms.count)
    ]


def test_statistics_are_read_by_us_and_by_stable_baselines3(normalizer, tmp_path):
    save_normalizer(normalizer, tmp_path / "ours.pkl")
    normalizer.save(str(tmp_path / "theirs.pkl"))
    for file in ("ours.pkl", "theirs.pkl"):
        for load in (load_normalizer, VecNormalize.load):
            loaded = load(str(tmp_path / file), pendulum())
            assert numbers(loaded) == numbers(normalizer)
            assert (loaded.gamma, loaded.clip_obs, loaded.training) == (0.9, 5.0, True)
            obs = np.ones((2, 3), np.float32)
            np.testing.assert_array_equal(loaded.normalize_obs(obs), normalizer.normalize_obs(obs))
            loaded.reset()
            loaded.step(np.zeros((2, 1)))


def test_statistics_of_dictionaries(tmp_path):
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (3,))})

    def make():
        return DummyVecEnv([lambda: Contextual(spaces.Discrete(2), space)])

    normalizer = VecNormalize(make())
    normalizer.reset()
    save_normalizer(normalizer, tmp_path / "statistics.pkl")
    assert numbers(load_normalizer(tmp_path / "statistics.pkl", make())) == numbers(normalizer)
    normalizer.obs_rms["b"].var[0] = np.inf
    save_normalizer(normalizer, tmp_path / "statistics.pkl")
    with pytest.raises(FileError, match=r"statistics\.pkl is refused: NaN or infinite statistics in b"):
        load_normalizer(tmp_path / "statistics.pkl", make())


def test_statistics_of_another_environment_are_refused_by_name(normalizer, tmp_path):
    save_normalizer(normalizer, tmp_path / "statistics.pkl")
    other = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    with pytest.raises(FileError, match=r"statistics\.pkl holds the statistics of another environment"):
        load_normalizer(tmp_path / "statistics.pkl", other)


@pytest.mark.parametrize("content", [b"", b"K", pickle.dumps([1])[:-1]])
def test_what_is_no_pickle_is_refused_by_name(tmp_path, content):
    (tmp_path / "statistics.pkl").write_bytes(content)
    with pytest.raises(FileError, match=r"statistics\.pkl holds no statistics of VecNormalize, or is damaged"):
        load_normalizer(tmp_path / "statistics.pkl", pendulum())


@pytest.mark.parametrize("content", [{"obs_rms": 1}, [1, 2], None])
def test_another_pickle_is_refused_by_name(tmp_path, content):
    (tmp_path / "statistics.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(FileError, match=r"statistics\.pkl .* something else than a VecNormalize"):
        load_normalizer(tmp_path / "statistics.pkl", pendulum())


@pytest.mark.parametrize("n_damages", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_damage_goes_unnoticed(normalizer, tmp_path, n_damages):
    """Bits flipped and ends cut off; what is cut off may be the hash as a whole."""
    file, venv, chosen = tmp_path / "statistics.pkl", pendulum(), random.Random(0)
    save_normalizer(normalizer, file)
    saved = file.read_bytes()
    pickled = len(pickle.dumps(normalizer, protocol=pickle.HIGHEST_PROTOCOL))
    for _ in range(n_damages):
        bit, length = chosen.randrange(8 * len(saved)), chosen.randrange(len(saved))
        flipped = bytearray(saved)
        flipped[bit // 8] ^= 1 << bit % 8
        for content in (bytes(flipped), saved[:length]):
            file.write_bytes(content)
            if content == saved[:pickled]:
                assert numbers(load_normalizer(file, venv)) == numbers(normalizer)
                continue
            with pytest.raises(FileError, match=rf"^{file} "):
                load_normalizer(file, venv)


def test_statistics_are_there_whole_or_not_at_all(normalizer, tmp_path):
    file = tmp_path / "statistics.pkl"
    save_normalizer(normalizer, file)
    saved = file.read_bytes()
    with full_disk(100), pytest.raises(OSError, match=f"^{file} cannot be written: File too large"):
        save_normalizer(normalizer, file)
    assert file.read_bytes() == saved

    def save_for_ever():
        while True:
            save_normalizer(normalizer, file)

    for _ in range(20):
        with forked(save_for_ever) as child:
            time.sleep(0.01)
            os.kill(child, signal.SIGKILL)
        assert file.read_bytes() == saved
        assert len(leftovers(tmp_path)) <= 1
