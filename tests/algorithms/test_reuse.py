"""Several rollouts in one update: what it learns from, how far it goes, what is kept of it."""

import io
import math

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.utils import obs_as_tensor
from torch.distributions import kl_divergence

from sb3_trpo import TRPO
from sb3_trpo.algorithms.replay import Rollout, replay
from sb3_trpo.core.parameters import flatten
from sb3_trpo.extensions.sample_reuse import AdaptiveBound, FixedBound, total_variation
from tests.algorithms.kinds import collect, make_model
from tests.algorithms.test_trust_region import components, frozen_copy

KINDS = ["box", "discrete", "multi_discrete", "multi_binary", "dict", "image", "masked_discrete", "gsde", "beta"]


def test_the_fixed_bound_by_hand():
    found = [FixedBound().within(1.0, m, n_rollouts=1, drift=0.3) for m in (1, 2, 3, 4)]
    assert found == pytest.approx([1.0, 4 / 9, 1 / 4, 4 / 25])


def test_the_adaptive_bound_by_hand():
    """delta = 0.02 is eps = 0.2: a tenth in total variation, of which the drift takes its part."""
    found = [AdaptiveBound().within(0.02, 4, 4, drift) for drift in (0.0, 0.05, 0.1, 0.3, np.nan)]
    assert found == pytest.approx([0.02, 0.005, 0.0, 0.0, 0.0], abs=1e-12)
    assert [AdaptiveBound().within(0.02, 4, n, 0.01) for n in (1, 2, 3)] == pytest.approx([0.02 * 4 / 25] * 3)
    assert AdaptiveBound().within(0.0, 4, 4, 0.01) == 0.0


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6), st.lists(st.floats(0.01, 1.0), min_size=6, max_size=6))
def test_total_variation_is_that_of_the_distributions(old, new):
    """Of as many actions of each kind as the old one takes."""
    old = np.round(np.array(old) / np.sum(old), 3)
    new = np.array(new[: len(old)]) / np.sum(new[: len(old)])
    actions = np.repeat(np.arange(len(old)), (1000 * old).astype(int))
    taken = np.bincount(actions, minlength=len(old)) / len(actions)
    found = total_variation((new / np.maximum(taken, 1e-9))[actions])
    assert found == pytest.approx(np.maximum(taken - new, 0.0).sum())
    assert 0.0 <= found <= 1.0
    if taken.all():
        assert found == pytest.approx(np.abs(taken - new).sum() / 2)


@given(st.floats(1e-6, 1.0), st.integers(1, 20))
def test_updates_that_all_go_as_far_as_they_may_settle_where_the_fixed_bound_is(radius, reuse):
    """In total variation, of which Pinsker allows sqrt(delta_k / 2), and in the same direction each time."""
    adaptive, fixed = AdaptiveBound(), math.sqrt(FixedBound().within(radius, reuse, reuse, 0.0) / 2)
    moves = [fixed] * reuse
    drift = sum(i * move for i, move in enumerate(moves)) / reuse
    assert math.sqrt(adaptive.within(radius, reuse, reuse, drift) / 2) == pytest.approx(fixed, rel=1e-6)


