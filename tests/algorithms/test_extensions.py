"""Any two extensions together hold what the plain algorithm holds."""

import itertools
import warnings

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch.distributions import kl_divergence

from sb3_trpo import TRPO
from sb3_trpo.algorithms.slots import SLOTS
from sb3_trpo.callbacks import AveragedPolicy, Validation
from sb3_trpo.core.parameters import flatten
from sb3_trpo.extensions.extension import Plain
from tests.algorithms.kinds import collect, make_model
from tests.algorithms.test_resume import SaveAtBoundaries
from tests.algorithms.test_trust_region import components, frozen_copy
from tests.resuming import assert_same_training, logged

EXTENSIONS = {
    "tracking": {"gradient_estimator": "tracking"},
    "tracking by the Hessian": {"gradient_estimator": "hessian_tracking"},
    "uncertainty": {"radius": "uncertainty", "radius_kwargs": {"groups": 8}},
    "confidence": {"radius": "confidence", "radius_kwargs": {"level": 0.4}},
    "held out": {"validation": "held_out"},
    "entropy": {"ent_coef": 0.05, "entropy_floor": 1.4},
    "reuse": {"reuse": 2, "reuse_bound": "adaptive"},
    "noise": {"action_noise": "colored", "action_noise_kwargs": {"beta": 0.5}},
}
PAIRS = [(a, b) for a, b in itertools.combinations(EXTENSIONS, 2) if not EXTENSIONS[a].keys() & EXTENSIONS[b].keys()]
"""Two that go together: that are not in the same slot."""


def arguments(pair):
    return {name: value for one in pair for name, value in EXTENSIONS[one].items()}


def model_of(pair, **more):
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=3))
    given = {"n_steps": 96, "batch_size": 32, "n_critic_updates": 2, "seed": 1, "target_kl": 0.02}
    return TRPO("MlpPolicy", env, **{**given, **arguments(pair), **more})


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_the_joint_kl_is_within_the_radius(pair):
    model, moved = model_of(pair), 0
    pose, samples = model._pose_problem, []
    model._pose_problem = lambda *given: keep(samples, pose(*given))
    for _ in range(4):
        collect(model)
        old = frozen_copy(model)
        model.train()
        posed = samples[-1]
        seen = th.cat([batch.observations.observations for batch in (*posed.batches, *posed.held_out)])
        with th.no_grad():
            (before,), (after,) = (components(policy.get_distribution(seen)) for policy in (old, model.policy))
        kl = float(kl_divergence(before, after).sum(1).double().mean())
        assert kl <= model.logger.name_to_value["train/radius"] * (1 + 1e-3)
        moved += kl > 0
    assert moved > 0 or "confidence" in pair  # which may find that nothing is sure


def keep(samples, posed):
    samples.append(posed.sample)
    return posed


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_one_seed_one_training(pair):
    weights = [flatten(list(model_of(pair).learn(96 * 2 * 3).policy.parameters())) for _ in range(2)]
    assert th.equal(*weights)


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_a_resumed_training_is_the_uninterrupted_one(pair):
    model, saving = model_of(pair), SaveAtBoundaries((3,))
    rows = logged(model)
    model.learn(96 * 2 * 6, saving)
    saving.files[3].seek(0)
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = TRPO.load(saving.files[3], env=env, force_reset=False)
    assert other._n_updates == 3
    other_rows = logged(other)
    other.learn(other.timesteps_left, reset_num_timesteps=False)
    assert other_rows == rows[3:]
    assert_same_training(model, other)


class Falls(Validation):
    """Finds the present policy disastrous at every second validation, of which the first is one."""

    def __init__(self, averaged=None):
        env = VecNormalize(make_vec_env("Pendulum-v1", 2), training=False, norm_reward=False)
        super().__init__(env, eval_freq=96 * 2, n_eval_episodes=2, averaged=averaged)

    def _play(self, algorithm, learned, seed):
        is_present = algorithm is self.model or algorithm.policy is getattr(self.averaged, "policy", None)
        is_bad = is_present and (self.progress is None or self.progress.validations % 2 == 0)
        return np.array([-1.0, 1.0]) - 1e6 * is_bad


def callbacks_of(name):
    if name == "rollback":
        return [Falls()]
    averaged = AveragedPolicy(0.5)
    return [averaged] if name == "average" else [averaged, Falls(averaged)]


@pytest.mark.parametrize("callbacks", ["rollback", "average", "both"])
@pytest.mark.parametrize("name", list(EXTENSIONS))
def test_rollback_and_average_go_with_every_extension(name, callbacks):
    """One seed is one training, a resumed one the uninterrupted one, and a rollback leaves nothing that was undone."""
    trainings = []
    for _ in range(2):
        model, saving = model_of((name,)), SaveAtBoundaries((3,))
        rows = logged(model)
        given = callbacks_of(callbacks)
        model.learn(96 * 2 * 5, [*given, saving])
        trainings.append((model, rows))
    (model, rows), (again, _) = trainings
    assert_same_training(model, again)
    if callbacks != "average":
        assert given[-1].progress.rollbacks >= 2
        assert not model.past_rollouts or len(model.past_rollouts) < model.reuse
    saving.files[3].seek(0)
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=9))
    other = TRPO.load(saving.files[3], env=env, force_reset=False)
    other_rows = logged(other)
    other.learn(other.timesteps_left, callbacks_of(callbacks), reset_num_timesteps=False)
    assert other_rows == rows[3:]
    assert_same_training(model, other)
    np.testing.assert_equal(state_of(model), state_of(other))


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_an_interrupted_update_leaves_nothing_behind(pair, monkeypatch):
    model = model_of(pair).learn(96 * 2 * 2)
    collect(model)
    before = state_of(model)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sb3_trpo.algorithms.on_policy.fit_critic", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.train()
    np.testing.assert_equal(state_of(model), before)
    model.train()
    assert model._n_updates == 3


def state_of(model):
    """In numbers that numpy compares, NaN included."""
    slots = {
        f"{name}.{key}": value.numpy().copy() if isinstance(value, th.Tensor) else value
        for name, slot in SLOTS.items()
        for key, value in vars(getattr(model, slot.attribute) or Plain()).items()
        if name != "action_noise"  # a process of the rollout
    }
    rollouts = [rollout.rewards for rollout in model.past_rollouts]
    return {"weights": flatten(list(model.policy.parameters())).numpy(), "slots": slots, "rollouts": rollouts}


REFUSED = {
    "masked_discrete": ["noise"],
    "lstm": ["reuse", "noise"],
    "masked_lstm": ["reuse", "noise"],
    "image": ["noise"],
    "multi_binary": ["noise"],
    "gsde": ["noise"],
    "beta": ["entropy", "noise"],
}
"""Kinds of policy -> extensions that cannot be used with them, which tests of their own hold."""


@pytest.mark.parametrize(
    "kind", ["masked_discrete", "lstm", "masked_lstm", "dict", "image", "multi_binary", "gsde", "beta"]
)
@pytest.mark.parametrize("name", list(EXTENSIONS))
def test_every_kind_of_policy_can_be_trained_with_every_extension(kind, name):
    given = dict(EXTENSIONS[name])
    if name in REFUSED.get(kind, ()):
        return
    if name == "entropy":
        given["entropy_floor"] = 0.1
    model = make_model(kind, n_steps=128, **given)
    model.learn(128 * 2 * 3)
    assert model._n_updates == 3
    assert all(th.isfinite(p).all() for p in model.policy.parameters())
