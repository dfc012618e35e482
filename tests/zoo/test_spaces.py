"""The search space: every point trains, an entry and its point are the same, RL Zoo's signature."""

import inspect

import numpy as np
import optuna
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from sb3_trpo import TRPO
from sb3_trpo.algorithms.arguments import check_arguments
from sb3_trpo.zoo.algorithms import OURS
from sb3_trpo.zoo.hyperparams import check_hyperparams, load_hyperparams, model_arguments, plain
from sb3_trpo.zoo.models import make_env, make_model
from sb3_trpo.zoo.spaces import (
    ACTIVATIONS,
    BATCH_SIZES,
    CONVERTERS,
    CRITIC_MEMORIES,
    LSTM_SIZES,
    N_ENVS,
    NET_ARCHS,
    RANGES,
    RECURRENT_NET_ARCHS,
    SAMPLERS,
    STARTS,
    convert_trpo_params,
    sample_environment,
    sample_trpo_params,
    start_params,
    start_recurrent_params,
)

NUMBERS = {
    name: st.integers(low, high) if isinstance(low, int) else st.floats(low, high)
    for name, (low, high) in RANGES.items()
}
CHOICES = {
    "n_envs": N_ENVS,
    "normalize": [True, False],
    "learning_rate_schedule": ["linear", "constant"],
    "batch_size": BATCH_SIZES,
    "net_arch": list(NET_ARCHS),
    "activation_fn": list(ACTIVATIONS),
}
MEMORY = {"net_arch": list(RECURRENT_NET_ARCHS), "lstm_hidden_size": LSTM_SIZES, "critic_memory": list(CRITIC_MEMORIES)}


def points(choices):
    return st.fixed_dictionaries({**NUMBERS, **{name: st.sampled_from(values) for name, values in choices.items()}})


POINTS, RECURRENT_POINTS = points(CHOICES), points({**CHOICES, **MEMORY})
RECURRENT = ["trpo_lstm", "trpo_mask_lstm"]


def entry_of(point, n_actions=6, algo="trpo"):
    trial = FixedTrial(point)
    environment = sample_environment(trial)
    return {**environment, **SAMPLERS[algo](trial, n_actions, environment["n_envs"])}


def comparable(entry):
    """The schedule by its values."""
    arguments = model_arguments(entry)
    rate = arguments.get("learning_rate", 1e-3)
    return {**arguments, "learning_rate": (rate(1.0), rate(0.0)) if callable(rate) else rate}


@settings(deadline=None)
@given(POINTS)
def test_every_point_is_an_entry_and_the_entry_is_the_point(point):
    entry = entry_of(point)
    check_hyperparams("trpo", plain(entry), "sampled")
    check_arguments(model_arguments(entry))
    again = entry_of(start_params(entry, n_actions=6))
    assert comparable(again) == comparable(entry)
    from_file = entry_of(start_params(plain(entry), n_actions=6))
    assert comparable(from_file) == comparable(entry)


@settings(deadline=None)
@given(POINTS)
def test_numbers_have_three_significant_digits(point):
    entry = entry_of(point)
    for value in (
        *(entry[name] for name in ("target_kl", "cg_damping", "line_search_shrinking_factor")),
        *(round(1 - entry[name], 9) for name in ("gamma", "gae_lambda")),
        comparable(entry)["policy_kwargs"]["log_std_init"],
        entry["learning_rate"].start if callable(entry["learning_rate"]) else entry["learning_rate"],
    ):
        assert float(f"{value:.3g}") == value


@settings(max_examples=8, deadline=None)
@given(POINTS)
def test_every_point_builds_a_model(point):
    for env_id, n_actions in (("CartPole-v1", 0), ("Pendulum-v1", 1)):
        entry = entry_of(point, n_actions)
        model = make_model("trpo", env_id, entry, seed=0)
        assert model.n_steps * model.n_envs == 2 ** point["rollout_pow"]
        assert hasattr(model.policy, "log_std") == (n_actions > 0)
        if n_actions > 0:
            assert model.policy.log_std.item() == pytest.approx(entry["policy_kwargs"]["log_std_init"])
        model.env.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "HalfCheetah-v5", "Hopper-v5", "default"])
