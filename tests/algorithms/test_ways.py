"""Ways into the four algorithms and out of them: arguments, files, weights, copies."""

import copy
import pickle

import numpy as np
import pytest
import sb3_contrib
import torch as th
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo import TRPO, MaskableRecurrentTRPO, MaskableTRPO, RecurrentTRPO
from sb3_trpo.algorithms import policies
from sb3_trpo.algorithms.arguments import PPO_ARGUMENTS
from sb3_trpo.algorithms.policies import ALGORITHM_FOR, kind_of
from sb3_trpo.saving import allowed
from tests.algorithms.kinds import KINDS, as_masked, collect, make_model
from tests.envs import Walk

OF = {TRPO: "discrete", MaskableTRPO: "masked_discrete", RecurrentTRPO: "lstm", MaskableRecurrentTRPO: "masked_lstm"}
"""A kind of model for each class."""


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not th.equal(ours[name], theirs[name])] == []


def environment(kind):
    action_space, observation_space, *_ = KINDS[kind]
    return DummyVecEnv([lambda: as_masked(kind, Walk(action_space, observation_space, 6)) for _ in range(2)])


def others():
    """A model of each class that does not belong to this package, and the full name of the class that loads it."""
    small = {"n_steps": 16, "device": "cpu"}
    return {
        "stable_baselines3.PPO": PPO("MlpPolicy", environment("discrete"), batch_size=16, **small),
        "sb3_contrib.MaskablePPO": MaskablePPO("MlpPolicy", environment("masked_discrete"), batch_size=16, **small),
        "sb3_contrib.RecurrentPPO": RecurrentPPO("MlpLstmPolicy", environment("lstm"), batch_size=16, **small),
        "the class that saved it": A2C("MlpPolicy", environment("discrete"), **small),
    }


@pytest.mark.parametrize("cls", OF)
@pytest.mark.parametrize("name", ["n_epochs", "clip_range", "clip_range_vf", "vf_coef"])
def test_arguments_of_ppo_are_refused_with_what_to_use_instead(cls, name):
    with pytest.raises(TypeError) as caught:
        make_model(OF[cls], **{name: 0.1})
    assert str(caught.value) == f"{cls.__name__} has no argument {name!r}: {PPO_ARGUMENTS[name]}"
    instead = {"n_epochs": "n_critic_updates", "vf_coef": "learning_rate"}
    assert instead.get(name, "target_kl" if name == "clip_range" else "gauss_newton") in str(caught.value)


@pytest.mark.parametrize("cls", OF)
def test_settings_can_be_changed_on_loading(cls, tmp_path):
    model = make_model(OF[cls], target_kl=lambda progress: 0.05).learn(64)
    model.save(tmp_path / "model")
    env = model.get_env()
    assert cls.load(tmp_path / "model", env=env, trust=True).target_kl(1.0) == 0.05
    for given in ({"custom_objects": {"target_kl": 0.03}}, {"target_kl": 0.03}):
        loaded = cls.load(tmp_path / "model", env=env, **given).learn(64)
        assert loaded.logger.name_to_value["train/radius"] == 0.03
    loaded = cls.load(tmp_path / "model", env=environment(OF[cls]), n_steps=8, trust=True).learn(32)
    assert loaded.rollout_buffer.buffer_size == 8
    assert loaded._n_updates == 3


@pytest.mark.parametrize("cls", OF)
def test_a_model_goes_on_in_another_number_of_environments(cls, tmp_path):
    make_model(OF[cls]).learn(64).save(tmp_path / "model")
    action_space, observation_space, *_ = KINDS[OF[cls]]
    env = DummyVecEnv([lambda: as_masked(OF[cls], Walk(action_space, observation_space, 6)) for _ in range(5)])
    loaded = cls.load(tmp_path / "model", env=env).learn(32 * 5 * 2)
    assert loaded._n_updates == 3
    assert loaded.num_timesteps == 320
    assert loaded.rollout_buffer.n_envs == 5


