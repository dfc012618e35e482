"""The critic: whose parameters the optimiser has, how it is saved, and the ways of fitting it."""

import copy
import math

import numpy as np
import pytest
import sb3_contrib
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo import TRPO
from sb3_trpo.algorithms.actor import Actor
from sb3_trpo.algorithms.critic import Critic, keep_critic_only, narrowed_state, value_function
from sb3_trpo.algorithms.regressions import CriticFit, GaussNewtonRegression, MinibatchRegression, Settings
from sb3_trpo.core.folded_mlp import FoldedMlp
from sb3_trpo.core.regression import FoldedDescent
from tests.algorithms.kinds import KINDS, WITH_MEMORY, collect, make_model
from tests.envs import Contextual

WITH_IMAGES = {
    "image",
    "image_shared",
    "dict",
    "dict_sub_sampled",
    "masked_image",
    "masked_dict",
    "lstm_image",
    "lstm_dict",
}
AUTOGRAD = {*WITH_IMAGES, *WITH_MEMORY} - {"lstm_shared", "lstm_without_critic", "masked_lstm_multi_discrete"}


def names(policy, parameters):
    ids = {id(p) for p in parameters}
    return {name for name, p in policy.named_parameters() if id(p) in ids}


def critic_of(model):
    rollout = model._experience()
    model.policy.set_training_mode(False)
    return Critic(model.policy, Actor(model.policy, rollout.steps).parameters, rollout.steps), rollout


def mean_squared_error(model, rollout):
    with th.no_grad():
        values = rollout.steps.values(model.policy).flatten()
    return float((values - rollout.returns).square().mean())


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_optimiser_has_what_the_actor_has_not(kind):
    model = make_model(kind)
    critic, _ = critic_of(collect(model))
    (group,) = model.policy.optimizer.param_groups
    owned = {p for p in group["params"] if p.numel()}
    assert names(model.policy, owned) == names(model.policy, critic.parameters)
    model.train()
    assert {p for p in model.policy.optimizer.state if p.numel()} == owned


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("limit", [None, 0.1])
def test_the_closed_form_of_the_critic_is_what_autograd_does(kind, limit, monkeypatch):
    """Two updates in a row, the second with moments; minibatches that do not divide the rollout."""
    whole = kind in WITH_MEMORY  # whose minibatches are of steps in the one case and of sequences in the other
    settings = {"batch_size": 64 if whole else 24, "n_critic_updates": 3, "max_grad_norm": limit}
    used, after = [], []
    original = FoldedDescent.applies

    def applies(mlp, optimizer):
        used.append(original(mlp, optimizer))
        return used[-1] and not is_plain

    monkeypatch.setattr(FoldedDescent, "applies", applies)
    for is_plain in (False, True):  # noqa: B007  # read by applies
        model = make_model(kind, **settings)
        for _ in range(2):
            collect(model).train()
        critic, _ = critic_of(model)
        after.append([p.detach().clone() for p in critic.parameters])
        after[-1] += [v for p in critic.parameters for v in model.policy.optimizer.state[p].values()]
    assert len(after[0]) == 4 * len(critic.parameters)
    for a, b in zip(*after, strict=True):
        th.testing.assert_close(a, b, rtol=2e-3, atol=2e-5)
    assert used == ([] if kind in AUTOGRAD else [True] * 4)


@pytest.mark.parametrize("kind", list(KINDS))
def test_values_without_a_graph_are_the_policys(kind):
    model = collect(make_model(kind))
    steps = model._experience().steps
    with th.no_grad():
        expected = steps.values(model.policy)
        th.testing.assert_close(value_function(model.policy)(steps), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["box", "image", "dict", "gsde"])