def test_shipped_entries_inside_the_space_are_found_again(env_id):
    entry = load_hyperparams("trpo", env_id)
    params = start_params(entry, n_actions=1)
    again = entry_of(params, n_actions=1)
    for key, value in comparable(entry).items():
        if key not in ("policy", "policy_kwargs"):
            assert comparable(again)[key] == pytest.approx(value), key
    assert again["n_envs"] == entry["n_envs"]
    assert again["normalize"] == entry.get("normalize", False)
    asked = model_arguments(entry).get("policy_kwargs", {})
    assert {key: again["policy_kwargs"][key] for key in asked} == asked


def test_an_entry_outside_the_space_has_a_nearest_point():
    entry = {
        "n_envs": 100,
        "n_steps": 3,
        "gamma": 0.5,
        "gae_lambda": 1.0,
        "target_kl": 5.0,
        "cg_damping": "lin_9",
        "cg_max_steps": 1,
        "line_search_shrinking_factor": 0.99,
        "learning_rate": 1.0,
        "n_critic_updates": 0,
        "batch_size": 10_000,
        "normalize": {"norm_reward": False},
        "policy_kwargs": "dict(net_arch=[7], activation_fn=nn.ELU, log_std_init=-9)",
    }
    params = start_params(entry, n_actions=3)
    assert params == {
        "n_envs": 16,
        "normalize": True,
        "rollout_pow": 9,
        "one_minus_gamma": 0.1,
        "one_minus_gae_lambda": 5e-3,
        "target_kl": 0.2,
        "cg_damping": 1.0,
        "cg_max_steps": 5,
        "line_search_shrinking_factor": 0.9,
        "learning_rate": 3e-3,
        "learning_rate_schedule": "constant",
        "n_critic_updates": 5,
        "batch_size": 512,
        "net_arch": "small",
        "activation_fn": "tanh",
        "log_std_init": -2.0,
    }
    entry_of(params, n_actions=3)


def test_an_empty_entry_is_the_default_of_the_algorithm():
    point = start_params({}, n_actions=1)
    defaults = inspect.signature(TRPO).parameters
    entry = entry_of(point, n_actions=1)
    for name in entry.keys() & defaults.keys() - {"policy_kwargs"}:
        assert entry[name] == pytest.approx(defaults[name].default), name
    assert entry["policy_kwargs"] == {"net_arch": NET_ARCHS["small"], "activation_fn": th.nn.Tanh, "log_std_init": 0.0}


def test_actions_without_a_deviation_have_no_parameter_for_it():
    assert "log_std_init" not in start_params({}, n_actions=0)
    trial = optuna.create_study().ask()
    assert "log_std_init" not in sample_trpo_params(trial, n_actions=0)["policy_kwargs"]
    assert "log_std_init" not in trial.params


def test_observations_that_cannot_be_normalised_have_no_parameter_for_it():
    assert "normalize" not in start_params({"normalize": True}, can_normalize=False)
    trial = optuna.create_study().ask()
    assert sample_environment(trial, can_normalize=False)["normalize"] is False
    assert "normalize" not in trial.params


@pytest.mark.parametrize("n_actions", [0, 6])
def test_a_sampled_trial_is_what_its_parameters_say(n_actions):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        environment = sample_environment(trial)
        sampled = {**environment, **sample_trpo_params(trial, n_actions, environment["n_envs"])}
        converted = convert_trpo_params(trial.params)
        assert converted == plain(sampled), "what RL Zoo makes of the trial"
        assert isinstance(converted["learning_rate"], float | str), "RL Zoo takes no schedule object there"
        assert comparable(converted) == comparable(sampled)
        study.tell(trial, 0.0)


def test_signatures_are_rl_zoos():
    assert set(SAMPLERS) == set(CONVERTERS) == set(STARTS) == set(OURS)
    for algo in OURS:
        assert list(inspect.signature(SAMPLERS[algo]).parameters) == [
            "trial",
            "n_actions",
            "n_envs",
            "additional_args",
        ]
        assert list(inspect.signature(CONVERTERS[algo]).parameters) == ["params"]
        trial = optuna.create_study().ask()
        assert SAMPLERS[algo](trial, 2, 4, {"using_her_replay_buffer": False, "her_kwargs": {}})["n_steps"] * 4 >= 512


# ---- masks and memory ----


@settings(deadline=None)
@given(POINTS)
def test_masks_do_not_change_the_space(point):
    assert comparable(entry_of(point, 0, "trpo_mask")) == comparable(entry_of(point, 0))