@pytest.mark.parametrize("saved", OF)
@pytest.mark.parametrize("loading", OF)
def test_a_file_is_refused_by_every_class_but_its_own_which_is_named(saved, loading, tmp_path):
    make_model(OF[saved]).save(tmp_path / "model")
    if saved is loading:
        assert type(loading.load(tmp_path / "model")) is loading
        return
    names = loading.__name__, saved.__name__
    with pytest.raises(
        ValueError, match=r"does not hold a {}, but a {}: load it with sb3_trpo\.{}$".format(*names, names[1])
    ):
        loading.load(tmp_path / "model", env=environment(OF[loading]))


def test_files_of_other_algorithms_are_refused_with_the_name_of_the_class_that_loads_them(tmp_path):
    for loader, model in others().items():
        model.save(tmp_path / "model")
        for cls in OF:
            with pytest.raises(ValueError, match=rf"does not hold a {cls.__name__}(, but .*)?: load it with {loader}$"):
                cls.load(tmp_path / "model")


def test_a_model_of_sb3_contribs_trpo_is_one_of_trpo_and_of_no_other(tmp_path):
    sb3_contrib.TRPO("MlpPolicy", environment("discrete"), n_steps=16, batch_size=16).save(tmp_path / "model")
    assert type(TRPO.load(tmp_path / "model")) is TRPO
    for cls in set(OF) - {TRPO}:
        with pytest.raises(ValueError, match=r"but a TRPO: load it with sb3_trpo\.TRPO"):
            cls.load(tmp_path / "model")


@pytest.mark.parametrize("cls", OF)
def test_subclasses_load_what_they_saved_and_what_their_base_saved(cls, tmp_path):
    class Mine(cls):
        pass

    env = environment(OF[cls])
    _, _, policy, kwargs = KINDS[OF[cls]]
    Mine(policy, env, n_steps=16, device="cpu", **kwargs).save(tmp_path / "mine")
    make_model(OF[cls]).save(tmp_path / "base")
    for name in ("mine", "base"):
        assert type(Mine.load(tmp_path / name, env=env).learn(32)) is Mine


@pytest.mark.parametrize("cls", [MaskableTRPO, RecurrentTRPO, TRPO])
@pytest.mark.parametrize("way", ["set_parameters(zip)", "set_parameters(dictionary)", "load_state_dict"])
def test_weights_of_ppo_become_those_of_ours_and_train_on(cls, way, tmp_path):
    kind, ppo = OF[cls], {MaskableTRPO: MaskablePPO, RecurrentTRPO: RecurrentPPO, TRPO: PPO}[cls]
    _, _, policy, kwargs = KINDS[kind]
    env = environment(kind)
    theirs = ppo(policy, env, n_steps=16, batch_size=16, n_epochs=1, device="cpu", seed=1, **kwargs).learn(32)
    ours = cls(policy, env, n_steps=16, batch_size=16, device="cpu", seed=2, **kwargs)
    theirs.save(tmp_path / "ppo")
    if way == "set_parameters(zip)":
        ours.set_parameters(str(tmp_path / "ppo"))
    elif way == "set_parameters(dictionary)":
        ours.set_parameters(theirs.get_parameters())
    else:
        ours.policy.load_state_dict(theirs.policy.state_dict())
    assert_same(weights(ours), weights(theirs))
    obs = np.random.default_rng(0).uniform(-1, 1, (2, 3)).astype(np.float32)
    np.testing.assert_array_equal(ours.predict(obs, deterministic=True)[0], theirs.predict(obs, deterministic=True)[0])
    ours.learn(64)
    assert ours._n_updates == 2
    assert all(th.isfinite(value).all() for value in weights(ours).values())


