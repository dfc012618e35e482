"""Fisher matrix, KL and surrogate of masked and recurrent policies by their definitions: dense, and step by step."""

import copy
import itertools

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stable_baselines3.common import policies
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.distributions import Categorical
from torch.testing import assert_close

from sb3_trpo import MaskableRecurrentTRPO, MaskableTRPO, RecurrentTRPO
from sb3_trpo.algorithms import actor as actor_module
from sb3_trpo.algorithms.actor import Actor
from sb3_trpo.algorithms.maskable import MaskableAlgorithm
from sb3_trpo.algorithms.masks import option_counts
from sb3_trpo.core.fisher import AutogradJacobian, FiniteDifferenceJacobian
from sb3_trpo.core.parameters import flatten
from tests.algorithms.capture import captured_steps
from tests.algorithms.kinds import SHARED, play_back
from tests.envs import Walk

OBSERVATIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)
ACTIONS = {"discrete": spaces.Discrete(3), "multi_discrete": spaces.MultiDiscrete([2, 3])}
LSTM_POLICY = {"lstm_hidden_size": 2, "net_arch": []}
VARIANTS = {
    "masks": (MaskableTRPO, {"net_arch": [3]}),
    "memory": (RecurrentTRPO, LSTM_POLICY),
    "two layers": (RecurrentTRPO, {**LSTM_POLICY, "n_lstm_layers": 2}),
    "both": (MaskableRecurrentTRPO, LSTM_POLICY),
    "both, shared": (MaskableRecurrentTRPO, {**SHARED, **LSTM_POLICY}),
}
WITHOUT_CLOSED_FORM = {"two layers"}
N_STEPS, N_ENVS = 5, 2


class Unmasked(Walk):
    """Rollouts here are made up: nobody asks for masks."""

    def action_masks(self):
        raise AssertionError


def make_up(variant, actions, seed):
    """A model whose buffer holds random observations, boundaries, memories, masks and allowed actions."""
    cls, policy_kwargs = VARIANTS[variant]
    name = "MlpPolicy" if cls is MaskableTRPO else "MlpLstmPolicy"
    env = DummyVecEnv([lambda: Unmasked(ACTIONS[actions], OBSERVATIONS)] * N_ENVS)
    model = cls(name, env, n_steps=N_STEPS, policy_kwargs=policy_kwargs, seed=seed, device="cpu", n_critic_updates=0)
    model.set_logger(Logger(None, []))
    generator, buffer = np.random.default_rng(seed), model.rollout_buffer
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(th.randn_like(parameter))
    buffer.observations[:] = generator.uniform(-1, 1, buffer.observations.shape)
    buffer.episode_starts[:] = generator.random(buffer.episode_starts.shape) < 0.3
    buffer.advantages[:] = generator.normal(size=buffer.advantages.shape)
    sizes = option_counts(ACTIONS[actions])
    share = 0.5 if issubclass(cls, MaskableAlgorithm) else 1.0
    masks = np.concatenate([random_mask(generator, size, share) for size in sizes], -1)
    for k, block in enumerate(np.split(masks, np.cumsum(sizes)[:-1], -1)):
        chances = generator.random(block.shape) * block
        buffer.actions[..., k] = chances.argmax(-1)
    if hasattr(buffer, "action_masks"):
        buffer.action_masks[:] = masks
    for states in ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf"):
        if hasattr(buffer, states):
            array = getattr(buffer, states)
            array[0], array[1:] = generator.normal(size=array[0].shape), np.nan
    buffer.pos, buffer.full = N_STEPS, True
    with th.no_grad():
        for t, (distribution, taken, *_) in enumerate(play_back(model.policy, buffer)):
            buffer.log_probs[t] = distribution.log_prob(taken)
    return model


def random_mask(generator, size, share):
    """(T, E, size), about that share of it True, and one in each row at least."""
    mask = generator.random((N_STEPS, N_ENVS, size)) < share
    np.put_along_axis(mask, generator.integers(size, size=(N_STEPS, N_ENVS, 1)), True, -1)
    return mask


def choices(distribution):
    """The torch distributions of an object of Stable-Baselines3's or sb3-contrib's."""
    if hasattr(distribution, "distributions"):
        return list(distribution.distributions)
    inner = distribution.distribution
    return inner if isinstance(inner, list) else [inner]


