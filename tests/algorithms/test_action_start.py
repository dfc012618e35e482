"""Discrete actions that do not start at zero: the policy has options, the environment gets start + option."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_with_masks
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo import TRPO, MaskableRecurrentTRPO, MaskableTRPO, RecurrentTRPO
from sb3_trpo.algorithms.action_start import options_taken
from sb3_trpo.algorithms.masks import option_counts
from tests.algorithms.kinds import BOX, LSTM
from tests.envs import Walk

POLICIES = {
    TRPO: ("MlpPolicy", {"net_arch": [16]}),
    MaskableTRPO: ("MlpPolicy", {"net_arch": [16]}),
    RecurrentTRPO: ("MlpLstmPolicy", LSTM),
    MaskableRecurrentTRPO: ("MlpLstmPolicy", LSTM),
}
SPACES = {
    "discrete": spaces.Discrete(3, start=5),
    "negative": spaces.Discrete(3, start=-1),
    "multi_discrete": spaces.MultiDiscrete([3, 2], start=[7, -4]),
}


class Strict(Walk):
    """Takes nothing outside its action space, rewards the first choice's last option, allows all but its first."""

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, np.int64)[()]), f"{action} is not in {self.action_space}"
        obs, _, terminated, truncated, info = super().step(action)
        option = (np.asarray(action) - self.action_space.start).reshape(-1)
        assert not self.is_masked or option[0] != 0, "a forbidden option was taken"
        return obs, float(option[0] == 2), terminated, truncated, info

    is_masked = False

    def action_masks(self):
        sizes = option_counts(self.action_space)
        return np.array([False] + [True] * (sum(sizes) - 1))


def make(algorithm, space, fast=True, n_envs=2, wrapper=None, **settings):
    class Env(Strict):
        is_masked = "Maskable" in algorithm.__name__

    env = DummyVecEnv([lambda: Monitor(Env(space, BOX, length=10)) for _ in range(n_envs)])
    env = env if wrapper is None else wrapper(env)
    policy, kwargs = POLICIES[algorithm]
    settings = {"n_steps": 32, "batch_size": 32, "seed": 0, "device": "cpu", "fast_rollout": fast, **settings}
    return algorithm(policy, env, policy_kwargs=kwargs, **settings)


class Collect(BaseCallback):
    def __init__(self):
        super().__init__()
        self.taken = []

    def _on_step(self):
        self.taken.append(np.array(self.training_env.unwrapped.actions))
        return True


@pytest.mark.parametrize("algorithm", POLICIES)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("wrapper", [None, VecNormalize])
def test_rollouts_predictions_and_evaluations_are_in_the_space(algorithm, space, fast, wrapper, tmp_path):
    space, seen = SPACES[space], Collect()
    model = make(algorithm, space, fast, wrapper=wrapper).learn(64, callback=seen)
    options = model.rollout_buffer.actions
    assert options.min() >= 0
    assert (options.reshape(-1, options.shape[-1]) < option_counts(space)).all()
    if algorithm in (TRPO, MaskableTRPO):  # a recurrent buffer has been put in order
        options = options.reshape(2, 32, -1).swapaxes(0, 1)
        np.testing.assert_array_equal(np.array(seen.taken).reshape(32, 2, -1), options + np.asarray(space.start))
    assert "step_async" not in vars(model.get_env())

    for env in (model.get_env(), model.get_env().unwrapped.envs[0]):
        evaluate = evaluate_with_masks if issubclass(algorithm, MaskableTRPO) else evaluate_policy
        if algorithm is not MaskableRecurrentTRPO:
            evaluate(model, env, n_eval_episodes=2, deterministic=False, warn=False)

    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=model.get_env())
    obs = BOX.sample()
    for deterministic in (True, False):
        for given in (obs, np.stack([obs] * 4)):
            th.manual_seed(1)
            actions, _ = model.predict(given, deterministic=deterministic)
            th.manual_seed(1)
            np.testing.assert_array_equal(loaded.predict(given, deterministic=deterministic)[0], actions)
            for action in [actions] if given is obs else actions:
                assert space.contains(np.asarray(action, np.int64)[()])
    loaded.learn(64)


def test_a_start_changes_nothing_but_the_actions():
    """The same seed leaves the same weights as without one."""
    weights = []
    for start in (0, 5):
        model = make(TRPO, spaces.Discrete(3, start=start)).learn(256)
        weights.append(th.nn.utils.parameters_to_vector(model.policy.parameters()))
    assert th.equal(*weights)


@pytest.mark.parametrize("algorithm", [TRPO, MaskableTRPO])
def test_the_rewarded_action_is_learned(algorithm):
    model = make(algorithm, SPACES["discrete"], n_steps=256, target_kl=0.05).learn(5 * 512)
    actions, _ = model.predict(np.stack([BOX.sample() for _ in range(50)]), deterministic=True)
    assert (actions == 7).mean() > 0.9


def test_a_file_belongs_to_its_own_start(tmp_path):
    make(TRPO, SPACES["discrete"]).save(tmp_path / "model")
    with pytest.raises(ValueError, match="Action spaces do not match"):
        TRPO.load(tmp_path / "model", env=make(TRPO, SPACES["negative"]).get_env())


def test_a_buffer_of_ones_own_has_options_too():
    class MyBuffer(RolloutBuffer):
        pass

    model = make(TRPO, SPACES["discrete"], rollout_buffer_class=MyBuffer).learn(64)
    assert set(np.unique(model.rollout_buffer.actions)) <= {0, 1, 2}


def test_a_copy_of_the_environment_takes_options_of_its_own():
    env = make(TRPO, SPACES["discrete"]).get_env()
    env.reset()
    with options_taken(env, env.action_space):
        twin = copy.deepcopy(env)
        twin.step(np.array([0, 2]))
    np.testing.assert_array_equal(twin.actions, [5, 7])
    assert env.envs[0].get_wrapper_attr("total_steps") == 0
    assert twin.envs[0].get_wrapper_attr("total_steps") == 1
