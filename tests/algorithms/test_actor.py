"""Actor parameters, and the choice among the forms of the Fisher-vector product, on real policies."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common import policies
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.testing import assert_close

from sb3_trpo import TRPO
from sb3_trpo.algorithms import actor as actor_module
from sb3_trpo.algorithms import closed_form
from sb3_trpo.algorithms.action_distribution import as_core_distribution
from sb3_trpo.algorithms.actor import Actor
from sb3_trpo.algorithms.critic import Critic
from sb3_trpo.core.parameters import flat_gradient
from tests.algorithms.kinds import CLOSED_MEMORY, KINDS, WITH_MEMORY, OpaqueCategorical, collect, make_model
from tests.envs import Contextual

DOUBLE_BACKPROP = {"beta", "opaque_discrete", "no_entropy"}
CLOSED_FORM = {
    "box",
    "box_matrix",
    "discrete",
    "multi_discrete",
    "multi_binary",
    "discrete_observation",
    "multi_discrete_observation",
    "multi_binary_observation",
    "box64",
    "relu",
    "linear",
    "masked_discrete",
    "masked_multi_discrete",
    "masked_multi_binary",
}


def steps_of(model, n=16):
    collect(model)
    model.policy.set_training_mode(False)
    steps = model._experience().steps
    return steps.take(slice(n)) if steps.n_units == len(steps) else steps


def names(policy, parameters):
    ids = {id(p) for p in parameters}
    return {name for name, p in policy.named_parameters() if id(p) in ids}


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_cheapest_form_that_applies_is_chosen(kind, monkeypatch):
    model = make_model(kind)
    steps = steps_of(model)
    used = []
    forms = {closed_form: ("MlpJacobian", "MemoryJacobian"), actor_module: ("AutogradJacobian", "DoubleBackprop")}
    for module, form in ((module, form) for module, names in forms.items() for form in names):
        original = getattr(module, form)
        spy = lambda *args, form=form, original=original: used.append(form) or original(*args)  # noqa: E731
        monkeypatch.setattr(module, form, spy)
    Actor(model.policy, steps).linearize(steps)
    other = "DoubleBackprop" if kind in DOUBLE_BACKPROP else "AutogradJacobian"
    closed = "MlpJacobian" if kind in CLOSED_FORM else "MemoryJacobian"
    assert used == [closed if kind in CLOSED_FORM | CLOSED_MEMORY else other]


@pytest.mark.parametrize("kind", list(KINDS))
def test_products_equal_the_hessian_of_the_kl_on_real_policies_in_float64(kind, monkeypatch):
    model = make_model(kind)
    steps = steps_of(model)
    model.policy.double()
    original = policies.preprocess_obs

    def preprocess_in_float64(obs, space, normalize_images=True):
        processed = original(obs, space, normalize_images)
        return {k: v.double() for k, v in processed.items()} if isinstance(processed, dict) else processed.double()

    monkeypatch.setattr(policies, "preprocess_obs", preprocess_in_float64)
    if kind in WITH_MEMORY:
        steps = replace(steps, actor_memory=tuple(part.double() for part in steps.actor_memory))
    if kind == "custom_layer":
        steps = replace(steps, observations=steps.observations.double())
        monkeypatch.setattr(th.Tensor, "float", th.Tensor.double)
    check_products(model, steps, rtol=1e-9)


@pytest.mark.parametrize("kind", list(KINDS))
def test_products_equal_the_hessian_of_the_kl_on_real_policies(kind):
    model = make_model(kind)
    check_products(model, steps_of(model), rtol=1e-4)


@pytest.mark.parametrize("net", [[400, 300], [256, 256]], ids=str)
@pytest.mark.parametrize("activation", [th.nn.ReLU, th.nn.Tanh])
def test_products_of_wide_networks(net, activation):
    model = make_model("box", policy_kwargs={"net_arch": net, "activation_fn": activation})
    check_products(model, steps_of(model), rtol=1e-4)


def test_products_of_the_usual_network_for_images():
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    env = DummyVecEnv([lambda: Contextual(spaces.Discrete(6), space) for _ in range(2)])
    model = TRPO("CnnPolicy", env, n_steps=16, batch_size=16, seed=0, device="cpu")
    check_products(model, steps_of(model), rtol=1e-4)


def check_products(model, steps, rtol):
    """Against double backpropagation of the actor's own KL, whose form the core proves."""
    actor = Actor(model.policy, steps)
    weights = th.linspace(1.0, 2.0, len(steps), dtype=actor.parameters[0].dtype)
    weights = weights / weights.sum()
    old = actor.distribution(steps)
    new = as_core_distribution(steps.action_distribution(model.policy))
    kl = (weights * old.kl_divergence(new)).sum()
    gradient = flat_gradient([kl], actor.parameters, create_graph=True)
    assert_close(gradient.detach(), th.zeros_like(gradient), atol=1e-2 * rtol, rtol=0)
    product = partial(actor.linearize(steps).fisher_vector_product, weights=weights)
    for seed in range(3):
        v = th.randn(gradient.shape, generator=th.Generator().manual_seed(seed)).to(gradient.dtype)
        expected = flat_gradient([gradient @ v], actor.parameters, retain_graph=True)
        scale = float(expected.abs().max())
        assert_close(product(v), expected, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_parameter_belongs_to_the_actor_or_to_the_critic_and_none_to_both(kind):
    model = make_model(kind)
    steps = steps_of(model)
    actor = Actor(model.policy, steps).parameters
    critic = Critic(model.policy, actor, steps).parameters
    assert not {id(p) for p in actor} & {id(p) for p in critic}
    everything = {name for name, p in model.policy.named_parameters() if p.numel()}
    assert names(model.policy, actor) | names(model.policy, critic) == everything
    assert {
        name for name in names(model.policy, critic) if not any(part in name for part in ("value", "vf", "critic"))
    } == set()


def test_a_layer_of_the_actor_with_value_in_its_name_is_trained_with_the_actor():
    model = make_model("custom_layer")
    actor = Actor(model.policy, steps_of(model))
    assert {"value_embed.weight", "value_embed.bias"} <= names(model.policy, actor.parameters)
    before = model.policy.value_embed.weight.clone()
    model.train()
    assert not th.equal(before, model.policy.value_embed.weight)


def test_a_shared_extractor_belongs_to_the_actor():
    model = make_model("image_shared")
    steps = steps_of(model)
    actor = Actor(model.policy, steps).parameters
    shared = {name for name in names(model.policy, actor) if name.startswith("features_extractor.")}
    assert len(shared) == 8
    assert names(model.policy, Critic(model.policy, actor, steps).parameters) == {
        "value_net.weight",
        "value_net.bias",
    }


def test_frozen_parameters_stay_and_the_rest_trains():
    model = make_model("box")
    model.policy.mlp_extractor.policy_net[0].weight.requires_grad_(False)
    model.policy.value_net.weight.requires_grad_(False)
    before = {name: p.clone() for name, p in model.policy.named_parameters()}
    model.learn(64)
    after = dict(model.policy.named_parameters())
    frozen = {"mlp_extractor.policy_net.0.weight", "value_net.weight"}
    assert {name for name in before if th.equal(before[name], after[name])} == frozen


@pytest.mark.parametrize("kind", ["box", "gsde"])
@pytest.mark.parametrize("frozen", ["log_std", "all but log_std"])
def test_a_frozen_head_trains_what_is_left(kind, frozen):
    model = make_model(kind)
    for name, parameter in model.policy.named_parameters():
        is_actor = "value" not in name
        parameter.requires_grad_(not is_actor or (name == "log_std") == (frozen == "all but log_std"))
    before = {name: p.clone() for name, p in model.policy.named_parameters()}
    model.learn(128)
    assert model.logger.name_to_value["train/is_line_search_success"] == 1.0
    assert model.logger.name_to_value["train/kl_divergence_loss"] <= 0.01
    for name, parameter in model.policy.named_parameters():
        if "value" not in name:
            assert th.equal(before[name], parameter) != parameter.requires_grad, name


def test_a_critic_with_nothing_to_train_is_left_alone():
    model = make_model("box")
    for name, parameter in model.policy.named_parameters():
        parameter.requires_grad_("value" not in name)
    model.learn(64)
    assert "train/value_loss" not in model.logger.name_to_value
    assert model.logger.name_to_value["train/is_line_search_success"] == 1.0


def test_an_opaque_discrete_distribution_takes_the_step_that_a_known_one_takes():
    known = collect(make_model("opaque_discrete", seed=4))
    opaque = collect(make_model("opaque_discrete", seed=4))
    known.policy.action_dist = CategoricalDistribution(3)
    for model in (known, opaque):
        np.random.seed(0)  # noqa: NPY002  # the buffers shuffle with the global generator
        model.train()
    after = [th.nn.utils.parameters_to_vector(model.policy.parameters()) for model in (known, opaque)]
    assert_close(after[0], after[1], rtol=1e-4, atol=1e-6)


def test_a_log_prob_of_the_wrong_shape_is_refused(monkeypatch):
    model = collect(make_model("opaque_discrete"))
    monkeypatch.setattr(
        OpaqueCategorical, "log_prob", lambda self, actions: self.distribution.log_prob(actions)[:, None]
    )
    with pytest.raises(ValueError, match=r"shapes \[\(64, 1\), \(64,\), \(64,\), \(64,\)\], all must be \(N,\)"):
        model.train()


@pytest.mark.parametrize("change", ["hook", "hook on all", "tied", "inplace", "float32 bias removed"])
def test_a_network_that_is_not_quite_a_perceptron_is_not_taken_for_one(change):
    model = make_model("relu")
    net = model.policy.mlp_extractor.policy_net
    if change == "hook":
        net[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    elif change == "hook on all":
        net.register_forward_hook(lambda module, inputs, output: 2 * output)
    elif change == "tied":
        net.append(net[2]).append(net[3])
    elif change == "inplace":
        net[1].inplace = True
    else:
        net[0].bias = None
    steps = steps_of(model)
    assert Actor(model.policy, steps)._form is None
    model.train()
    assert model.logger.name_to_value["train/kl_divergence_loss"] <= 0.01


def test_snapshots_do_not_follow_the_parameters():
    model = make_model("box")
    steps = steps_of(model)
    actor = Actor(model.policy, steps)
    snapshot = actor.distribution(steps)
    product = partial(actor.linearize(steps).fisher_vector_product, weights=th.full((16,), 1 / 16))
    v = th.ones(sum(p.numel() for p in actor.parameters))
    before = (snapshot.mean.clone(), snapshot.log_std.clone(), product(v))
    with th.no_grad():
        model.policy.log_std += 1.0
    assert_close((snapshot.mean, snapshot.log_std, product(v)), before, rtol=0, atol=0)