@pytest.mark.parametrize("algo", RECURRENT)
@settings(deadline=None)
@given(point=RECURRENT_POINTS)
def test_every_point_with_a_memory_is_an_entry_and_the_entry_is_the_point(algo, point):
    entry = entry_of(point, algo=algo)
    check_arguments(model_arguments(entry))
    for written in (entry, plain(entry)):
        start = STARTS[algo](written, n_actions=6)
        assert comparable(entry_of(start, algo=algo)) == comparable(entry)
        assert start["critic_memory"] == point["critic_memory"]
    converted = CONVERTERS[algo](point)
    assert converted == plain(entry)
    assert comparable(converted) == comparable(entry)


@pytest.mark.parametrize("algo", list(RECURRENT))
def test_every_point_with_a_memory_can_stand_in_a_file(algo):
    check_hyperparams(algo, plain(entry_of(start_recurrent_params({}, n_actions=6), algo=algo)), "sampled")


@settings(max_examples=8, deadline=None)
@given(point=RECURRENT_POINTS)
def test_every_memory_is_one_that_sb3_contrib_builds(point):
    memory = entry_of(point, 0, "trpo_lstm")["policy_kwargs"]
    model = make_model("ppo_lstm", "CartPole-v1", {"policy_kwargs": memory}, seed=0, device="cpu")
    assert model.policy.lstm_actor.hidden_size == point["lstm_hidden_size"]
    has_own = model.policy.lstm_critic not in (None, model.policy.lstm_actor)
    assert has_own == (point["critic_memory"] == "own")
    assert model.policy.shared_lstm == (point["critic_memory"] == "shared")
    model.env.close()


@pytest.mark.parametrize(("algo", "env_id"), [("trpo_lstm", "CartPole-v1"), ("trpo_lstm", "Pendulum-v1")])
@settings(max_examples=6, deadline=None)
@given(point=RECURRENT_POINTS)
def test_every_point_with_a_memory_builds_a_model(algo, env_id, point):
    entry = entry_of(point, int(env_id == "Pendulum-v1"), algo)
    model = make_model(algo, env_id, entry, seed=0, device="cpu")
    assert model.n_steps * model.n_envs == 2 ** point["rollout_pow"]
    model.env.close()


def test_an_empty_entry_has_the_memory_of_the_policies():
    start = start_recurrent_params({}, n_actions=1)
    assert (start["lstm_hidden_size"], start["critic_memory"], start["net_arch"]) == (256, "own", "small")
    shared = {"policy_kwargs": "dict(shared_lstm=True, enable_critic_lstm=False, lstm_hidden_size=90, net_arch=[64])"}
    start = start_recurrent_params(shared)
    assert (start["lstm_hidden_size"], start["critic_memory"], start["net_arch"]) == (64, "shared", "head")
    assert start_recurrent_params({"policy_kwargs": {"enable_critic_lstm": False}})["critic_memory"] == "none"


@pytest.mark.parametrize(
    ("algo", "env_id"),
    [
        ("trpo_lstm", "CartPoleNoVel-v1"),
        ("trpo_lstm", "PendulumNoVel-v1"),
        ("trpo_mask_lstm", "default"),
    ],
)
def test_shipped_entries_with_a_memory_are_found_again(algo, env_id):
    entry = load_hyperparams(algo, env_id)
    again = entry_of(STARTS[algo](entry, n_actions=1), 1, algo)
    for key, value in comparable(entry).items():
        if key not in ("policy", "policy_kwargs"):
            assert comparable(again)[key] == pytest.approx(value), key
    asked = model_arguments(entry).get("policy_kwargs", {})
    assert {key: again["policy_kwargs"].get(key) for key in asked if key != "ortho_init"} == {
        key: value for key, value in asked.items() if key != "ortho_init"
    }


def test_the_example_of_the_documentation_trains():
    trial = optuna.create_study().ask()
    arguments = sample_trpo_params(trial, n_actions=1)
    env = make_env("Pendulum-v1", {}, seed=0)
    model = TRPO("MlpPolicy", env, seed=0, **{**arguments, "n_steps": 64, "batch_size": 64})
    model.learn(64)
    assert np.isfinite(model.logger.name_to_value["train/kl_divergence_loss"])
