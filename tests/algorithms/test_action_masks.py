"""Action masks: no forbidden action on any way, and a clear word where masks are wrong."""

import itertools
import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.envs import InvalidActionEnvDiscrete, InvalidActionEnvMultiBinary, InvalidActionEnvMultiDiscrete
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from sb3_contrib.common.maskable.utils import get_action_masks
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnvWrapper, VecNormalize

from sb3_trpo import MaskableRecurrentTRPO, MaskableTRPO
from sb3_trpo.algorithms.masks import option_counts
from tests.algorithms.kinds import BOX, KINDS, LSTM, WITH_MASKS, algorithm_of, as_masked, collect, make_model
from tests.envs import Walk

ALGORITHMS = {
    MaskableTRPO: ("MlpPolicy", {"net_arch": [16]}),
    MaskableRecurrentTRPO: ("MlpLstmPolicy", LSTM),
}


def make(algorithm, env, **settings):
    policy, policy_kwargs = ALGORITHMS[algorithm]
    settings = {"n_steps": 32, "batch_size": 32, "seed": 0, "device": "cpu", **settings}
    return algorithm(policy, env, policy_kwargs=policy_kwargs, **settings)


class Scripted(gym.Wrapper):
    """Masks from a function of the number of steps taken so far; a forbidden action is an error."""

    def __init__(self, env, mask_at):
        super().__init__(env)
        self.mask_at, self.taken = mask_at, 0
        self.starts = np.cumsum([0, *option_counts(env.action_space)[:-1]])

    def action_masks(self):
        return self.mask_at(self.taken)

    def step(self, action):
        mask = np.asarray(self.mask_at(self.taken)).reshape(-1)
        assert mask[self.starts + np.atleast_1d(action)].all(), f"forbidden action {action} at step {self.taken}"
        self.taken += 1
        return super().step(action)


def scripted(mask_at, n_envs=2, which=1, action_space=None):
    """Environments of which number ``which`` has its masks from a script, and the others allow everything."""
    space = action_space or spaces.Discrete(3)
    everything = [True] * sum(option_counts(space))

    def one(index):
        return Scripted(Walk(space, BOX, length=7), mask_at if index == which else lambda taken: everything)

    return DummyVecEnv([lambda index=index: one(index) for index in range(n_envs)])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("rollout", [0, 1])
def test_a_mask_that_allows_nothing_is_refused_by_environment_and_step_before_anyone_acts(algorithm, fast, rollout):
    env = scripted(lambda taken: [taken != 5 + 32 * rollout] * 3)
    model = make(algorithm, env, fast_rollout=fast)
    with pytest.raises(ValueError, match=r"mask of environment 1 at step 5 of the rollout forbids every option: allow"):
        model.learn(128)
    assert env.envs[1].taken == 5 + 32 * rollout
    assert model.num_timesteps == 2 * env.envs[1].taken


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("fast", [True, False])
def test_a_choice_without_an_option_is_named(algorithm, fast):
    space = spaces.MultiDiscrete([2, 3])
    env = scripted(lambda taken: [1, 1, *[taken != 2] * 3], action_space=space)
    with pytest.raises(ValueError, match=r"environment 1 at step 2 of the rollout forbids every option of choice 1:"):
        make(algorithm, env, fast_rollout=fast).learn(64)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("mask", [[True] * 2, [[True] * 4] * 2])
def test_masks_of_another_size_in_one_environment_are_refused(algorithm, fast, mask):
    model = make(algorithm, scripted(lambda taken: mask), fast_rollout=fast)
    with pytest.raises(
        ValueError, match=r"masks have entries of unequal length, they must have .* each of 3 options .* 2 environments"
    ):
        model.learn(64)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("length", [2, 6])
def test_masks_of_another_size_in_all_environments_are_refused(algorithm, fast, length):
    model = make(algorithm, scripted(lambda taken: [True] * length, n_envs=1, which=0), fast_rollout=fast)
    with pytest.raises(ValueError, match=rf"masks have shape \(1, {length}\), they must have .* 3 options \(3\)"):
        model.learn(64)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("fast", [True, False])
