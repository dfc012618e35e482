"""What every update promises, on every action space, observation space and policy."""

import copy
import functools
import warnings

import numpy as np
import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn.functional import logsigmoid

from sb3_trpo import TRPO, MaskableTRPO
from tests import oracles
from tests.algorithms.capture import captured_steps
from tests.algorithms.kinds import BOX, KINDS, collect, make_model, play_back
from tests.envs import Contextual


def frozen_copy(model):
    """The policy as it is now, in a network of its own."""
    sde = {} if isinstance(model, MaskableTRPO) else {"use_sde": model.use_sde}
    spaces_and_schedule = model.observation_space, model.action_space, model.lr_schedule
    policy = type(model.policy)(*spaces_and_schedule, **sde, **model.policy_kwargs)
    policy.load_state_dict(model.policy.state_dict())
    policy.set_training_mode(False)
    return policy


@th.no_grad()
def joint_kl(old_policy, new_policy, buffer):
    """Mean KL(old || new) of the joint action by torch's formulas, from the policies' own answers, step by step."""
    kls = []
    for (old, *_), (new, *_) in zip(play_back(old_policy, buffer), play_back(new_policy, buffer), strict=True):
        parts = zip(components(old), components(new), strict=True)
        kls.append(sum(kl.flatten(1).sum(1) if kl.dim() > 1 else kl for kl in (kl_of(p, q) for p, q in parts)))
    return float(th.cat(kls).double().mean())


def kl_of(old, new):
    """Torch's, but of options and coins by their logits: it says infinity where a probability underflows."""
    if isinstance(old, Categorical):
        return (old.probs * th.where(old.probs > 0, old.logits - new.logits, 0.0)).sum(-1)
    if isinstance(old, Bernoulli):
        heads, tails = (logsigmoid(sign * old.logits) - logsigmoid(sign * new.logits) for sign in (1, -1))
        return old.probs * heads + (1 - old.probs) * tails
    return kl_divergence(old, new)


def components(distribution):
    """Torch's distributions of an object of Stable-Baselines3's or sb3-contrib's, which must not change any more."""
    if hasattr(distribution, "distributions"):
        return copy.deepcopy(distribution.distributions)
    inner = distribution.distribution
    return list(inner) if isinstance(inner, list) else [copy.deepcopy(inner)]


@th.no_grad()
def surrogate(policy, buffer):
    """Mean of ratio times standardised advantage."""
    standardized = (buffer.advantages - buffer.advantages.mean()) / buffer.advantages.std(ddof=1)
    ratios = [
        th.exp(distribution.log_prob(actions) - old_log_prob).double()
        for distribution, actions, _, old_log_prob in play_back(policy, buffer)
    ]
    return float((th.stack(ratios) * th.as_tensor(standardized)).mean())


@pytest.mark.parametrize("kind", list(KINDS))
def test_accepted_updates_stay_in_the_region_and_improve(kind):
    model = make_model(kind, target_kl=0.02)
    accepted = 0
    for _ in range(4):
        collect(model)
        old_policy, buffer = frozen_copy(model), copy.deepcopy(model.rollout_buffer)
        with captured_steps() as steps:
            model.train()
        step = steps[0].step
        kl = joint_kl(old_policy, model.policy, buffer)
        if step.accepted:
            accepted += 1
            assert kl <= 0.02 * (1 + 1e-4)
            assert kl == pytest.approx(step.kl, rel=2e-3, abs=1e-6), "the KL moved after the line search"
            assert surrogate(model.policy, buffer) > surrogate(old_policy, buffer)
        else:
            assert th.equal(steps[0].before, steps[0].after)
            assert kl == 0.0
        assert all(th.isfinite(p).all() for p in model.policy.parameters())
    assert accepted >= 3


@pytest.mark.parametrize("kind", list(KINDS))
def test_refused_updates_leave_the_actor_bit_identical(kind):
    model = collect(make_model(kind, target_kl=50.0, cg_damping=1e-6, line_search_max_iter=1, n_critic_updates=1))
    model.rollout_buffer.advantages *= -1e3
    with captured_steps() as steps, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a candidate so far away may well be infinite
        for target in (50.0, 1e4, 1e6, 1e8, 1e20, 1e30):  # far outside the region where the models hold
            model.target_kl = target
            model.train()
    refused = [captured for captured in steps if not captured.step.accepted]
    assert refused
    assert all(th.equal(captured.before, captured.after) for captured in refused)
    named = dict(model.policy.named_parameters())
    assert all(th.isfinite(p).all() for p in named.values())


