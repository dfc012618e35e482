"""Grids: what they make, what they refuse, and when two configurations are one."""

from pathlib import Path

import pytest
import yaml

from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.grid import config_hash, read_grid
from sb3_trpo.zoo.hyperparams import load_hyperparams

GRID = {
    "environments": ["CartPole-v1", "Pendulum-v1"],
    "seeds": 2,
    "n_timesteps": 1e3,
    "contestants": {
        "sb3_trpo": {"algo": "trpo"},
        "PPO": {"algo": "ppo", "hyperparams": "ppo.yml", "overrides": {"n_steps": 512}},
    },
}
PPO = {"default": {"n_timesteps": 5e4, "n_steps": 64, "gamma": 0.9}, "CartPole-v1": {"n_timesteps": 1e5, "n_steps": 32}}


def write(folder, **changes):
    """A grid file with what it names; a change to None leaves a key out."""
    (folder / "ppo.yml").write_text(yaml.safe_dump(PPO))
    grid = {key: value for key, value in {**GRID, **changes}.items() if value is not None}
    path = folder / "grid.yml"
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    return path


def test_a_grid_makes_every_run(tmp_path):
    grid = read_grid(write(tmp_path))
    assert grid.environments == ("CartPole-v1", "Pendulum-v1")
    assert grid.contestants == ("sb3_trpo", "PPO")
    assert grid.seeds == (0, 1)
    assert len(grid.runs) == len({run.key for run in grid.runs}) == 8
    assert sorted(grid.keys) == sorted(run.key for run in grid.runs)
    run = next(run for run in grid.runs if run.key == ("Pendulum-v1", "PPO", 1))
    assert (run.algo, run.n_timesteps, run.eval_freq, run.n_eval_episodes) == ("ppo", 1000, 50, 20)
    assert run.hyperparams == {"n_steps": 512, "gamma": 0.9}
    ours = next(run for run in grid.runs if run.key == ("Pendulum-v1", "sb3_trpo", 0))
    shipped = load_hyperparams("trpo", "Pendulum-v1")
    assert ours.hyperparams == {key: value for key, value in shipped.items() if key != "n_timesteps"}


def test_contestants_of_one_seed_run_side_by_side(tmp_path):
    order = [run.key for run in read_grid(write(tmp_path)).runs]
    assert order[:4] == [
        ("CartPole-v1", "sb3_trpo", 0),
        ("CartPole-v1", "PPO", 0),
        ("Pendulum-v1", "sb3_trpo", 0),
        ("Pendulum-v1", "PPO", 0),
    ]
    assert [seed for _, _, seed in order] == [0] * 4 + [1] * 4


def test_settings_of_an_environment_go_first(tmp_path):
    environments = {"CartPole-v1": {"n_timesteps": 2e3, "eval_freq": 0}, "Pendulum-v1": None}
    runs = read_grid(write(tmp_path, environments=environments, seeds=[7], eval_freq=10, n_eval_episodes=3)).runs
    seen = {(run.env, run.n_timesteps, run.eval_freq, run.n_eval_episodes, run.seed) for run in runs}
    assert seen == {("CartPole-v1", 2000, 0, 3, 7), ("Pendulum-v1", 1000, 10, 3, 7)}