@pytest.mark.parametrize("kind", ["masked_multi_discrete", "lstm_gsde", "masked_lstm"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("advantages", ["as they are", "all equal"])
def test_copies_of_a_trained_model_are_the_same_and_independent(kind, copied, advantages):
    model = collect(make_model(kind))
    if advantages == "all equal":  # the update then ends where its graphs are still alive
        model.rollout_buffer.advantages[:] = 0.0
    model.train()
    twin, before = copied(model), weights(model)
    assert_same(weights(twin), before)
    th.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    twin.learn(128, reset_num_timesteps=False)
    assert_same(weights(model), before)
    assert twin._n_updates == 3
    th.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    model.learn(128, reset_num_timesteps=False)
    assert_same(weights(model), weights(twin))


POLICIES = [
    cls
    for name, cls in vars(policies).items()
    if name.endswith("Policy") and name.startswith(("Mlp", "MaskableMlp")) and isinstance(cls, type)
]


@pytest.mark.parametrize("cls", OF)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_class_of_another_kind_is_refused_with_the_class_that_trains_it(cls, policy):
    kind = OF[cls]
    _, _, _, kwargs = KINDS[kind]
    right = ALGORITHM_FOR[kind_of(policy)]
    if right == cls.__name__:
        assert type(cls(policy, environment(kind), n_steps=8, device="cpu", **kwargs).policy) is policy
        return
    with pytest.raises(ValueError, match=rf"policy={policy.__name__} is one for {right}: train it by that, or give "):
        cls(policy, environment(kind), n_steps=8, device="cpu")


@pytest.mark.parametrize("cls", OF)
@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy", "MaskableMlpPolicy"])
def test_a_policy_name_that_the_class_does_not_know_is_refused_with_those_it_knows(cls, policy):
    kind = OF[cls]
    if policy in cls.policy_aliases:
        cls(policy, environment(kind), n_steps=8, device="cpu")
        return
    with pytest.raises(ValueError, match=rf"policy='{policy}' must be one of .*'{next(iter(cls.policy_aliases))}'"):
        cls(policy, environment(kind), n_steps=8, device="cpu")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *(
            (kind, {})
            for kind in ("masked_discrete", "masked_multi_binary", "lstm_two_layers", "lstm_gsde", "lstm_shared")
        ),
        ("masked_lstm", {"critic": "gauss_newton"}),
        ("lstm", {"critic_kwargs": {"holdout": 0.2}, "sub_sampling_factor": 3}),
    ],
)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(kind, settings):
    first, again, other = (weights(make_model(kind, seed=seed, **settings).learn(192)) for seed in (1, 1, 2))
    assert_same(first, again)
    assert any(not th.equal(first[name], other[name]) for name in first)


def test_weights_of_a_ppo_that_shares_its_extractor_are_taken_and_its_optimiser_is_not(tmp_path):
    model = make_model("masked_image")
    kwargs = {**model.policy_kwargs, "share_features_extractor": True}
    theirs = MaskablePPO("CnnPolicy", model.get_env(), n_steps=8, batch_size=8, device="cpu", policy_kwargs=kwargs)
    theirs.save(tmp_path / "ppo")
    with pytest.warns(UserWarning, match="the weights are loaded, the critic's optimiser stays as it is"):
        model.set_parameters(str(tmp_path / "ppo"))
    for name, parameter in theirs.policy.pi_features_extractor.named_parameters():
        assert th.equal(parameter, model.policy.pi_features_extractor.get_parameter(name))
    model.learn(64)


def test_a_file_whose_policy_class_is_gone_is_refused_with_what_to_do(tmp_path, monkeypatch):
    make_model("lstm").save(tmp_path / "model")
    monkeypatch.delattr(policies, "MlpLstmPolicy")
    allowed._imported.cache_clear()
    with pytest.raises(ValueError, match=r"MlpLstmPolicy cannot be imported.*custom_objects={'policy_class': "):
        RecurrentTRPO.load(tmp_path / "model")