@pytest.mark.parametrize("n_dims", [1, 3, 6, 17])
def test_more_action_dimensions_do_not_loosen_the_bound(n_dims):
    def env():
        return DummyVecEnv([lambda: Contextual(spaces.Box(-1.0, 1.0, (n_dims,), np.float32))])

    settings = {"n_steps": 256, "target_kl": 0.01, "seed": 0, "n_critic_updates": 1, "device": "cpu"}
    kls = {}
    for name, cls in {"ours": TRPO, "sb3-contrib": sb3_contrib.TRPO}.items():
        model = collect(cls("MlpPolicy", env(), **settings))
        old_policy, buffer = frozen_copy(model), copy.deepcopy(model.rollout_buffer)
        model.train()
        kls[name] = joint_kl(old_policy, model.policy, buffer)
    assert 0.003 < kls["ours"] <= 0.01 * (1 + 1e-4)
    if n_dims >= 6:
        assert kls["sb3-contrib"] > 0.03, "the defect that this package corrects has gone: say so in the README"


@pytest.mark.parametrize("kind", ["box", "discrete", "multi_binary"])
@pytest.mark.parametrize("normalize_advantage", [True, False])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_the_scale_of_advantages_leaves_the_step_unchanged(kind, normalize_advantage, scale):
    after = []
    for factor in (1.0, scale):
        model = collect(make_model(kind, normalize_advantage=normalize_advantage))
        model.rollout_buffer.advantages *= np.float32(factor)
        with captured_steps() as steps:
            model.train()
        assert steps[0].step.accepted
        after.append(steps[0].after)
    th.testing.assert_close(after[1], after[0], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("kind", ["box", "discrete", "multi_discrete", "multi_binary", "gsde", "image"])
@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_one_bad_advantage_skips_the_step_and_says_why(kind, fault, normalize_advantage):
    model = collect(make_model(kind, normalize_advantage=normalize_advantage))
    model.rollout_buffer.advantages[3, 1] = fault
    with captured_steps() as steps, pytest.warns(UserWarning, match=r"refused: the (objective|gradient) is not finite"):
        model.train()
    assert th.equal(steps[0].before, steps[0].after)
    assert "not finite" in model.logger.name_to_value["train/outcome"]
    assert model.logger.name_to_value["train/is_line_search_success"] == 0.0
    assert all(th.isfinite(p).all() for p in model.policy.parameters())


@pytest.mark.parametrize("fault", [np.nan, np.inf, 3e38])
def test_bad_returns_do_not_reach_the_critic(fault):
    model = collect(make_model("box"))
    model.rollout_buffer.returns[5, 0] = fault
    with pytest.warns(UserWarning, match="critic minibatches were skipped"):
        model.train()
    assert all(th.isfinite(p).all() for p in model.policy.parameters())


@pytest.mark.parametrize("value", [0.0, 0.1, -7.0])
def test_equal_advantages_are_no_reason_to_move(value):
    model = collect(make_model("box"))
    model.rollout_buffer.advantages[:] = value
    with captured_steps() as steps:
        model.train()
    assert th.equal(steps[0].before, steps[0].after)
    assert model.logger.name_to_value["train/outcome"] == "refused: the gradient is zero, the batch prefers no action"


def test_a_single_action_is_no_reason_to_move_either():
    model = TRPO("MlpPolicy", DummyVecEnv([lambda: Contextual(spaces.Discrete(1), BOX)]), n_steps=16, batch_size=16)
    model.learn(32)
    assert model.logger.name_to_value["train/is_line_search_success"] == 0.0
    assert all(th.isfinite(p).all() for p in model.policy.parameters())


@pytest.mark.parametrize("kind", ["box", "discrete", "multi_discrete", "multi_binary", "gsde"])
def test_a_batch_of_two_keeps_the_bound(kind):
    action_space, observation_space, policy, kwargs = KINDS[kind]
    env = DummyVecEnv([lambda: Contextual(action_space, observation_space)])
    model = TRPO(policy, env, n_steps=2, batch_size=2, seed=0, **kwargs)
    with captured_steps() as steps:
        model.learn(20)
    assert len(steps) == 10
    assert any(captured.step.accepted for captured in steps)
    assert all(captured.step.kl <= 0.01 * (1 + 1e-4) for captured in steps)
    assert all(th.isfinite(p).all() for p in model.policy.parameters())


class Unsteady(BaseFeaturesExtractor):
    """Batch statistics and dropout: a policy that differs between two evaluations unless it is told not to."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 8)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5))

    def forward(self, observations):
        return self.net(observations)


@pytest.mark.parametrize("shared", [True, False])
def test_dropout_and_batch_norm_do_not_blur_the_kl(shared):
    policy_kwargs = {"features_extractor_class": Unsteady, "share_features_extractor": shared}
    env = DummyVecEnv([lambda: Contextual(KINDS["box"][0])])
    model = TRPO("MlpPolicy", env, n_steps=64, batch_size=16, seed=0, policy_kwargs=policy_kwargs)
    collect(model)
    old_policy, buffer = frozen_copy(model), copy.deepcopy(model.rollout_buffer)
    with captured_steps() as steps:
        model.train()
    assert steps[0].step.accepted
    assert steps[0].step.reduction_ratio == pytest.approx(1.0, abs=0.5)
    assert joint_kl(old_policy, model.policy, buffer) == pytest.approx(steps[0].step.kl, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("shared", [True, False])
def test_the_critic_learns_without_moving_the_actor(shared):
    model = make_model("image", n_critic_updates=40, policy_kwargs={"share_features_extractor": shared})
    collect(model)
    with captured_steps() as steps:
        model.train()
    first_loss = model.logger.name_to_value["train/value_loss"]
    actor = {id(p) for p in steps[0].problem.parameters}
    assert th.equal(steps[0].after, th.cat([p.detach().reshape(-1) for p in steps[0].problem.parameters]))
    critic = [p for p in model.policy.parameters() if id(p) not in actor]
    assert critic, "nothing left for the critic to train"
    model.train()
    assert model.logger.name_to_value["train/value_loss"] < first_loss


def test_sub_sampling_thins_the_fisher_and_nothing_else():
    def problem(factor):
        model = collect(make_model("box", sub_sampling_factor=factor))
        np.random.seed(1)  # noqa: NPY002  # the buffer's shuffle uses the global generator
        with captured_steps() as steps:
            model.train()
        return steps[0]

    whole, thinned = problem(1), problem(4)
    assert th.equal(whole.problem.gradient, thinned.problem.gradient)
    assert whole.problem.objective == thinned.problem.objective
    v = th.ones_like(whole.problem.gradient)
    assert not th.allclose(whole.problem.fisher_vector_product(v), thinned.problem.fisher_vector_product(v), rtol=1e-3)
    assert thinned.step.kl <= 0.01 * (1 + 1e-4)


@pytest.mark.parametrize("kind", ["box", "discrete", "gsde", "image", "dict"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(kind):
    def train(seed):
        return th.nn.utils.parameters_to_vector(make_model(kind, seed=seed).learn(192).policy.parameters())

    first = train(1)
    assert th.equal(first, train(1))
    assert not th.equal(first, train(2))


ORACLE_KINDS = {
    "box": "gaussian",
    "discrete": "categorical",
    "multi_discrete": "categorical",
    "multi_binary": "bernoulli",
}


class WideActor(nn.Module):
    """The actor of a model in float64, as a function from observations to its distribution's parameters."""

    def __init__(self, policy):
        super().__init__()
        wide = copy.deepcopy(policy).double()
        self.net = nn.Sequential(*wide.mlp_extractor.policy_net, wide.action_net)
        if hasattr(wide, "log_std"):
            self.log_std = wide.log_std

    def forward(self, x):
        return (self.net(x), self.log_std) if hasattr(self, "log_std") else (self.net(x),)


@pytest.mark.parametrize("kind", list(ORACLE_KINDS))
def test_tiny_and_huge_advantages_take_the_direction_of_the_dense_solve_in_float64(kind):
    """As they are, not normalised, from 1e-8 to 1e8, against the definitions in float64."""
    for scale in (1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6, 1e8):
        model = collect(make_model(kind, normalize_advantage=False, policy_kwargs={"net_arch": [6]}))
        model.rollout_buffer.advantages *= np.float32(scale)
        actor, (steps, actions, _, advantages, *_) = WideActor(model.policy), model._experience()
        observations, weights = steps.observations.double(), th.full((64,), 1 / 64, dtype=th.float64)
        sizes = tuple(getattr(model.action_space, "nvec", [getattr(model.action_space, "n", 0)]))
        make_components = functools.partial(oracles.components, ORACLE_KINDS[kind], sizes=sizes)
        fisher = oracles.dense_fisher(actor, observations, weights, make_components)
        log_prob = oracles.joint_log_prob(make_components(actor(observations)), actions.double())
        gradient = th.autograd.grad((weights * log_prob * advantages.double()).sum(), list(actor.parameters()))
        gradient = th.cat([part.flatten() for part in gradient])
        direction = th.linalg.solve(fisher + 0.1 * th.eye(len(fisher), dtype=th.float64), gradient)

        with captured_steps() as steps_taken:
            model.train()
        assert steps_taken[0].step.accepted
        by_name = steps_taken[0].by_name(model.policy)
        names = ["mlp_extractor.policy_net.0.weight", "mlp_extractor.policy_net.0.bias"]
        names += ["action_net.weight", "action_net.bias"]
        # a module's own parameters come before those of the modules in it
        names = ["log_std", *names] if kind == "box" else names
        step = th.cat([by_name[name].flatten() for name in names]).double()
        cosine = float(step @ direction / (step.norm() * direction.norm()))
        assert cosine > 0.999, f"{cosine} at {scale}"