def test_steps_of_the_entries_are_taken_where_they_agree(tmp_path):
    path = write(tmp_path, environments=["CartPole-v1"], n_timesteps=None)
    (run, *_) = read_grid(path).runs
    assert (run.n_timesteps, run.eval_freq) == (100_000, 5000)
    with pytest.raises(UsageError, match=r"Pendulum-v1 have different n_timesteps \('sb3_trpo' 100000, 'PPO' 50000\)"):
        read_grid(write(tmp_path, n_timesteps=None))
    (tmp_path / "bare.yml").write_text("default: {n_steps: 8}")
    bare = {"sb3_trpo": {"algo": "trpo"}, "bare": {"algo": "ppo", "hyperparams": "bare.yml"}}
    with pytest.raises(UsageError, match="nor has the entry of 'bare'"):
        read_grid(write(tmp_path, n_timesteps=None, contestants=bare))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seedz": 3}, "'seedz' is unknown, did you mean 'seeds'?"),
        ({"seeds": None}, "has no seeds"),
        ({"environments": None}, "has no environments"),
        ({"contestants": None}, "has no contestants"),
        ({"seeds": 0}, "seeds=0 must be a whole number in [1, 10000]"),
        ({"seeds": True}, "seeds=True"),
        ({"seeds": "five"}, "seeds='five'"),
        ({"seeds": []}, "seeds=[] must"),
        ({"seeds": [1, 1]}, "seeds=[1, 1] must be a number of seeds, or a list of different ones"),
        ({"seeds": [-1]}, "seeds=-1"),
        ({"n_timesteps": 0.5}, "n_timesteps=0.5 must be a whole number >= 1"),
        ({"eval_freq": -1}, "eval_freq=-1"),
        ({"n_eval_episodes": 0}, "n_eval_episodes=0"),
        ({"environments": "CartPole-v1"}, "environments='CartPole-v1' must be a list"),
        ({"environments": []}, "environments=[] must"),
        ({"environments": ["CartPole-v1"] * 2}, "name each environment once"),
        (
            {"environments": ["CartPole-v1", "Cartpole-v1"]},
            "'Cartpole-v1' is not registered, did you mean 'CartPole-v1'?",
        ),
        ({"environments": {"CartPole-v1": 3}}, "environments: CartPole-v1=3 must be settings"),
        ({"environments": {"CartPole-v1": {"n_timestep": 3}}}, "'n_timestep' is unknown, did you mean 'n_timesteps'?"),
        ({"environments": {"CartPole-v1": {"n_timesteps": "a"}}}, "CartPole-v1: n_timesteps='a'"),
        ({"contestants": []}, "contestants=[] must map labels"),
        ({"contestants": {"x": "trpo"}}, "contestants: x='trpo' must have an algorithm"),
        ({"contestants": {"x": {"hyperparams": "ppo.yml"}}}, "must have an algorithm"),
        ({"contestants": {"x": {"algo": "trpo", "override": {}}}}, "'override' is unknown, did you mean 'overrides'?"),
        (
            {"contestants": {"x": {"algo": "trpo", "hyperparams": {"n_steps": 3}}}},
            "be a file; single values: overrides",
        ),
        ({"contestants": {"x": {"algo": "trpo", "overrides": "n_steps: 3"}}}, "overrides='n_steps: 3' must"),
        ({"contestants": {"x": {"algo": "trpoo"}}}, "contestant 'x' in CartPole-v1: "),
        ({"contestants": {"x": {"algo": "trpo", "overrides": {"n_stepz": 3}}}}, "did you mean 'n_steps'?"),
        ({"contestants": {"x": {"algo": "trpo", "overrides": {"target_kl": -1}}}}, "target_kl"),
        ({"contestants": {"x": {"algo": "ppo"}}}, "no hyperparameters are shipped for 'ppo'"),
        ({"contestants": {"x": {"algo": "ppo", "hyperparams": "nowhere.yml"}}}, "nowhere.yml cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, changes, words):
    with pytest.raises(UsageError) as refusal:
        read_grid(write(tmp_path, **changes))
    text = str(refusal.value)
    assert words in text
    assert text.startswith(str(tmp_path / "grid.yml"))
    assert "\n" not in text


@pytest.mark.parametrize("text", ["", "[1, 2]", "just words", "a: b: c", "x: !!python/object:os.system {}"])
def test_a_file_that_holds_no_grid_is_refused(tmp_path, text):
    path = tmp_path / "grid.yml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"grid\.yml"):
        read_grid(path)


def test_a_file_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="cannot be read"):
        read_grid(Path("nowhere") / "grid.yml")


BASE = {"n_steps": 64, "policy_kwargs": {"net_arch": [64, 64], "log_std_init": -0.5}, "learning_rate": 1e-3}


def hashed(algo="trpo", hyperparams=BASE, n_timesteps=1000, eval_freq=100, n_episodes=5):
    return config_hash(algo, hyperparams, n_timesteps, eval_freq, n_episodes)


def test_the_hash_stays_what_it_is():
    """Or benchmarks that are under way would begin anew."""
    assert hashed() == "be4fad6c58e2"


@pytest.mark.parametrize(
    "same",
    [
        {"algo": "sb3_trpo:TRPO"},
        {"hyperparams": {**BASE, "n_timesteps": 5}},
        {"hyperparams": {**BASE, "n_steps": 64.0}},
        {"hyperparams": dict(reversed(BASE.items()))},
        {"hyperparams": {**BASE, "policy_kwargs": "dict(log_std_init=-0.5, net_arch=[64,64])"}},
    ],
)
def test_the_same_configuration_has_the_same_hash(same):
    assert hashed(**same) == hashed()


def test_what_decides_the_result_decides_the_hash():
    changes = [
        {},
        {"algo": "sb3_contrib:TRPO"},
        {"n_timesteps": 1001},
        {"eval_freq": 101},
        {"n_episodes": 6},
        {"hyperparams": {**BASE, "n_steps": 65}},
        {"hyperparams": {**BASE, "gamma": 0.99}},
        {"hyperparams": {**BASE, "policy_kwargs": {"net_arch": [64, 64], "log_std_init": -0.6}}},
        {"hyperparams": {**BASE, "policy_kwargs": "dict(net_arch=[64, 64], activation_fn=nn.ReLU)"}},
        {"hyperparams": {**BASE, "policy_kwargs": "dict(net_arch=[64, 64], activation_fn=nn.Tanh)"}},
    ]
    assert len({hashed(**change) for change in changes}) == len(changes)


def test_labels_seeds_and_environments_do_not_change_the_hash(tmp_path):
    contestants = {"one": GRID["contestants"]["PPO"], "other": GRID["contestants"]["PPO"]}
    runs = read_grid(write(tmp_path, contestants=contestants)).runs
    in_cart_pole = {run.config_hash for run in runs if run.env == "CartPole-v1"}
    assert len(in_cart_pole) == 1
