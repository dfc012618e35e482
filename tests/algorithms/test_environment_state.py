"""Environments go on, bit for bit, where others like them were captured."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_trpo.algorithms.environment_state import Resumable, capture, restore
from tests.envs import Contextual

CLASSIC = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"]
MUJOCO = [
    "Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Swimmer-v5", "Ant-v5", "Humanoid-v5", "Reacher-v5", "Pusher-v5",
    "InvertedDoublePendulum-v5",
]  # fmt: skip
TOY_TEXT = ["FrozenLake-v1", "Taxi-v4", "Blackjack-v1"]


def choices(env, n, seed=0):
    env.action_space.seed(seed)
    return [np.array([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(n)]


def play(env, actions):
    return [env.step(action)[:3] for action in actions]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_equal(a, b)


def goes_on(make, n_before=60, n_after=120):
    """Whether an environment that was elsewhere goes on as the one that was captured; its state."""
    env, other = make(), make()
    env.reset()
    other.reset()
    actions = choices(env, n_before + n_after)
    play(env, actions[:n_before])
    play(other, actions[: n_before // 3])
    captured = capture(env)
    assert captured.state is not None, captured.reason
    expected = play(env, actions[n_before:])
    restore(other, captured.state)
    assert_same(expected, play(other, actions[n_before:]))
    env.close()
    other.close()
    return captured.state


@pytest.mark.parametrize("env_id", [*CLASSIC, *TOY_TEXT])
def test_the_environments_of_gymnasium(env_id):
    goes_on(lambda: make_vec_env(env_id, 2, seed=1))


@pytest.mark.parametrize("env_id", MUJOCO)
@pytest.mark.filterwarnings("ignore:.*settotalmass.*")
def test_the_tasks_of_mujoco(env_id):
    """Some look at what was computed a step ago: positions of bodies, contact forces."""
    goes_on(lambda: make_vec_env(env_id, 2, seed=1), n_before=25, n_after=50)


@pytest.mark.filterwarnings("ignore:The environment is already wrapped")
def test_wrappers_of_environments_and_of_vectorised_ones():
    def make():
        env = make_vec_env("Pendulum-v1", 2, seed=1, wrapper_class=gym.wrappers.NormalizeObservation)
        return VecNormalize(VecMonitor(VecFrameStack(env, 3)), gamma=0.9)

    goes_on(make, n_before=250, n_after=250)


def test_an_environment_that_samples_from_its_space():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.MultiBinary(3)})
    goes_on(lambda: make_vec_env(lambda: Contextual(spaces.Discrete(3), space), 2, seed=1), 5, 20)


def test_environments_in_processes_of_their_own():
    goes_on(lambda: make_vec_env("CartPole-v1", 2, seed=1, vec_env_cls=SubprocVecEnv, wrapper_class=Resumable), 30, 60)


def test_the_state_is_a_copy():
    env = make_vec_env("CartPole-v1", 1, seed=1)
    env.reset()
    first, again = capture(env).state, capture(env).state
    play(env, choices(env, 5))
    np.testing.assert_equal(first, again)


@pytest.mark.parametrize("name", ["step", "__class__", "env", "spec"])
def test_a_state_made_by_somebody_else_sets_no_methods(name):
    env = make_vec_env("CartPole-v1", 1, seed=1)
    env.reset()
    state = capture(env).state
    state["envs"][0][-1]["values"][name] = 1
    with pytest.raises(ValueError, match=rf"CartPoleEnv\.{name} is not part of a state"):
        restore(env, state)


GENERATOR = {"bit_generator": "MT19937"}
REFUSED = {
    "a generator": ("_np_random cannot take", lambda env, _: env["generators"].update(_np_random=GENERATOR)),
    "a generator that is not there": ("mine is none of", lambda env, _: env["generators"].update(mine=GENERATOR)),
    "a space": ("action_space cannot take", lambda env, _: env["spaces"]["action_space"].update(generator=GENERATOR)),
    "a method": (r"CartPoleEnv\.step is not part", lambda env, _: env["values"].update(step=1)),
    "a property": (r"CartPoleEnv\.unwrapped is not part", lambda env, _: env["values"].update(unwrapped=1)),
    "an object": ("a builtins.object", lambda env, _: env["values"].update(state=object())),
    "statistics": ("obs_rms cannot take", lambda _, normalizer: normalizer["objects"]["obs_rms"].update(values=1)),
    "a layer": ("layers .*World, and there", lambda env, _: env.update(type="World")),
}


@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_a_state_of_which_a_part_is_refused_changes_nothing(vec_env):
    """Neither of what comes before that part, nor in other environments."""
    env, other = (
        VecNormalize(make_vec_env("CartPole-v1", 2, seed=1, vec_env_cls=vec_env, wrapper_class=Resumable))
        for _ in range(2)
    )
    try:
        env.reset()
        play(env, choices(env, 5))
        other.reset()
        before = capture(other).state
        for sentence, spoil in REFUSED.values():
            state = capture(env).state
            spoil(state["envs"][1][-1], state["wrappers"][0])
            with pytest.raises(ValueError, match=sentence):
                restore(other, state)
            np.testing.assert_equal(capture(other).state, before)
        restore(other, capture(env).state)
        actions = choices(env, 5)
        assert_same(play(env, actions), play(other, actions))
    finally:
        env.close()
        other.close()


def test_physics_of_another_size_are_refused():
    env = make_vec_env("InvertedPendulum-v5", 2, seed=1)
    env.reset()
    before, state = capture(env).state, capture(env).state
    state["envs"][0][-1]["values"]["frame_skip"] = 5
    state["envs"][1][-1]["physics"]["data"]["integrated"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"InvertedPendulumEnv\.data cannot take .*: TypeError: state size"):
        restore(env, state)
    np.testing.assert_equal(capture(env).state, before)


class World(gym.Env):
    """Whose state is an object that nobody knows."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.world = World.Body()
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}

    class Body:
        """Of this world."""