def test_a_loaded_model_goes_on_with_the_critics_moments(kind, tmp_path):
    model = make_model(kind).learn(128)
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=model.get_env())
    saved, restored = (m.policy.optimizer.state_dict() for m in (model, loaded))
    assert saved["param_groups"] == restored["param_groups"]
    assert saved["state"].keys() == restored["state"].keys() != set()
    for number, state in saved["state"].items():
        for key, value in state.items():
            assert th.equal(value, restored["state"][number][key])
    for m in (model, loaded):
        m.set_random_seed(5)
        m.get_env().seed(5)
        m._last_obs = None
        m.learn(64, reset_num_timesteps=False)
    for a, b in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert th.equal(a, b)


def test_the_optimiser_of_a_whole_policy_is_narrowed():
    """Files of sb3-contrib, and parameters of other algorithms, have moments for the actor too, or for nothing."""
    env = DummyVecEnv([lambda: Contextual(KINDS["box"][0])])
    ours = TRPO("MlpPolicy", env, n_steps=64, batch_size=64)
    theirs = sb3_contrib.TRPO("MlpPolicy", env, n_steps=64, batch_size=64).learn(128)
    whole = theirs.policy.optimizer.state_dict()
    assert len(whole["param_groups"][0]["params"]) == 13
    given = copy.deepcopy(theirs.get_parameters())
    ours.set_parameters(given)
    th.testing.assert_close(given["policy.optimizer"]["state"], whole["state"])
    numbers = {name: number for number, (name, _) in enumerate(theirs.policy.named_parameters())}
    state = {name: ours.policy.optimizer.state[p] for name, p in ours.policy.named_parameters() if "value" in name}
    assert len(state) == 6
    for name, moments in state.items():
        th.testing.assert_close(moments["exp_avg"], whole["state"][numbers[name]]["exp_avg"], rtol=0, atol=0)
    ours.set_parameters(ours.get_parameters())
    ours.learn(64)
    fresh = PPO("MlpPolicy", env, n_steps=64).policy.optimizer.state_dict()
    ours.set_parameters({"policy": theirs.policy.state_dict(), "policy.optimizer": fresh})
    assert not ours.policy.optimizer.state
    other = {"policy": theirs.policy.state_dict(), "policy.optimizer": th.optim.Adam([th.zeros(1)]).state_dict()}
    with pytest.raises(ValueError, match="parameter group"):
        ours.set_parameters(other)


@pytest.mark.parametrize("kind", list(KINDS))
def test_gauss_newton_steps_lower_the_error_and_stay_in_their_region(kind):
    model = collect(make_model(kind))
    critic, rollout = critic_of(model)
    with th.no_grad():
        before, old = mean_squared_error(model, rollout), value_function(model.policy)(rollout.steps).flatten()
    regression = GaussNewtonRegression(steps=1, radius=0.05, holdout=0.0)
    fit = regression.fit(critic, rollout.steps, rollout.returns, Settings(16, 2, None))
    after = mean_squared_error(model, rollout)
    assert fit.value_loss == pytest.approx(before, rel=1e-4)
    assert after < before
    with th.no_grad():
        change = (value_function(model.policy)(rollout.steps).flatten() - old).square().mean()
    assert 0 < float(change) / (2 * before) <= 0.05 * (1 + 1e-3)
    regression.steps = 10
    regression.fit(critic, rollout.steps, rollout.returns, Settings(16, 2, None))
    assert mean_squared_error(model, rollout) < after


def test_a_gauss_newton_step_is_the_dense_damped_least_squares_solution():
    model = collect(make_model("box", policy_kwargs={"net_arch": [4]}))
    critic, rollout = critic_of(model)
    damping, std = 0.3, math.sqrt(mean_squared_error(model, rollout))
    values = rollout.steps.values(model.policy).flatten()
    J = th.stack(
        [th.cat([g.flatten() for g in th.autograd.grad(v, critic.parameters, retain_graph=True)]) for v in values]
    )
    residual = (rollout.returns - values.detach()) / std**2
    dense = J.T @ J / std**2 / len(J) + damping * th.eye(J.shape[1])
    direction = th.linalg.solve(dense, J.T @ residual / len(J))
    start = th.cat([p.detach().flatten() for p in critic.parameters])
    regression = GaussNewtonRegression(steps=1, radius=1e-3, damping=damping, cg_max_steps=100, holdout=0.0)
    regression.fit(critic, rollout.steps, rollout.returns, Settings(16, 2, None))
    step = th.cat([p.detach().flatten() for p in critic.parameters]) - start
    assert float(step @ direction / (step.norm() * direction.norm())) > 0.999


