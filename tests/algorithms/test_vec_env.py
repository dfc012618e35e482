"""Lean stepping returns what `DummyVecEnv.step` returns, and leaves no trace."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from sb3_trpo.algorithms.vec_env import lean_stepping
from tests.algorithms.kinds import BOX, DICT
from tests.envs import Walk

ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Informed(gym.Wrapper):
    """Infos of every kind; the dictionary and the array in it are the same objects on every step."""

    def __init__(self, env, nested):
        super().__init__(env)
        self.nested, self.info, self.array = nested, {}, np.zeros(2)

    def step(self, action):
        obs, reward, terminated, truncated, _ = self.env.step(action)
        self.array += 1.0
        self.info.clear()
        self.info.update(x=1.5, n=3, name="walk", flag=np.bool_(True), speed=np.float64(reward), nothing=None)
        if self.nested:
            self.info.update(array=self.array, again=self.array)
        return obs, reward, terminated, truncated, self.info


def make(space, nested, seed=3):
    env = DummyVecEnv([lambda i=i: Monitor(Informed(Walk(ACTIONS, space, length=4 + i), nested)) for i in range(2)])
    env.seed(seed)
    return env


def play(env, lean, n_steps=30):
    seen = [copy.deepcopy(env.reset())]
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(n_steps):
        env.step_async(rng.uniform(-1, 1, (2, 2)).astype(np.float32))
        if lean:
            with lean_stepping(env):
                assert "step_wait" in vars(env.unwrapped)
                result = env.step_wait()
        else:
            result = env.step_wait()
        kept.append(result)
        seen.append(copy.deepcopy(result))
    for now, then in zip(kept, seen[1:], strict=True):
        np.testing.assert_equal(now, then)  # later steps did not reach into what was returned
    return seen


def without_time(seen):
    for step in seen[1:]:
        for info in step[3]:
            info.get("episode", {}).pop("t", None)
    return seen


@pytest.mark.parametrize("space", [BOX, DICT, spaces.Discrete(5)], ids=["box", "dict", "discrete"])
@pytest.mark.parametrize("nested", [False, True])
def test_the_same_observations_rewards_dones_and_infos(space, nested):
    plain, lean = (without_time(play(make(space, nested), lean)) for lean in (False, True))
    np.testing.assert_equal(lean, plain)
    assert any(step[2].any() for step in plain[1:])
    for a, b in zip(plain[1:], lean[1:], strict=True):
        assert [type(x) for x in a] == [type(x) for x in b]
        assert [getattr(x, "dtype", None) for x in a] == [getattr(x, "dtype", None) for x in b]
        assert [{k: type(v) for k, v in info.items()} for info in a[3]] == [
            {k: type(v) for k, v in info.items()} for info in b[3]
        ]
    if nested:
        assert lean[1][3][0]["array"] is not lean[2][3][0]["array"]


@pytest.mark.parametrize("wrapper", [VecNormalize, lambda env: VecFrameStack(env, 2)], ids=["normalize", "stack"])
def test_it_reaches_through_wrappers(wrapper):
    plain, lean = (without_time(play(wrapper(make(BOX, False)), lean)) for lean in (False, True))
    np.testing.assert_equal(lean, plain)


def test_nothing_is_left_behind_whatever_happens():
    env = make(BOX, False)
    before = dict(vars(env))

    def stop():
        with lean_stepping(VecNormalize(env)):
            assert "step_wait" in vars(env)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert vars(env).keys() == before.keys()
    with lean_stepping(env), lean_stepping(env):
        env.reset()
        env.step(np.zeros((2, 2), np.float32))
    assert "step_wait" not in vars(env)


def test_other_environments_are_left_as_they_are():
    class Mine(DummyVecEnv):
        pass

    mine = Mine([lambda: Walk(ACTIONS, BOX)])
    with lean_stepping(mine):
        assert "step_wait" not in vars(mine)
    pair = spaces.Tuple((BOX, BOX))
    both = DummyVecEnv([lambda: Walk(ACTIONS, pair)])
    with lean_stepping(both):
        assert "step_wait" not in vars(both)
    other = SubprocVecEnv([lambda: Walk(ACTIONS, BOX)])
    with lean_stepping(other):
        assert "step_wait" not in vars(other)
    other.close()
