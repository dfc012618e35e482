"""Hyperparameter files: what is read, what is refused, and how an entry is written."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.utils import LinearSchedule

import sb3_trpo
from sb3_trpo.algorithms import slots
from sb3_trpo.algorithms.policies import MlpPolicy
from sb3_trpo.zoo import hyperparams as module
from sb3_trpo.zoo.algorithms import OURS, algorithm_class, argument_names, default_policy
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.hyperparams import (
    SLOTS,
    check_hyperparams,
    dictionary,
    format_entry,
    hyperparams_file,
    load_hyperparams,
    model_arguments,
    normalize_kwargs,
    parse_override,
    plain,
    read_entries,
    read_yaml,
)
from sb3_trpo.zoo.models import make_model
from tests.zoo import toys

ROOT = Path(__file__).parent.parent.parent
GRIDS = {"sb3_contrib:TRPO": ROOT / "benchmarks/grids/sb3_contrib_trpo.yml", "ppo": ROOT / "benchmarks/grids/ppo.yml"}


@pytest.fixture
def file(tmp_path):
    """Writes a file and gives its path."""

    def write(text):
        path = tmp_path / "own.yml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refusal(function, *args):
    with pytest.raises(UsageError) as refused:
        function(*args)
    message = str(refused.value)
    assert "\n" not in message
    return message


# ---- reading ----


def test_entries_share_what_they_merge_and_override_it(file):
    path = file("""
        default: &base {n_steps: 64, gamma: 0.9}
        CartPole-v1: &cart
          <<: *base
          gamma: 0.95
        Hopper-v5: *cart
        Pendulum-v1: {<<: [{n_envs: 2}, *base], n_steps: 32}
    """)
    assert load_hyperparams("trpo", "CartPole-v1", path) == {"n_steps": 64, "gamma": 0.95}
    assert load_hyperparams("trpo", "Hopper-v5", path) == {"n_steps": 64, "gamma": 0.95}
    assert load_hyperparams("trpo", "Pendulum-v1", path) == {"n_envs": 2, "n_steps": 32, "gamma": 0.9}
    assert load_hyperparams("trpo", "Acrobot-v1", path) == {"n_steps": 64, "gamma": 0.9}


def test_a_merged_key_is_not_a_key_given_twice(file):
    """Also where the merged mapping is read again, as part of another, before its own turn comes."""
    path = file("a: {deep: &own {<<: {x: 1}, x: 2}}\nb: {<<: *own, x: 3}")
    assert read_yaml(path) == {"a": {"deep": {"x": 2}}, "b": {"x": 3}}


@pytest.mark.parametrize("number", ["1e6", "1E6", "1.e6", "+1e+6", "!!float 1e6", "1000000.0", "1.0e+6"])
def test_numbers_are_numbers(file, number):
    value = load_hyperparams("trpo", "CartPole-v1", file(f"CartPole-v1: {{n_timesteps: {number}}}"))["n_timesteps"]
    assert value == 1e6
    assert isinstance(value, float)


@pytest.mark.parametrize("text", ["lin_1e-3", "1e", "e6", "v1e6", '"1e6"'])
def test_texts_stay_texts(file, text):
    assert isinstance(read_yaml(file(f"x: {text}"))["x"], str)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x: !!python/object/apply:os.system ['true']", "python/object/apply:os.system"),
        ("x: !!python/name:os.system", "python/name:os.system"),
        ("x: !own {a: 1}", "!own"),
        ("x: {a: 1, b: 2, a: 3}", "'a' is given twice in line 1"),
        ("x: {}\ny: {}\nx: {}", "'x' is given twice in line 3"),
        ("x: {y: [1}", "in line 1"),
        ("\tx: 1", "in line 1"),
        ("x: *nowhere", "undefined alias"),
        ("x: !!int abc", "abc"),
        ("x: !!bool abc", "abc"),
        ("x: !!int ''", ""),
        ("x: !!timestamp abc", ""),
        ("x: 2026-13-45", "month"),
        ("? [a]\n: 1", "unhashable"),
        ("[" * 3000, "nested too deeply"),
        (b"\xff\xfe\x00binary\x00\x01", ""),
        ("x: \x01", "not allowed"),
        ("a: 1\n---\nb: 2", "document"),
    ],
)
def test_what_is_no_yaml_of_plain_values_is_refused(file, text, says):
    path = file(text)
    message = refusal(read_yaml, path)
    assert message.startswith(f"{path} is no YAML of plain values: ")
    assert says in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds nothing: it must map environment ids"),
        ("# only a comment", "holds nothing: it must map environment ids"),
        ("- a\n- b", "holds ['a', 'b']: it must map environment ids"),
        ("just text", "holds 'just text': it must map environment ids"),
        ("CartPole-v1:", "entry CartPole-v1 holds nothing: it must hold lines of 'key: value'"),
        ("CartPole-v1: 3", "entry CartPole-v1 holds 3: it must hold lines of 'key: value'"),
        ("Pendulum-v1: {}", "no entry for 'CartPole-v1' and no default one"),
        ("CartPole-v0: {}", "no default one, did you mean 'CartPole-v0'?"),
    ],
)
def test_a_file_without_entries_is_refused(file, text, says):
    path = file(text)
    message = refusal(load_hyperparams, "trpo", "CartPole-v1", path)
    assert message.startswith(str(path))
    assert says in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert "nothing.yml cannot be read: No such file" in refusal(read_entries, tmp_path / "nothing.yml")
    assert "cannot be read: Is a directory" in refusal(read_entries, tmp_path)


def test_atari_serves_ale_and_default_the_rest(file):
    path = file("atari: {frame_stack: 4}\nALE/Pong-v5: {frame_stack: 3}\ndefault: {frame_stack: 1}")
    for env_id, stack in [
        ("BreakoutNoFrameskip-v4", 4),
        ("ALE/Breakout-v5", 4),
        ("ale_py:ALE/Breakout-v5", 4),
        ("ALE/Pong-v5", 3),
        ("ale_py:ALE/Pong-v5", 3),
        ("CartPole-v1", 1),
    ]:
        assert load_hyperparams("trpo", env_id, path) == {"frame_stack": stack}


def test_atari_without_an_entry_of_its_own_gets_the_default(file):
    assert load_hyperparams("trpo", "ALE/Pong-v5", file("default: {gamma: 0.9}")) == {"gamma": 0.9}


def test_overrides_win_and_are_named_where_they_are_wrong(file):
    path = file("default: {n_steps: 64, gamma: 0.9}")
    assert load_hyperparams("trpo", "X", path, {"gamma": 0.5, "n_envs": 2}) == {
        "n_steps": 64,
        "gamma": 0.5,
        "n_envs": 2,
    }
    message = refusal(load_hyperparams, "trpo", "X", path, {"gamma": 2})
    assert message == f"{path}, entry default with gamma replaced: gamma=2 must be a finite number in [0, 1]"


# ---- key=value ----


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("target_kl=0.02", "target_kl", 0.02),
        ("target_kl:0.02", "target_kl", 0.02),
        ("n_timesteps=1e6", "n_timesteps", 1e6),
        ("n_steps=64", "n_steps", 64),
        ("learning_rate=lin_1e-3", "learning_rate", "lin_1e-3"),
        ("normalize=true", "normalize", True),
        ("max_grad_norm=null", "max_grad_norm", None),
        ("policy_kwargs=dict(net_arch=[64, 64])", "policy_kwargs", "dict(net_arch=[64, 64])"),
        ("policy_kwargs:dict(net_arch=dict(pi=[8]))", "policy_kwargs", "dict(net_arch=dict(pi=[8]))"),
        ("policy_kwargs=dict(net_arch={'pi': [8]})", "policy_kwargs", "dict(net_arch={'pi': [8]})"),
        ("policy_kwargs={net_arch: [64, 64]}", "policy_kwargs", {"net_arch": [64, 64]}),
        ("env_wrapper=[a.B, c.D]", "env_wrapper", ["a.B", "c.D"]),
        ("env_wrapper={a.B: {skip: 2}}", "env_wrapper", {"a.B": {"skip": 2}}),
    ],
)
def test_an_override_is_read_as_in_a_file(text, key, value):
    assert parse_override(text) == (key, value)


@pytest.mark.parametrize("text", ["", "target_kl", "=3", "target_kl=", ":", "target-kl=3", "a.b=1"])
def test_an_override_without_key_or_value_is_refused(text):
    assert refusal(parse_override, text) == f"hyperparameter {text!r} must be written key=value, such as target_kl=0.02"


@pytest.mark.parametrize("value", ["[1", "!!python/name:os.system", "!!int x", "2026-13-45", "{a: 1, a: 2}"])
def test_an_override_without_a_plain_value_is_refused(value):
    message = refusal(parse_override, f"n_steps={value}")
    assert message.startswith(f"hyperparameter 'n_steps={value}' has no plain value: ")


# ---- checks ----


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"target_kls": 1}, "hyperparameter 'target_kls' is unknown to trpo, did you mean 'target_kl'?"),
        ({"normalise": True}, "did you mean 'normalize'?"),
        ({"clip_range": 0.2}, "'clip_range' is unknown to trpo"),
        ({"seed": 1}, "'seed' is unknown to trpo"),
        ({1: 1}, "hyperparameter 1 is unknown to trpo"),
        ({"n_timesteps": 0}, "n_timesteps=0 must be a whole number >= 1"),
        ({"n_timesteps": 10.5}, "n_timesteps=10.5 must be a whole number >= 1"),
        ({"n_timesteps": float("inf")}, "n_timesteps=inf must be a whole number >= 1"),
        ({"n_timesteps": float("nan")}, "n_timesteps=nan must be a whole number >= 1"),
        ({"n_timesteps": "1e6 steps"}, "must be a whole number >= 1"),
        ({"n_envs": True}, "n_envs=True must be a whole number >= 1"),
        ({"frame_stack": -1}, "frame_stack=-1 must be a whole number >= 1"),
        ({"policy": 3}, "policy=3 must be a name such as MlpPolicy"),
        ({"policy": "nowhere.Policy"}, "policy='nowhere.Policy' cannot be imported"),
        ({"target_kl": -1}, "target_kl=-1 must be"),
        ({"target_kl": "lin_x"}, "target_kl='lin_x' must end in a number, such as lin_0.001"),
        ({"learning_rate": "lin_-1"}, "learning_rate(1.0)=-1.0 must be"),
        ({"learning_rate": "1e-3"}, "learning_rate='1e-3' must be"),
        ({"n_steps": 2.0}, "n_steps=2.0 must be an integer"),
        ({"normalize": "yes please"}, "normalize='yes please' cannot be read"),
        ({"normalize": 1}, "normalize=1 must be true, false, or arguments"),
        ({"normalize": {"norm_ob": True}}, "argument 'norm_ob' is unknown to VecNormalize, did you mean 'norm_obs'?"),
        ({"monitor_kwargs": {"info": 1}}, "argument 'info' is unknown to Monitor"),
        ({"env_kwargs": [1]}, "env_kwargs=[1] must be arguments"),
        ({"policy_kwargs": "dict(a=open('x'))"}, "cannot be read"),
        ({"policy_kwargs": 3}, "policy_kwargs=3 must be a dictionary"),
        ({"radius": "adaptative"}, "radius='adaptative' must be one of"),
        (
            {"action_noise": "pink", "action_noise_kwargs": {"x": 1}},
            "action_noise_kwargs={'x': 1} does not fit PinkNoise",
        ),
        ({"radius": "adaptive", "radius_kwargs": {"x": 1}}, "radius_kwargs={'x': 1} does not fit AdaptiveRadius"),
        ({"critic": "newton"}, "critic='newton' must be one of"),
        ({"rollout_buffer_class": "collections.OrderedDict"}, "must be a subclass of RolloutBuffer"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_built(entry, says):
    message = refusal(check_hyperparams, "trpo", entry, "own.yml, entry X")
    assert message.startswith("own.yml, entry X: ")
    assert says in message


def test_hyperparameters_of_other_algorithms_are_their_own():
    check_hyperparams("ppo", {"clip_range": "lin_0.2", "n_epochs": 4}, "own")
    assert "unknown to ppo" in refusal(check_hyperparams, "ppo", {"target_k": 0.1}, "own")
    check_hyperparams("sb3_contrib:TRPO", {"cg_damping": 0.1}, "own")
    assert "unknown to sb3_contrib:TRPO" in refusal(check_hyperparams, "sb3_contrib:TRPO", {"radius": "fixed"}, "own")


@pytest.mark.parametrize(
    ("algo", "policy", "near"),
    [
        ("trpo", "MlpPolic", "MlpPolicy"),
        ("ppo_lstm", "MlpPolicy", "MlpLstmPolicy"),
        ("ppo_mask", "MlpLstmPolicy", "MlpPolicy"),
        ("trpo_lstm", "MlpPolicy", "MlpLstmPolicy"),
        ("trpo_lstm", "CnnPolicy", "CnnLstmPolicy"),
        ("trpo_mask_lstm", "MultiInputPolicy", "MultiInputLstmPolicy"),
        ("trpo_mask", "MlpLstmPolicy", "MlpPolicy"),
    ],
)
def test_a_policy_that_the_algorithm_does_not_know_is_refused_with_one_that_it_knows(algo, policy, near):
    says = f"own: policy={policy!r} is unknown to {algo}, did you mean {near!r}? (or write module.Class)"
    assert refusal(check_hyperparams, algo, {"policy": policy}, "own") == says
    check_hyperparams(algo, {"policy": near}, "own")
    check_hyperparams(algo, {}, "own")


@pytest.mark.parametrize(
    ("algo", "policy"),
    [
        ("ppo", "MlpPolicy"),
        ("ppo_mask", "MlpPolicy"),
        ("ppo_lstm", "MlpLstmPolicy"),
        ("trpo", "MlpPolicy"),
        ("trpo_mask", "MlpPolicy"),
        ("trpo_lstm", "MlpLstmPolicy"),
        ("trpo_mask_lstm", "MlpLstmPolicy"),
    ],
)
def test_the_policy_where_none_is_named_is_one_for_vectors(algo, policy):
    assert default_policy(algo) == policy


@pytest.mark.parametrize("entry", [{"target_kl": -1}, {"radius": "adaptative"}, {"n_steps": 0}, {"target_k": 1}])
@pytest.mark.parametrize("algo", OURS)
def test_all_of_ours_are_checked_before_anything_is_built(algo, entry):
    assert "own: " in refusal(check_hyperparams, algo, entry, "own")


def test_a_class_that_passes_arguments_on_has_those_of_its_parent(monkeypatch):
    class Patient(PPO):
        def __init__(self, *args, patience=1, **kwargs):
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(sys.modules[__name__], "Patient", Patient, raising=False)
    names = argument_names(f"{__name__}:Patient")
    assert {"patience", "clip_range", "policy"} <= set(names)
    assert not {"args", "kwargs", "self", "env", "seed"} & set(names)


@pytest.mark.parametrize(
    ("algo", "says"),
    [
        ("tpro", "algorithm 'tpro' is unknown, did you mean 'trpo'? (or write module:Class)"),
        ("", "algorithm '' is unknown"),
        (":TRPO", "algorithm ':TRPO' is unknown"),
        ("sb3_trpo:", "algorithm 'sb3_trpo:' is unknown"),
        (".x:Y", "algorithm '.x:Y'"),
        ("no_such_package:X", "No module named 'no_such_package'; install it, or choose another"),
        ("sb3_contrib:TRP", "sb3_contrib has no algorithm 'TRP', did you mean 'TRPO'?"),
        ("collections:OrderedDict", "collections has no algorithm 'OrderedDict'"),
    ],
)
def test_an_unknown_algorithm_is_refused(algo, says):
    assert says in refusal(algorithm_class, algo)


# ---- meanings ----


def test_linear_schedules_fall_to_zero():
    arguments = model_arguments({"learning_rate": "lin_2e-3", "target_kl": "lin_0.04", "gamma": 0.9})
    assert [arguments["learning_rate"](progress) for progress in (1.0, 0.5, 0.0)] == [2e-3, 1e-3, 0.0]
    assert arguments["target_kl"](0.25) == pytest.approx(0.01)
    assert "policy" not in arguments
    assert "n_envs" not in model_arguments({"n_envs": 3, "n_timesteps": 1, "normalize": True})


def test_expressions_and_classes_are_made_objects():
    arguments = model_arguments(
        {
            "policy": "sb3_trpo.algorithms.policies.MlpPolicy",
            "policy_kwargs": "dict(activation_fn=nn.ReLU)",
            "critic_kwargs": "dict(holdout=0.1)",
            "rollout_buffer_class": "stable_baselines3.common.buffers.RolloutBuffer",
        }
    )
    assert arguments == {
        "policy": MlpPolicy,
        "policy_kwargs": {"activation_fn": th.nn.ReLU},
        "critic_kwargs": {"holdout": 0.1},
        "rollout_buffer_class": RolloutBuffer,
    }


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, None),
        ({"normalize": False}, None),
        ({"normalize": None}, None),
        ({"normalize": "False"}, None),
        ({"normalize": True}, {}),
        ({"normalize": {}}, {}),
        ({"normalize": True, "gamma": 0.9}, {"gamma": 0.9}),
        ({"normalize": {"norm_obs": False}, "gamma": 0.9}, {"norm_obs": False, "gamma": 0.9}),
        ({"normalize": {"gamma": 0.5}, "gamma": 0.9}, {"gamma": 0.5}),
        ({"normalize": "dict(norm_obs=True, norm_reward=False)"}, {"norm_obs": True, "norm_reward": False}),
        ({"normalize": "{'norm_obs': False}"}, {"norm_obs": False}),
    ],
)
def test_normalize_has_several_forms_and_the_algorithms_discount(entry, expected):
    assert normalize_kwargs(entry) == expected


def test_dictionaries_are_mappings_or_expressions():
    assert dictionary({"env_kwargs": "dict(a=1)"}, "env_kwargs") == {"a": 1}
    assert dictionary({"env_kwargs": {"a": 1}}, "env_kwargs") == {"a": 1}
    assert dictionary({}, "env_kwargs") == dictionary({"env_kwargs": None}, "env_kwargs") == {}


# ---- shipped files ----


SHIPPED = {
    "trpo": {"default", "atari", "CartPole-v1", "HalfCheetah-v5", "LunarLander-v3"},
    "trpo_mask": {"default", "Taxi-v3", "Taxi-v4"},
    "trpo_lstm": {"default", "atari", "CartPole-v1", "CartPoleNoVel-v1", "PendulumNoVel-v1"},
    "trpo_mask_lstm": {"default", "Taxi-v3", "Taxi-v4"},
}


@pytest.mark.parametrize(("algo", "names"), list(SHIPPED.items()))
def test_every_shipped_entry_can_be_used(algo, names):
    entries = read_entries(hyperparams_file(algo))
    assert names <= set(entries)
    for env_id in entries:
        assert load_hyperparams(algo, env_id)["n_timesteps"] >= 1e4


@pytest.mark.parametrize(
    ("algo", "env_id"),
    [
        ("trpo_mask", toys.TAXI),
        ("trpo_mask_lstm", toys.TAXI),
        *(("trpo_lstm", env_id) for env_id in ("CartPoleNoVel-v1", "PendulumNoVel-v1", "Pendulum-v1")),
    ],
)
def test_shipped_entries_of_the_variants_build_models(algo, env_id):
    model = make_model(algo, env_id, seed=0, device="cpu")
    assert type(model) is algorithm_class(algo)
    model.env.close()


CARRIED_OVER = ("n_timesteps", "normalize", "n_envs", "gamma", "gae_lambda", "use_sde", "sde_sample_freq", "n_steps")
MEMORIES = {  # environment -> that of RL Zoo, and what differs
    "CartPoleNoVel-v1": ("CartPoleNoVel-v1", {"n_steps"}),
    "PendulumNoVel-v1": ("PendulumNoVel-v1", {"use_sde", "sde_sample_freq"}),
    "MountainCarContinuousNoVel-v0": ("MountainCarContinuousNoVel-v0", set()),
    "LunarLanderNoVel-v3": ("LunarLanderNoVel-v2", set()),
}


@pytest.mark.parametrize("env_id", MEMORIES)
def test_entries_with_a_memory_are_rl_zoos_where_they_say_so(env_id):
    theirs_id, differing = MEMORIES[env_id]
    ours = read_entries(hyperparams_file("trpo_lstm"))[env_id]
    theirs = rl_zoo_entries("ppo_lstm")[theirs_id]
    for key in {*CARRIED_OVER} - differing:
        assert ours.get(key) == theirs.get(key), key
    layers = model_arguments(theirs)["policy_kwargs"]
    assert layers.pop("enable_critic_lstm"), "the default"
    assert model_arguments(ours)["policy_kwargs"] == layers


@pytest.mark.parametrize("algo", OURS)
def test_the_shipped_file_says_the_same_to_rl_zoo(algo):
    """RL Zoo reads YAML 1.1, in which 1e6 is a text."""
    path = hyperparams_file(algo)
    assert yaml.safe_load(path.read_text()) == read_entries(path)
    for entry in read_entries(path).values():
        only_there = {key for key, value in entry.items() if isinstance(value, str) and value.startswith("lin_")}
        assert only_there <= {"learning_rate"}


@pytest.mark.parametrize("algo", GRIDS)
def test_the_entries_of_the_benchmarks_can_be_used(algo):
    path = GRIDS[algo]
    assert {"default", "CartPole-v1", "Pendulum-v1", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"} == set(
        read_entries(path)
    )
    for env_id in read_entries(path):
        load_hyperparams(algo, env_id, path)


TRANSLATED = {  # environment -> that of RL Zoo, dimensions of its action (1 for Discrete)
    "Acrobot-v1": ("Acrobot-v1", 1),
    "MountainCar-v0": ("MountainCar-v0", 1),
    "LunarLander-v3": ("LunarLander-v3", 1),
    "MountainCarContinuous-v0": ("MountainCarContinuous-v0", 1),
    "LunarLanderContinuous-v3": ("LunarLanderContinuous-v3", 2),
    "BipedalWalker-v3": ("BipedalWalker-v3", 4),
    "BipedalWalkerHardcore-v3": ("BipedalWalkerHardcore-v3", 4),
    "Swimmer-v5": ("Swimmer-v4", 2),
    "Humanoid-v5": ("Humanoid-v4", 17),
    "Reacher-v5": ("ReacherBulletEnv-v0", 2),
    "InvertedPendulum-v5": ("Ant-v4", 1),
    "InvertedDoublePendulum-v5": ("Ant-v4", 1),
    "Pusher-v5": ("Ant-v4", 7),
}
DEFAULTS = {"learning_rate": 1e-3, "gamma": 0.99, "gae_lambda": 0.95, "batch_size": 128, "sub_sampling_factor": 1}
RADIUS = {"target_kl": 0.01, "cg_damping": 0.1}


def rl_zoo_entries(algo):
    import importlib.util

    folder = Path(importlib.util.find_spec("rl_zoo3").origin).parent / "hyperparams"
    return yaml.safe_load((folder / f"{algo}.yml").read_text())


@pytest.mark.parametrize("env_id", TRANSLATED)
def test_translated_entries_are_rl_zoos_for_the_joint_action(env_id):
    theirs_id, n_actions = TRANSLATED[env_id]
    theirs = model_arguments({**DEFAULTS, **RADIUS, **rl_zoo_entries("trpo")[theirs_id]})
    ours_entry = load_hyperparams("trpo", env_id)
    ours = model_arguments({**DEFAULTS, **RADIUS, **ours_entry})
    for key in RADIUS:
        assert ours.pop(key) == pytest.approx(n_actions * theirs.pop(key))
    assert ours == theirs
    for key in ("n_timesteps", "n_envs", "normalize"):
        assert ours_entry.get(key) == rl_zoo_entries("trpo")[theirs_id].get(key)


@pytest.mark.parametrize(("algo", "name"), [("sb3_contrib:TRPO", "trpo"), ("ppo", "ppo")])
def test_the_entries_of_the_benchmarks_are_rl_zoos(algo, name):
    theirs = rl_zoo_entries(name)
    for env_id, entry in read_entries(GRIDS[algo]).items():
        expected = theirs[env_id.replace("-v5", "-v4")]
        assert model_arguments(entry).keys() == model_arguments(expected).keys()
        assert plain(entry) == plain(expected)


def test_the_file_is_found_in_a_checkout_and_in_an_installed_package(tmp_path, monkeypatch):
    assert hyperparams_file("trpo") == ROOT / "hyperparams" / "trpo.yml"
    package = tmp_path / "sb3_trpo"
    (package / "hyperparams").mkdir(parents=True)
    shutil.copy(ROOT / "hyperparams" / "trpo.yml", package / "hyperparams")
    (package / "zoo").mkdir()
    monkeypatch.setattr(module, "__file__", str(package / "zoo" / "hyperparams.py"))
    assert hyperparams_file("trpo") == package / "hyperparams" / "trpo.yml"
    assert refusal(hyperparams_file, "ppo") == (
        "no hyperparameters are shipped for 'ppo', only for trpo, trpo_mask, trpo_lstm, trpo_mask_lstm: give a file"
    )


# ---- writing ----


@pytest.mark.parametrize("env_id", ["CartPole-v1", "HalfCheetah-v5", "Reacher-v5", "atari"])
def test_a_written_entry_is_read_again(file, env_id):
    entry = load_hyperparams("trpo", env_id)
    again = load_hyperparams("trpo", env_id, file(format_entry(env_id, entry)))
    assert normalize_kwargs(again) == normalize_kwargs(entry)
    ours, theirs = model_arguments(again), model_arguments(entry)
    assert float_schedules(ours) == float_schedules(theirs)
    assert {key: again[key] for key in again if key in module.ENVIRONMENT_KEYS} == plain(
        {key: entry[key] for key in entry if key in module.ENVIRONMENT_KEYS}
    )


def float_schedules(arguments):
    return {key: value(1.0) if isinstance(value, LinearSchedule) else value for key, value in arguments.items()}


def test_objects_are_written_as_what_stands_for_them(file):
    entry = {
        "policy": MlpPolicy,
        "n_timesteps": 1e6,
        "n_steps": np.int64(64),
        "gamma": np.float64(0.9),
        "use_sde": np.bool_(False),
        "learning_rate": LinearSchedule(np.float64(1e-5), 0.0, 1.0),
        "target_kl": 1e-5,
        "policy_kwargs": {"activation_fn": th.nn.ReLU, "net_arch": {"pi": [64], "vf": (64,)}},
        "rollout_buffer_class": RolloutBuffer,
        "env_kwargs": {"gravity": np.float32(0.5), "shape": (2, 3)},
        "normalize": {"norm_obs": True, "clip_obs": float("inf")},
        "env_wrapper": ["gymnasium.wrappers.FlattenObservation"],
        "max_grad_norm": None,
    }
    text = format_entry("X-v0", entry)
    assert plain(entry)["learning_rate"] == "lin_1e-05"
    assert plain(entry)["policy"] == "sb3_trpo.algorithms.policies.MlpPolicy"
    assert plain(entry)["env_kwargs"] == {"gravity": 0.5, "shape": [2, 3]}
    assert yaml.safe_load(text)["X-v0"] == plain(entry), "RL Zoo reads the same"
    again = model_arguments(load_hyperparams("trpo", "X-v0", file(text)))
    assert again.pop("learning_rate")(1.0) == 1e-5
    assert again == {key: value for key, value in model_arguments(entry).items() if key != "learning_rate"}


def test_texts_that_look_like_numbers_stay_texts(file):
    entry = {"env_kwargs": {"name": "1e6", "other": "0x10", "third": "yes"}}
    assert load_hyperparams("trpo", "X-v0", file(format_entry("X-v0", entry))) == entry


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_kl", lambda progress: progress),
        ("learning_rate", LinearSchedule(1e-3, 1e-4, 1.0)),
        ("env_kwargs", {"model": object()}),
        ("policy_kwargs", {"a": object()}),
        ("gamma", np.zeros(3)),
    ],
)
def test_what_cannot_stand_in_a_file_is_refused(key, value):
    assert "hyperparameter file" in refusal(format_entry, "X-v0", {key: value})


def test_reading_files_loads_no_torch():
    code = (
        "import sys; from sb3_trpo.zoo import algorithms, errors, hyperparams; "
        "hyperparams.read_entries(hyperparams.hyperparams_file('trpo')); hyperparams.parse_override('a=1'); "
        "print([name for name in ('torch', 'stable_baselines3', 'gymnasium') if name in sys.modules])"
    )
    package = (
        "import sys, types; p = types.ModuleType('sb3_trpo'); p.__path__ = [sys.argv[1]]; sys.modules['sb3_trpo'] = p;"
    )
    path = str(Path(sb3_trpo.__file__).parent)
    output = subprocess.run([sys.executable, "-c", package + code, path], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_arguments_of_the_environment_are_written_as_rl_zoo_reads_them():
    """It evaluates the text of ``policy_kwargs``, and not that of ``env_kwargs``."""
    texts = {"env_kwargs": "dict(gravity=9.8, mode='easy')", "policy_kwargs": "dict(net_arch=[8])"}
    assert plain(texts) == {**texts, "env_kwargs": {"gravity": 9.8, "mode": "easy"}}


def test_files_know_the_slots_of_the_algorithms():
    assert tuple(slots.SLOTS) == SLOTS
