"""The JSON schema is what the code says, accepts the shipped files and marks what is misspelt."""

import json
from pathlib import Path

import jsonschema
import pytest

from sb3_trpo.zoo.algorithms import OURS, argument_names, default_policy
from sb3_trpo.zoo.hyperparams import ENVIRONMENT_KEYS, hyperparams_file, read_entries
from sb3_trpo.zoo.schema import ENVIRONMENT, hyperparams_schema, main, schema_name, schema_text

FOLDER = Path(__file__).parent.parent.parent / "hyperparams"
VALIDATOR = jsonschema.Draft202012Validator(json.loads((FOLDER / "trpo.schema.json").read_text()))


@pytest.mark.parametrize("algo", OURS)
def test_the_shipped_schema_is_generated(algo):
    shipped = (FOLDER / schema_name(algo)).read_text(encoding="utf-8")
    assert shipped == schema_text(algo), "run `python -m sb3_trpo.zoo.schema hyperparams`"


@pytest.mark.parametrize("algo", OURS)
def test_it_is_a_schema_that_knows_every_key_and_its_meaning(algo):
    jsonschema.Draft202012Validator.check_schema(hyperparams_schema(algo))
    properties = hyperparams_schema(algo)["$defs"]["entry"]["properties"]
    assert set(properties) == {*argument_names(algo), *ENVIRONMENT_KEYS}
    assert set(ENVIRONMENT) == set(ENVIRONMENT_KEYS)
    for name, schema in properties.items():
        assert len(schema["description"]) > 8, name
    assert properties["target_kl"]["default"] == 0.01
    assert properties["gamma"]["maximum"] == 1
    assert properties["n_steps"]["minimum"] == 1
    assert default_policy(algo) in properties["policy"]["anyOf"][0]["enum"]


@pytest.mark.parametrize("algo", OURS)
def test_shipped_files_are_valid_and_name_it(algo):
    path = hyperparams_file(algo)
    assert path.read_text().splitlines()[0] == f"# yaml-language-server: $schema={schema_name(algo)}"
    schema = json.loads((path.parent / schema_name(algo)).read_text())
    jsonschema.Draft202012Validator(schema).validate(read_entries(path))


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"n_timesteps": 1e6, "n_envs": 8, "frame_stack": 4, "normalize": True},
        {"normalize": {"norm_obs": False}, "env_kwargs": {"a": 1}, "monitor_kwargs": "dict()"},
        {"learning_rate": 1e-3, "target_kl": "lin_0.02", "cg_damping": "lin_1e-1", "max_grad_norm": None},
        {"policy": "CnnPolicy", "radius": "adaptive", "critic": "gauss_newton", "cg_preconditioner": "kronecker"},
        {"policy": "own.module.Policy", "rollout_buffer_class": "own.module.Buffer", "radius": "own.Radius"},
        {"policy_kwargs": "dict(net_arch=[64])", "critic_kwargs": {"holdout": 0.1}},
        {"action_noise": "colored", "action_noise_kwargs": {"beta": 0.3}},
        {"action_noise": None},
        {"env_wrapper": "a.B"},
        {"env_wrapper": ["a.B", {"c.D": {"skip": 2}}], "callback": {"a.B": {"x": 1}}},
    ],
)
def test_what_can_be_used_is_valid(entry):
    VALIDATOR.validate({"default": entry})


@pytest.mark.parametrize(
    "entry",
    [
        {"target_kls": 0.1},
        {"clip_range": 0.2},
        {"seed": 1},
        {"n_timesteps": 0},
        {"n_timesteps": "1e6"},
        {"n_envs": 1.5},
        {"n_steps": 0},
        {"n_steps": "many"},
        {"gamma": 1.5},
        {"line_search_shrinking_factor": 1},
        {"learning_rate": "constant"},
        {"learning_rate": -1},
        {"target_kl": 0},
        {"policy": "Mlp"},
        {"radius": "adaptiv"},
        {"use_sde": 3},
        {"normalize": 3},
        {"env_wrapper": {"a.B": {}, "c.D": {}}},
        None,
        [],
    ],
)
def test_what_cannot_be_used_is_not(entry):
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate({"default": entry})


def test_the_command_writes_them(tmp_path):
    assert main([str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(map(schema_name, OURS))
    assert (tmp_path / "trpo.schema.json").read_text(encoding="utf-8") == schema_text("trpo")


def test_the_command_prints_that_of_trpo(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out == schema_text()