@given(st.floats(1e-3, 1.0), st.integers(1, 8), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30))
def test_the_adaptive_bound_keeps_the_policies_close_whatever_the_steps(radius, reuse, shares):
    """The new policy is on average within sqrt(delta / 2) of those that acted, and something is always left."""
    adaptive, steps = AdaptiveBound(), []
    for share in shares:
        acted = steps[1 - reuse :] if reuse > 1 else []
        distances = [sum(acted[i:]) for i in range(len(acted) + 1)]  # to the present policy, which acted last
        left = math.sqrt(adaptive.within(radius, reuse, len(distances), float(np.mean(distances))) / 2)
        assert left >= math.sqrt(radius / 2) / reuse * (1 - 1e-6)
        steps.append(share * left)
        assert np.mean(distances) + steps[-1] <= math.sqrt(radius / 2) * (1 + 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_update_is_the_plain_one(kind):
    """There is nothing to use again yet; V-trace of the policy that acted is generalised advantage estimation."""
    plain, reusing = (collect(make_model(kind, reuse=reuse, n_critic_updates=0)) for reuse in (1, 3))
    (ours, _, drift), (theirs, _, _) = replay(reusing), replay(plain)
    assert drift == pytest.approx(0.0, abs=1e-5)
    for name in ("actions", "old_log_prob", "advantages", "returns", "weights"):
        th.testing.assert_close(getattr(ours, name).float(), getattr(theirs, name).float(), rtol=1e-4, atol=1e-4)
    assert th.equal(ours.clusters, theirs.clusters)
    reusing.past_rollouts = ()
    reusing.target_kl = plain.target_kl * 4
    plain.train()
    reusing.train()
    weights = [flatten(list(model.policy.parameters())) for model in (plain, reusing)]
    th.testing.assert_close(*weights, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_older_rollouts_are_seen_by_the_present_policy_and_critic(kind):
    """Step by step in the order of the buffer, by the policy's own ``evaluate_actions``."""
    model = make_model(kind, reuse=3, gamma=0.9, gae_lambda=0.8)
    collect(model)
    first = Rollout.of(model)
    model.train()
    collect(model)
    second = Rollout.of(model)
    found, n_rollouts, drift = replay(model)
    ratios = []
    n = 64
    assert len(found.advantages) == 2 * n
    th.testing.assert_close(found.weights, th.full((2 * n,), 1 / (2 * n)))
    for index, rollout in enumerate((first, second)):
        for env in range(2):
            rows = slice(index * n + env * 32, index * n + (env + 1) * 32)
            actions = th.as_tensor(rollout.actions[:, env])
            observations = (
                {k: v[:, env] for k, v in rollout.observations.items()}
                if kind == "dict"
                else (rollout.observations[:, env])
            )
            masks = {} if rollout.action_masks is None else {"action_masks": rollout.action_masks[:, env]}
            with th.no_grad():
                tensors = obs_as_tensor(observations, model.device)
                taken = actions.flatten() if len(actions.shape) == 2 and actions.shape[1] == 1 else actions
                taken = taken if kind in ("box", "beta", "gsde") else taken.float()
                values, log_prob, _ = model.policy.evaluate_actions(tensors, taken, **masks)
                last = (
                    {k: v[env : env + 1] for k, v in rollout.last_observations.items()}
                    if kind == "dict"
                    else rollout.last_observations[env : env + 1]
                )
                last_value = float(model.policy.predict_values(model.policy.obs_to_tensor(last)[0]))
            values = values.flatten().numpy()
            ratios.append(np.exp(log_prob.numpy() - rollout.log_probs[:, env]))
            cut = np.minimum(np.exp(log_prob.numpy() - rollout.log_probs[:, env]), 1.0)
            advantage, expected = 0.0, np.zeros(32)
            for t in reversed(range(32)):
                ends = rollout.last_dones[env] if t == 31 else rollout.episode_starts[t + 1, env]
                after = last_value if t == 31 else values[t + 1]
                trace = 0.0 if t == 31 else cut[t + 1]
                error = rollout.rewards[t, env] + 0.9 * after * (1 - ends) - values[t]
                advantage = expected[t] = error + 0.9 * 0.8 * (1 - ends) * trace * advantage
            np.testing.assert_allclose(found.old_log_prob[rows], rollout.log_probs[:, env])
            np.testing.assert_allclose(found.advantages[rows], expected, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(found.returns[rows], values + cut * expected, rtol=1e-3, atol=1e-4)
    assert n_rollouts == 2
    assert drift == pytest.approx(np.mean(np.maximum(1 - np.array(ratios), 0)), rel=1e-3)
    assert drift > 1e-3


@pytest.mark.parametrize("loop", [True, False])
def test_rollouts_come_and_go_and_the_radius_is_small_from_the_first(loop):
    model = make_model("box", reuse=3, target_kl=0.02, fast_rollout=loop)
    for held in (1, 2, 2, 2):
        collect(model)
        old = frozen_copy(model)
        rollouts = (*model.past_rollouts, Rollout.of(model))
        model.train()
        assert len(model.past_rollouts) == held
        radius = 0.02 / 4
        assert model.logger.name_to_value["train/radius"] == pytest.approx(radius)
        seen = th.as_tensor(np.concatenate([rollout.observations.reshape(64, -1) for rollout in rollouts]))
        with th.no_grad():
            (before,), (after,) = (components(policy.get_distribution(seen)) for policy in (old, model.policy))
        kl = float(kl_divergence(before, after).sum(1).mean())
        assert kl == pytest.approx(model.logger.name_to_value["train/kl_divergence_loss"], rel=1e-3)
        assert kl <= radius * (1 + 1e-3)


def distances_to_those_that_acted(bound):
    """After each of some updates: mean exact total variation over the one that an update of one rollout may make."""
    model = make_model("discrete", reuse=3, reuse_bound=bound, n_steps=512, target_kl=0.02, gamma=0.9, seed=2)
    acted, found = [], []
    for _ in range(8):
        collect(model)
        acted = [*acted, frozen_copy(model)][-3:]
        rollouts = (*model.past_rollouts, Rollout.of(model))
        model.train()
        drift, radius = (model.logger.name_to_value[f"train/{key}"] for key in ("reuse_drift", "radius"))
        is_adaptive = bound == "adaptive" and len(rollouts) == 3
        assert radius == pytest.approx(AdaptiveBound().within(0.02, 3, 3, drift) if is_adaptive else 0.02 / 4)
        assert (drift > 1e-3) == (len(rollouts) > 1)
        far = []
        for policy, rollout in zip(acted, rollouts, strict=True):
            seen = th.as_tensor(rollout.observations.reshape(-1, *rollout.observations.shape[2:]))
            with th.no_grad():
                before, after = (p.get_distribution(seen).distribution.probs for p in (policy, model.policy))
            far.append(float((after - before).abs().sum(1).mean()) / 2)
        found.append(np.mean(far) / np.sqrt(0.02 / 2))
    return found


def test_the_new_policy_is_close_to_those_that_acted():
    fixed, adaptive = map(distances_to_those_that_acted, ("fixed", "adaptive"))
    assert max(fixed) <= 1.0
    assert max(adaptive) < 1.05  # the drift is an estimate
    assert np.mean(adaptive[2:]) > 1.05 * np.mean(fixed[2:])


def test_the_bound_is_of_reuse_alone():
    model = collect(make_model("box", reuse_bound="adaptive", target_kl=0.05))
    assert math.sqrt(0.05) ** 2 != 0.05
    model.train()
    assert "train/reuse_drift" not in model.logger.name_to_value
    assert model.logger.name_to_value["train/radius"] == 0.05


def test_who_holds_the_training_back_makes_the_whole_region_smaller():
    """And not what the drift has left of it."""
    model = make_model("box", reuse=2, reuse_bound="adaptive", target_kl=0.02)
    collect(model).train()
    collect(model)
    model.radius_factor = 0.5
    model.train()
    drift, radius = (model.logger.name_to_value[f"train/{key}"] for key in ("reuse_drift", "radius"))
    assert radius == pytest.approx(AdaptiveBound().within(0.01, 2, 2, drift))
    assert 0.0 < radius < 0.9 * 0.01


def test_the_controller_sizes_the_region_that_is_bounded():
    model = make_model("box", reuse=2, radius="adaptive", radius_kwargs={"factor": 3.0}, target_kl=0.02)
    collect(model).train()
    assert model.logger.name_to_value["train/radius"] == pytest.approx(0.06 * 4 / 9)


@pytest.mark.parametrize("given", [-1.0, np.nan, None, "0.1"])
def test_a_bound_that_gives_no_radius_is_told_of(given):
    class Wrong(FixedBound):
        def within(self, radius, reuse, n_rollouts, drift):
            return given

    model = collect(make_model("box", reuse=2, reuse_bound=Wrong))
    with pytest.raises(ValueError, match=r"radius within reuse_bound at remaining progress .* must be a"):
        model.train()
    assert model.past_rollouts == ()


def test_another_bound_can_be_given_to_a_saved_model():
    file = io.BytesIO()
    make_model("box", reuse=2).learn(192).save(file)
    for kwargs, expected in (({}, FixedBound()), ({"reuse_bound": "adaptive"}, AdaptiveBound())):
        file.seek(0)
        model = TRPO.load(file, env=make_model("box").get_env(), force_reset=False, **kwargs)
        assert model.drift_bound == expected
        assert len(model.past_rollouts) == 1


def test_a_callback_may_look_at_the_samples():
    """Which has the buffer flatten some of its arrays."""
    model = collect(make_model("box", reuse=2))
    before = Rollout.of(model)
    next(model.rollout_buffer.get(32))
    for one, other in zip(before, Rollout.of(model), strict=True):
        np.testing.assert_array_equal(one, other)
    model.train()
    assert len(model.past_rollouts) == 1


@pytest.mark.parametrize(("reuse", "held"), [(1, 0), (2, 1), (4, 3)])
def test_a_file_goes_on_with_another_number_of_rollouts(reuse, held):
    file = io.BytesIO()
    make_model("box", reuse=4, target_kl=0.02).learn(64 * 2 * 5).save(file)
    file.seek(0)
    model = TRPO.load(file, env=make_model("box").get_env(), force_reset=False, reuse=reuse)
    assert len(model.past_rollouts) == 3
    model.learn(64 * 2, reset_num_timesteps=False)
    assert len(model.past_rollouts) == held
    assert model.logger.name_to_value["train/radius"] == pytest.approx(0.02 * (2 / (reuse + 1)) ** 2)


def test_once_is_the_plain_algorithm():
    models = [make_model("box", **arguments).learn(192) for arguments in ({}, {"reuse": 1})]
    assert th.equal(*(flatten(list(model.policy.parameters())) for model in models))
    assert models[1].past_rollouts == ()


def test_an_interrupted_update_leaves_the_rollouts_as_they_were(monkeypatch):
    model = make_model("box", reuse=2).learn(128)
    collect(model)
    before = model.past_rollouts

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_trpo.algorithms.on_policy.fit_critic", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.train()
    assert model.past_rollouts is before or all(a is b for a, b in zip(model.past_rollouts, before, strict=True))


def test_policies_with_a_memory_are_refused():
    with pytest.raises(ValueError, match=r"reuse=2 is for policies without memory"):
        make_model("lstm", reuse=2)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, None, "2"])
def test_what_is_no_number_of_rollouts_is_refused(value):
    with pytest.raises(ValueError, match=r"reuse=.* must be an integer >= 1"):
        TRPO("MlpPolicy", "CartPole-v1", reuse=value)