def test_an_environment_without_masks_is_refused_unless_none_are_wanted(algorithm, fast):
    model = make(algorithm, DummyVecEnv([lambda: Walk(spaces.Discrete(3), BOX)]), fast_rollout=fast)
    with pytest.raises(ValueError, match=r"no method action_masks\(\): give it one, wrap it in .*use_masking=False"):
        model.learn(64)
    assert model.num_timesteps == 0
    assert model.learn(64, use_masking=False).num_timesteps == 64
    assert (model.rollout_buffer.action_masks == 1).all()
    with pytest.raises(ValueError, match="no method action_masks"):
        model.learn(64)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("fast", [True, False])
def test_masks_that_are_not_wanted_are_not_asked_for(algorithm, fast):
    class Silent(Walk):
        def action_masks(self):
            raise AssertionError("asked for masks")

    model = make(algorithm, DummyVecEnv([lambda: Silent(spaces.Discrete(3), BOX)]), fast_rollout=fast)
    assert model.learn(64, use_masking=False)._n_updates == 2
    with pytest.raises(AssertionError, match="asked for masks"):
        model.learn(64)


@pytest.mark.parametrize("kind", sorted(WITH_MASKS))
def test_predictions_take_masks_in_every_form_and_obey_them(kind):
    model = make_model(kind)
    obs, sizes = model.env.reset(), option_counts(model.action_space)
    only = np.concatenate([np.arange(size) == size - 1 for size in sizes])
    last = np.array(sizes) - 1
    one = {k: v[0] for k, v in obs.items()} if isinstance(obs, dict) else obs[0]
    for deterministic in (True, False):
        for masks in (np.stack([only] * 2), [only.tolist()] * 2, th.as_tensor(np.stack([only] * 2)), np.tile(only, 2)):
            actions, _ = model.predict(obs, deterministic=deterministic, action_masks=masks)
            np.testing.assert_array_equal(actions.reshape(2, -1), [last] * 2)
        actions, _ = model.predict(one, deterministic=deterministic, action_masks=only)
        np.testing.assert_array_equal(np.reshape(actions, -1), last)
    mixed = np.stack([only, np.ones_like(only)])
    mixed[0] = True
    mixed[1] = only
    actions, _ = model.predict(obs, action_masks=mixed)
    np.testing.assert_array_equal(actions.reshape(2, -1)[1], last)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ([[1, 1, 1], [0, 0, 0]], "mask of environment 1 forbids every option: allow"),
        ([1, 1, 1], r"shape \(3,\)"),
        ([[1, 1, 1]], r"shape \(1, 3\)"),
        ([[1, 1], [1, 1]], r"shape \(2, 2\)"),
        ([[1, 1, 1], [1, 1]], "entries of unequal length"),
        ([], r"shape \(0,\)"),
    ],
)
def test_predictions_refuse_masks_that_do_not_fit(algorithm, masks, said):
    model = make(algorithm, scripted(lambda taken: [True] * 3))
    with pytest.raises(ValueError, match=said):
        model.predict(model.env.reset(), action_masks=masks)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("fast", [True, False])
def test_a_single_allowed_action_everywhere_is_no_reason_to_move_and_makes_no_nan(algorithm, fast):
    space = spaces.MultiDiscrete([2, 3])
    env = scripted(lambda taken: [0, 1, 1, 0, 0], n_envs=1, which=0, action_space=space)
    model = make(algorithm, env, fast_rollout=fast)
    actor = {n: p.clone() for n, p in model.policy.named_parameters() if "value" not in n and "critic" not in n}
    model.learn(64)
    np.testing.assert_array_equal(model.rollout_buffer.actions.reshape(-1, 2), [[1, 0]] * 32)
    assert not model.rollout_buffer.log_probs.any()
    logged = model.logger.name_to_value
    assert logged["train/outcome"] == "refused: the gradient is zero, the batch prefers no action"
    assert logged["train/entropy"] == 0.0
    assert all(th.isfinite(p).all() for p in model.policy.parameters())
    now = dict(model.policy.named_parameters())
    assert all(th.equal(p, now[n]) for n, p in actor.items())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("fast", [True, False])