def dense_fisher(policy, buffer, parameters):
    """Mean over all steps of ``E_a[score score^T]``: all joint actions enumerated, each score by autograd through
    the loop over steps that sb3-contrib runs."""
    sizes = option_counts(buffer.action_space)
    masks = np.ones((N_STEPS, N_ENVS, sum(sizes)), bool)
    if hasattr(buffer, "action_masks"):
        masks = buffer.action_masks.astype(bool)
    starts, fisher = np.cumsum([0, *sizes[:-1]]), 0.0
    for t, (distribution, *_) in enumerate(play_back(policy, buffer)):
        logits = [choice.logits for choice in choices(distribution)]
        for e in range(N_ENVS):
            for action in itertools.product(*map(range, sizes)):
                if not masks[t, e, starts + np.array(action)].all():
                    continue
                log_prob = sum(
                    Categorical(logits=block[e]).log_prob(th.tensor(a)) for block, a in zip(logits, action, strict=True)
                )
                score = th.autograd.grad(
                    log_prob, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                score = th.cat([part.flatten() for part in score])
                fisher = fisher + log_prob.detach().exp() * th.outer(score, score) / (N_STEPS * N_ENVS)
    return fisher


def in_float64(model):
    """The model's policy and what its buffer remembers, so that nothing but the definition is compared."""
    model.policy.double()
    for states in ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf"):
        if hasattr(model.rollout_buffer, states):
            setattr(model.rollout_buffer, states, getattr(model.rollout_buffer, states).astype(np.float64))
    return model


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("form", ["as it comes", "autograd", "differentiable once"])
def test_products_are_those_of_the_dense_fisher_of_the_loop_over_steps(variant, form):
    """In closed form where there is one, and in the forms that serve where there is none."""
    once = form == "differentiable once"

    @settings(max_examples=4, deadline=None)
    @given(st.integers(0, 10_000), st.sampled_from(list(ACTIONS)))
    def check(seed, actions):
        model = in_float64(make_up(variant, actions, seed))
        buffer = copy.deepcopy(model.rollout_buffer)
        steps, original = model._experience().steps, policies.preprocess_obs
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(policies, "preprocess_obs", lambda *args, **kwargs: original(*args, **kwargs).double())
            patch.setattr(actor_module, "is_differentiable_twice", lambda policy: not once)
            if form != "as it comes":
                patch.setattr(actor_module, "actor_form", lambda policy: None)
            actor = Actor(model.policy, steps)
            linearization = actor.linearize(steps)
            form_of = {FiniteDifferenceJacobian: "differentiable once", AutogradJacobian: "autograd"}
            expected_form = "autograd" if variant in WITHOUT_CLOSED_FORM and form == "as it comes" else form
            assert form_of.get(type(linearization.jacobian), "as it comes") == expected_form
            weights = th.full((len(steps),), 1 / len(steps), dtype=th.float64)
            fisher = dense_fisher(model.policy, buffer, actor.parameters)
            before = flatten(actor.parameters)
            for v in th.randn(3, len(before), dtype=th.float64):
                expected = fisher @ v
                tolerance = 1e-6 if once else 1e-9
                product = linearization.fisher_vector_product(v, weights)
                assert_close(product, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()) + 1e-12)
            assert th.equal(before, flatten(actor.parameters))

    check()


@th.no_grad()
def mean_kl(old_policy, new_policy, buffer):
    """Over all steps, each policy asked step by step, of the joint action, by the probabilities of allowed options."""
    kls = []
    for (old, *_), (new, *_) in zip(play_back(old_policy, buffer), play_back(new_policy, buffer), strict=True):
        p, q = ([choice.logits.log_softmax(-1).double() for choice in choices(d)] for d in (old, new))
        kls.append(sum((a.exp() * (a - b)).sum(-1) for a, b in zip(p, q, strict=True)))
    return float(th.cat(kls).mean())


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_updates_keep_the_joint_kl_in_bounds_or_change_nothing(variant):
    """Whatever the masks and boundaries; also where the models of the step no longer hold."""
    outcomes = []

    @settings(max_examples=12, deadline=None)
    @given(st.integers(0, 10_000), st.sampled_from(list(ACTIONS)), st.sampled_from([1e-3, 0.02, 5.0]), st.just(1e-6))
    @example(seed=0, actions="discrete", target_kl=1e-3, damping=0.1)  # the models hold: accepted
    def check(seed, actions, target_kl, damping):
        model = make_up(variant, actions, seed)
        model.target_kl, model.cg_damping, model.line_search_max_iter = target_kl, damping, 3
        buffer = model.rollout_buffer
        old_policy, old_buffer = copy.deepcopy(model.policy), copy.deepcopy(buffer)
        with captured_steps() as steps:
            model.train()
        kl = mean_kl(old_policy, model.policy, old_buffer)
        outcomes.append(steps[0].step.accepted)
        if steps[0].step.accepted:
            assert kl <= target_kl * (1 + 1e-3)
            assert kl == pytest.approx(steps[0].step.kl, rel=5e-3, abs=2e-6)
            assert not th.equal(steps[0].before, steps[0].after)
        else:
            assert th.equal(steps[0].before, steps[0].after)
            assert kl == 0.0

    check()
    assert any(outcomes)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_gradient_is_that_of_the_surrogate_over_the_loop_over_steps(variant):
    model = make_up(variant, "multi_discrete", seed=3)
    buffer = copy.deepcopy(model.rollout_buffer)
    policy = copy.deepcopy(model.policy)
    with captured_steps() as steps:
        model.train()
    by_id = {id(p): name for name, p in model.policy.named_parameters()}
    parameters = [dict(policy.named_parameters())[by_id[id(p)]] for p in steps[0].problem.parameters]
    advantages = (buffer.advantages - buffer.advantages.mean()) / buffer.advantages.std(ddof=1)
    ratios = th.stack(
        [th.exp(distribution.log_prob(taken) - old) for distribution, taken, _, old in play_back(policy, buffer)]
    )
    gradient = th.autograd.grad((ratios * th.as_tensor(advantages)).mean(), parameters)
    expected = th.cat([part.flatten() for part in gradient])
    assert_close(steps[0].problem.gradient, expected, rtol=1e-3, atol=1e-5)


def test_fisher_products_by_finite_differences_lead_to_the_same_update(monkeypatch):
    """As on a GPU, where an LSTM can be differentiated once only."""
    after = []
    monkeypatch.setattr(actor_module, "actor_form", lambda policy: None)
    for once in (False, True):
        monkeypatch.setattr(actor_module, "is_differentiable_twice", lambda policy, once=once: not once)
        model = make_up("both", "discrete", seed=5)
        with captured_steps() as steps:
            model.train()
        assert steps[0].step.accepted
        after.append(steps[0].after - steps[0].before)
    assert float(th.cosine_similarity(*after, dim=0)) > 0.999
    assert float(after[0].norm() / after[1].norm()) == pytest.approx(1.0, abs=0.02)