def test_a_gauss_newton_step_that_harms_what_was_kept_aside_is_taken_back():
    """Returns that are pure noise cannot be foretold: the guard stops the fit, and leaves it no worse than before."""
    model = collect(make_model("box", n_steps=64))
    critic, rollout = critic_of(model)
    returns = th.randn_like(rollout.returns)
    np.random.seed(0)  # noqa: NPY002  # the generator that chooses the rows
    order = np.random.permutation(len(returns))  # noqa: NPY002
    held_out = order[: len(returns) // 2]

    def error():
        with th.no_grad():
            return float((rollout.steps.values(model.policy).flatten() - returns)[held_out].square().mean())

    before = error()
    for guarded, fraction in ((True, 0.5), (False, 0.0)):
        np.random.seed(0)  # noqa: NPY002
        regression = GaussNewtonRegression(steps=100, radius=1.0, damping=1e-3, cg_max_steps=30, holdout=fraction)
        rows = th.as_tensor(np.setdiff1d(np.arange(len(returns)), [] if guarded else held_out))
        regression.fit(critic, rollout.steps.take(rows), returns[rows], Settings(16, 2, None))
        if guarded:
            assert error() <= before * (1 + 1e-5)
    assert error() > before


@pytest.mark.parametrize("kind", ["box", "image", "dict", "gsde"])
@pytest.mark.parametrize("critic", ["minibatch", "gauss_newton"])
def test_either_critic_trains_is_saved_and_is_logged(kind, critic, tmp_path):
    model = make_model(kind, critic=critic, critic_kwargs={"holdout": 0.2}).learn(128)
    assert model.logger.name_to_value["train/value_loss"] > 0
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=model.get_env())
    assert type(loaded.critic_regression) is type(model.critic_regression)
    assert loaded.critic_regression.holdout == 0.2
    loaded.learn(64, reset_num_timesteps=False)
    other = TRPO.load(tmp_path / "model", critic="minibatch", critic_kwargs=None)
    assert other.critic_regression == MinibatchRegression()


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_gauss_newton_refuses_returns_that_are_not_finite(fault):
    model = collect(make_model("box", critic="gauss_newton"))
    model.rollout_buffer.returns[:] = fault
    before = [p.clone() for p in model.policy.parameters()]
    critic, rollout = critic_of(model)
    fit = GaussNewtonRegression().fit(critic, rollout.steps, rollout.returns, Settings(16, 2, None))
    assert (fit.value_loss, fit.skipped) == (None, 1)
    assert all(th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


@pytest.mark.parametrize(
    ("critic", "kwargs", "message"),
    [
        ("newton", None, r"critic='newton' must be one of 'minibatch', 'gauss_newton', or a class with the methods"),
        (int, None, r"critic=<class 'int'> must be one of"),
        ("minibatch", {"holdout": 1.0}, r"holdout=1.0 must be a number in \[0, 1\)"),
        ("minibatch", {"patience": 0}, r"patience=0 must be an integer >= 1"),
        ("minibatch", {"radius": 1}, r"critic_kwargs=\{'radius': 1\} does not fit MinibatchRegression"),
        ("gauss_newton", {"holdout": -0.1}, r"holdout=-0.1 must be a number in \[0, 1\)"),
        ("gauss_newton", {"radius": math.nan}, r"radius=nan must be a finite number >= 0"),
        ("gauss_newton", {"cg_max_steps": 0}, r"cg_max_steps=0 must be an integer >= 1"),
        ("gauss_newton", {"steps": 2.5}, r"steps=2.5 must be an integer >= 0"),
        ("minibatch", 3, r"critic_kwargs=3 must be a dictionary"),
    ],
)
def test_bad_arguments_of_the_critic_are_named(critic, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_model("box", critic=critic, critic_kwargs=kwargs)


def test_a_critic_of_ones_own():
    class Mean:
        """Sets the bias of the last layer to the mean return."""

        def fit(self, critic, observations, returns, settings):
            with th.no_grad():
                critic.policy.value_net.bias.fill_(returns.mean())
            return CriticFit(1.5)

    model = make_model("box", critic=Mean).learn(64)
    assert model.logger.name_to_value["train/value_loss"] == 1.5
    assert model.policy.value_net.bias.item() == pytest.approx(float(model.rollout_buffer.returns.mean()), rel=1e-5)


def test_a_perceptron_is_seen_only_where_there_is_one():
    model = make_model("box")
    model.policy.mlp_extractor.value_net[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    critic, rollout = critic_of(collect(model))
    assert critic.mlp is None
    model.train()
    assert math.isfinite(mean_squared_error(model, rollout))


@pytest.mark.parametrize("optimizer", [th.optim.Adagrad, th.optim.RMSprop, th.optim.SGD, th.optim.AdamW])
def test_any_optimiser_is_narrowed_saved_and_loaded(optimizer, tmp_path):
    model = make_model("box", policy_kwargs={"optimizer_class": optimizer}).learn(64)
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=model.get_env())
    th.testing.assert_close(loaded.policy.optimizer.state_dict(), model.policy.optimizer.state_dict())
    loaded.learn(64, reset_num_timesteps=False)


def test_an_optimiser_of_several_groups_is_narrowed_group_by_group():
    model = make_model("box")
    actor = Actor(model.policy, model.policy.obs_to_tensor(model.get_env().reset())[0]).parameters
    critic = [p for p in model.policy.parameters() if all(p is not q for q in actor)]
    whole = th.optim.Adam([{"params": actor}, {"params": critic, "lr": 0.5}])
    th.stack([p.square().sum() for p in (*actor, *critic)]).sum().backward()
    whole.step()
    state = copy.deepcopy(whole.state_dict())
    kept = keep_critic_only(whole, actor)
    assert kept == [[], list(range(6))]
    th.testing.assert_close(narrowed_state(state, kept), whole.state_dict())
    assert narrowed_state(whole.state_dict(), kept) == whole.state_dict()


def test_an_interrupted_fit_leaves_critic_and_optimiser_as_they_were(monkeypatch):
    model = collect(make_model("box"))
    model.train()
    collect(model)
    critic, rollout = critic_of(model)
    before = copy.deepcopy((model.policy.state_dict(), model.policy.optimizer.state_dict()))
    calls, original = [], FoldedMlp.backward

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        original(self, *args)

    monkeypatch.setattr(FoldedMlp, "backward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        MinibatchRegression().fit(critic, rollout.steps, rollout.returns, Settings(16, 2, None))
    th.testing.assert_close((model.policy.state_dict(), model.policy.optimizer.state_dict()), before, rtol=0, atol=0)


def test_a_buffer_with_a_get_of_its_own_is_asked():
    class Half(RolloutBuffer):
        """Yields returns of half the size."""

        def get(self, batch_size=None):
            for samples in super().get(batch_size):
                yield samples._replace(returns=0.5 * samples.returns)

    model = collect(make_model("box", rollout_buffer_class=Half))
    returns = model.rollout_buffer.returns.flatten()
    np.testing.assert_allclose(np.sort(model._experience().returns), np.sort(0.5 * returns), rtol=1e-6)
    model.train()


def test_no_passes_are_no_fit():
    model = make_model("box", critic="gauss_newton", n_critic_updates=0).learn(64)
    assert "train/value_loss" not in model.logger.name_to_value