def test_where_only_some_steps_leave_a_choice_these_decide(algorithm, fast):
    env = scripted(lambda taken: [True, taken % 4 == 0, taken % 4 == 0], n_envs=1, which=0)
    model = make(algorithm, env, fast_rollout=fast, n_steps=64).learn(64)
    assert model.logger.name_to_value["train/is_line_search_success"] == 1.0
    assert 0 < model.logger.name_to_value["train/kl_divergence_loss"] <= 0.01 * (1 + 1e-4)


class Strict(gym.Wrapper):
    """sb3-contrib's environments say which actions are invalid and take them all the same."""

    def step(self, action):
        inner = self.unwrapped
        starts = np.cumsum([0, *option_counts(inner.action_space)[:-1]])
        assert not set(starts + np.atleast_1d(action)) & set(inner.invalid_actions), "an invalid action was taken"
        return super().step(action)


INVALID = {
    "discrete": lambda: InvalidActionEnvDiscrete(dim=8, n_invalid_actions=6, ep_length=20),
    "multi_discrete": lambda: InvalidActionEnvMultiDiscrete(dims=[3, 4], n_invalid_actions=4, ep_length=20),
    "multi_binary": lambda: InvalidActionEnvMultiBinary(dims=3, n_invalid_actions=2, ep_length=20),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", list(INVALID))
def test_no_invalid_action_is_taken_in_training_or_in_evaluation(algorithm, fast, name, tmp_path):
    """Where each step allows few actions, chance would soon take another."""
    env = DummyVecEnv([lambda: Strict(INVALID[name]()) for _ in range(2)])
    judge = DummyVecEnv([lambda: Monitor(Strict(INVALID[name]()))])
    callback = MaskableEvalCallback(
        judge, eval_freq=20, n_eval_episodes=2, best_model_save_path=tmp_path, verbose=0, deterministic=False
    )
    model = make(algorithm, env, fast_rollout=fast).learn(128, callback=callback)
    assert np.isfinite(callback.best_mean_reward)
    best = algorithm.load(tmp_path / "best_model")
    for deterministic in (True, False):
        mean, _ = evaluate_policy(best, judge, n_eval_episodes=3, deterministic=deterministic)
        assert 0 <= mean <= 20
    assert model._n_updates == 2


class InWords(VecEnvWrapper):
    """A wrapper that answers for the environments."""

    asked = 0

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()

    def env_method(self, method_name, *args, indices=None, **kwargs):
        answers = super().env_method(method_name, *args, indices=indices, **kwargs)
        if method_name == "action_masks":
            InWords.asked += 1
            return [np.array([False, *answer[1:]]) for answer in answers]
        return answers


def masker():
    return Monitor(ActionMasker(Walk(spaces.Discrete(3), BOX, length=7), lambda env: [True, True, False]))


@pytest.mark.parametrize(
    ("algorithm", "wrap", "fast"),
    [
        *itertools.product(ALGORITHMS, ["normalised", "in words", "in words, normalised"], [True, False]),
        (MaskableTRPO, "processes", True),
    ],
)
def test_masks_come_through_wrappers_and_from_other_processes(algorithm, wrap, fast):
    InWords.asked = 0
    env = (SubprocVecEnv if wrap == "processes" else DummyVecEnv)([masker] * 2)
    env = InWords(env) if "in words" in wrap else env
    env = VecNormalize(env) if "normalised" in wrap else env
    try:
        model = make(algorithm, env, fast_rollout=fast).learn(128)
    finally:
        env.close()
    taken, allowed = model.rollout_buffer.actions.flatten(), {1} if "in words" in wrap else {0, 1}
    assert set(taken.astype(int)) == allowed
    masks = model.rollout_buffer.action_masks.reshape(-1, 3)
    np.testing.assert_array_equal(masks.any(0), [i in allowed for i in range(3)])
    assert InWords.asked == (64 if "in words" in wrap else 0)


@pytest.mark.parametrize("kind", sorted(WITH_MASKS))
def test_masks_in_the_buffer_are_those_the_environment_gave_at_each_step(kind):
    action_space, observation_space, policy, kwargs = KINDS[kind]
    asked = []

    class Noted(gym.Wrapper):
        def action_masks(self):
            asked.append(np.array(self.env.action_masks()))
            return asked[-1]

    env = DummyVecEnv([lambda: Noted(as_masked(kind, Walk(action_space, observation_space, 5)))])
    for fast in (True, False):
        asked.clear()
        model = algorithm_of(kind)(policy, env, **{**kwargs, "n_steps": 16, "device": "cpu", "fast_rollout": fast})
        collect(model)
        np.testing.assert_array_equal(model.rollout_buffer.action_masks[:, 0], np.stack(asked))


def test_the_policy_is_given_masks_inside_a_rollout_only():
    model = make(MaskableTRPO, scripted(lambda taken: [False, True, False]), fast_rollout=False)
    collect(model)
    obs = th.as_tensor(model.env.reset())
    assert len({int(a) for _ in range(30) for a in model.policy(obs)[0]}) > 1
    assert not model.policy._forward_pre_hooks


class Asker(BaseCallback):
    """Calls the policy whenever it can, on as many observations as there are environments and on others."""

    def _ask(self):
        for n in (self.training_env.num_envs, 5):
            memory = [th.zeros(1, n, LSTM["lstm_hidden_size"])] * 2
            remembers = isinstance(self.model, MaskableRecurrentTRPO)
            more = (RNNStates(memory, memory), th.zeros(n)) if remembers else ()
            self.model.policy(th.zeros(n, *BOX.shape), *more)

    _on_rollout_start = _on_rollout_end = _ask

    def _on_step(self):
        self._ask()
        return True


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_callback_that_asks_the_policy_does_not_disturb_the_masks_of_the_rollout(algorithm):
    def mask(taken):
        return [taken % 3 != 0, taken % 3 != 1, taken % 3 != 2]

    env = scripted(mask, n_envs=1, which=0)
    model = make(algorithm, env, fast_rollout=False).learn(64, callback=Asker())
    expected = [mask(taken) for taken in range(32, 64)]
    np.testing.assert_array_equal(model.rollout_buffer.action_masks.reshape(-1, 3), expected)
    assert model.logger.name_to_value["train/is_line_search_success"] == 1.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_state_dependent_exploration_is_refused_where_nothing_is_continuous(algorithm, tmp_path):
    env = scripted(lambda taken: [True] * 3)
    with pytest.raises(ValueError, match="continuous actions"):
        make(algorithm, env, use_sde=True)
    make(algorithm, env).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"use_sde=True is for continuous actions, and Discrete\(3\) has none"):
        algorithm.load(tmp_path / "model", env=env, use_sde=True)


@pytest.mark.parametrize(("kind", "cls"), [("masked_discrete", RolloutBuffer), ("masked_lstm", MaskableRolloutBuffer)])
def test_a_buffer_without_room_for_what_is_needed_is_refused(kind, cls):
    usual = re.escape(make_model(kind).rollout_buffer_class.__name__)
    with pytest.raises(ValueError, match=rf"rollout_buffer_class=.*{cls.__name__}.* must be a subclass of {usual}"):
        make_model(kind, rollout_buffer_class=cls)


def test_a_buffer_of_ones_own_gets_the_masks_too():
    class Mine(MaskableRolloutBuffer):
        pass

    model = make_model("masked_multi_discrete", rollout_buffer_class=Mine).learn(64)
    assert 0 < model.rollout_buffer.action_masks.mean() < 1


def test_masks_of_get_action_masks_fit_predict():
    env = DummyVecEnv([masker] * 2)
    model = make(MaskableTRPO, env)
    assert (model.predict(env.reset(), action_masks=get_action_masks(env))[0] < 2).all()