def test_a_state_that_cannot_be_captured_is_none_with_a_reason():
    env = make_vec_env(World, 1)
    env.reset()
    captured = capture(env)
    assert captured.state is None
    assert captured.reason.startswith("tests.algorithms.test_environment_state.World.world is a tests.")


def test_an_environment_that_raises_when_it_is_looked_into_has_no_state(monkeypatch):
    env = make_vec_env("CartPole-v1", 1)
    env.reset()
    monkeypatch.setattr("sb3_trpo.algorithms.environment_state._taken", lambda layer: 1 / 0)
    assert capture(env).reason == "ZeroDivisionError: division by zero"


def test_a_closed_environment_can_be_captured(tmp_path):
    env = make_vec_env("CartPole-v1", 1, monitor_dir=str(tmp_path))
    env.reset()
    env.close()
    assert capture(env).state is not None


def test_processes_are_captured_only_by_those_who_can():
    plain = make_vec_env("CartPole-v1", 1, vec_env_cls=SubprocVecEnv)
    unknown = SubprocVecEnv([lambda: Resumable(World())])
    try:
        assert capture(plain).reason == "SubprocVecEnv does not let its environments be looked into"
        unknown.reset()
        assert "World.world is a" in capture(unknown).reason
    finally:
        plain.close()
        unknown.close()


class Odd(World):
    """What it remembers raises when it is looked at."""

    def __init__(self):
        self.notes = Odd.Notes()

    class Notes(dict):
        """Not to be read."""

        def items(self):
            raise RuntimeError("private")


@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_whatever_looking_into_an_environment_raises_its_process_lives_on(vec_env):
    env = vec_env([lambda: Resumable(Odd())])
    try:
        assert capture(env).reason == "RuntimeError: private"
        env.reset()
        env.step(choices(env, 1)[0])
    finally:
        env.close()


def test_an_environment_unlike_the_one_that_was_captured_is_refused():
    env = make_vec_env("CartPole-v1", 2, seed=1)
    env.reset()
    state = capture(env).state
    for other, sentence in (
        (make_vec_env("CartPole-v1", 3), "the state of 2 environments was saved, and there are 3"),
        (make_vec_env("Pendulum-v1", 2), "layers .*CartPoleEnv, and there are .*PendulumEnv"),
        (VecNormalize(make_vec_env("CartPole-v1", 2)), "VecNormalize"),
        (DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2), "Monitor"),
    ):
        before = other.reset()
        with pytest.raises(ValueError, match=sentence):
            restore(other, state)
        assert before is not None
        other.close()


def test_a_training_goes_on_where_rl_zoo_has_put_its_own_time_limit_and_back():
    """RL Zoo exchanges gymnasium's class in every process that imports it."""

    class PatchedTimeLimit(gym.wrappers.TimeLimit):
        __module__ = "rl_zoo3.gym_patches"
        __qualname__ = "PatchedTimeLimit"

    def limited(wrapper):
        env = DummyVecEnv([lambda: wrapper(gym.make("Pendulum-v1").env, 200)])
        env.seed(1)
        env.reset()
        return env

    for of, to in ((gym.wrappers.TimeLimit, PatchedTimeLimit), (PatchedTimeLimit, gym.wrappers.TimeLimit)):
        first, second = limited(of), limited(to)
        for _ in range(3):
            first.step(np.zeros((1, 1), np.float32))
        restore(second, capture(first).state)
        ours, theirs = (env.step(np.ones((1, 1), np.float32))[0] for env in (first, second))
        np.testing.assert_array_equal(ours, theirs)
        assert first.envs[0]._elapsed_steps == second.envs[0]._elapsed_steps == 4
