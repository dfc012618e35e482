"""RL Zoo trains, searches and plays with our algorithm; it runs in processes of its own, for it patches Gymnasium."""

import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml

from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.hyperparams import hyperparams_file
from sb3_trpo.zoo.rl_zoo import _with_our_defaults, main, register

OURS = ["-conf", str(hyperparams_file("trpo"))]
CARTPOLE = ["--env", "CartPole-v1"]


def run(folder, *words):
    """``python -m sb3_trpo.zoo`` in an empty folder."""
    command = [sys.executable, "-m", "sb3_trpo.zoo", *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def done(folder, *words):
    finished = run(folder, *words)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


# ---- what is added to the command line ----


@pytest.mark.parametrize(
    ("given", "added"),
    [
        (CARTPOLE, ["--algo", "trpo", *OURS]),
        (["--algo", "trpo", *CARTPOLE], OURS),
        (["--algo=trpo", *CARTPOLE], OURS),
        (["--alg", "trpo"], OURS),
        (["--algo", "ppo", *CARTPOLE], []),
        (["--algo", "trpo_lstm", *CARTPOLE], ["-conf", str(hyperparams_file("trpo_lstm"))]),
        (["--algo", "trpo", "-conf", "own.yml"], []),
        (["--algo", "trpo", "--conf-file=own.yml"], []),
        (["--algo", "trpo", "--conf", "own.py"], []),
        (["-conf", "own.yml"], ["--algo", "trpo"]),
        (["-params", "n_envs:2", "gamma:0.9", "--algo", "trpo"], OURS),
        (["-h"], ["--algo", "trpo", *OURS]),
        (["--trial-id", "3"], ["--algo", "trpo", *OURS]),
        (["--trial-id", "-3"], ["--algo", "trpo", *OURS]),
    ],
)
def test_algorithm_and_file_are_ours_where_none_is_given(given, added):
    assert _with_our_defaults("train", given) == [*added, *given]


def test_to_play_the_algorithm_is_ours_where_none_is_given():
    assert _with_our_defaults("enjoy", CARTPOLE) == ["--algo", "trpo", *CARTPOLE]
    assert _with_our_defaults("enjoy", ["--algo", "ppo"]) == ["--algo", "ppo"]


def test_a_trial_that_rl_zoo_would_ignore_is_refused():
    with pytest.raises(UsageError, match="--trial-id 0 means no trial to RL Zoo"):
        _with_our_defaults("train", ["--trial-id", "0"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "error: command 'trian' is unknown, did you mean 'train'?"),
        (["plot"], "error: command 'plot' is unknown: choose from enjoy, train"),
        (["--algo"], "error: argument --algo: expected one argument"),
        (["train", "--trial-id", "x"], "error: argument --trial-id: invalid int value: 'x'"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(words, says, capsys):
    before = list(sys.argv)
    assert main(words) == 2
    assert capsys.readouterr().err == says + "\n"
    assert sys.argv == before


def test_without_rl_zoo_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    with pytest.raises(UsageError, match=r"RL Zoo cannot be used \(.*\): pip install 'sb3-trpo\[zoo\]'"):
        register()
    assert main(CARTPOLE) == 2
    assert "pip install 'sb3-trpo[zoo]'" in capsys.readouterr().err


def test_rl_zoo_is_not_imported_before_it_is_asked_for():
    code = "import sys, sb3_trpo.zoo.rl_zoo; print('rl_zoo3' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


# ---- RL Zoo itself ----

REGISTER_TWICE = """
import sys
import rl_zoo3.train, rl_zoo3.exp_manager
from rl_zoo3 import ALGOS
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
import sb3_trpo
from sb3_trpo.zoo.algorithms import OURS, algorithm_class
from sb3_trpo.zoo.rl_zoo import register

others = {name: cls for name, cls in ALGOS.items() if name not in OURS}
register()
register()
assert ALGOS["trpo"] is sb3_trpo.TRPO
assert {name: cls for name, cls in ALGOS.items() if name not in OURS} == others
assert {name: ALGOS[name] for name in OURS} == {name: algorithm_class(name) for name in OURS}
for module in (rl_zoo3.train, rl_zoo3.exp_manager):
    assert module.ALGOS is ALGOS, module
assert rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER is HYPERPARAMS_SAMPLER
for name in OURS:
    assert HYPERPARAMS_SAMPLER[name].__module__ == "sb3_trpo.zoo.rl_zoo"
    assert HYPERPARAMS_CONVERTER[name].__module__ == "sb3_trpo.zoo.spaces"
assert "rl_zoo3.cli" not in sys.modules and "rl_zoo3.plots" not in sys.modules
"""


def test_registering_twice_is_registering_once():
    finished = subprocess.run([sys.executable, "-c", REGISTER_TWICE], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_rl_zoo_trains_with_our_hyperparameters(tmp_path):
    output = done(tmp_path, "--algo", "trpo", *CARTPOLE, "-n", 512, "--seed", 1, "--eval-freq", -1)
    assert f"Loading hyperparameters from: {OURS[1]}" in output
    folder = tmp_path / "logs" / "trpo" / "CartPole-v1_1"
    assert (folder / "CartPole-v1.zip").is_file()
    saved = (folder / "CartPole-v1" / "config.yml").read_text()
    assert "lin_" in saved
    assert "target_kl" in saved


@pytest.mark.slow
def test_rl_zoo_searches_our_space_trains_the_trial_and_plays(tmp_path):
    study = ["--storage", "logs/study.log", "--study-name", "s"]
    search = ["-optimize", "--n-trials", 2, "--n-evaluations", 2, "--eval-episodes", 1, "--no-optim-plots"]
    output = done(tmp_path, "train", *CARTPOLE, "-n", 512, "--seed", 1, *study, *search)
    assert "Best trial" in output
    storage = optuna.storages.journal.JournalFileBackend(str(tmp_path / "logs" / "study.log"))
    trials = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(storage)).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    assert {"rollout_pow", "target_kl", "cg_damping", "n_envs"} <= set(trials[1].params)
    assert "log_std_init" not in trials[1].params

    output = done(tmp_path, "train", *CARTPOLE, "-n", 512, "--eval-freq", 256, "--seed", 1, *study, "--trial-id", 1)
    assert "Loading from Optuna" in output
    folder = tmp_path / "logs" / "trpo" / "CartPole-v1_2"  # the first is the empty one of the search
    saved = dict(yaml.load((folder / "CartPole-v1" / "config.yml").read_text(), Loader=yaml.UnsafeLoader))
    assert saved["target_kl"] == float(f"{trials[1].params['target_kl']:.3g}")
    assert saved["n_steps"] * saved["n_envs"] == 2 ** trials[1].params["rollout_pow"]

    output = done(tmp_path, "enjoy", *CARTPOLE, "-f", "logs", "--no-render", "-n", 600)
    assert "Mean reward" in output


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["trpo_lstm"])
def test_rl_zoo_trains_and_plays_with_a_memory(tmp_path, algo):
    no_velocity = ["--algo", algo, "--env", "CartPoleNoVel-v1"]
    output = done(tmp_path, "train", *no_velocity, "-n", 512, "--seed", 1, "--eval-freq", 256, "--eval-episodes", 1)
    assert str(hyperparams_file(algo)) in output
    output = done(tmp_path, "enjoy", *no_velocity, "-f", "logs", "--no-render", "-n", 600)
    assert "Mean reward" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("normalize", "policy_kwargs"),
    [
        ("true", "{log_std_init: -0.5}"),
        ("{norm_obs: true, norm_reward: false}", '"dict(log_std_init=-0.5, activation_fn=nn.ReLU)"'),
        ('"dict(norm_obs=True, norm_reward=False)"', "{net_arch: {pi: [8], vf: [8]}}"),
    ],
)
def test_rl_zoo_reads_every_form_that_we_read(tmp_path, normalize, policy_kwargs):
    (tmp_path / "own.yml").write_text(
        f"Pendulum-v1: {{n_timesteps: 512, n_envs: 2, n_steps: 64, learning_rate: lin_1e-3, gamma: 0.9,\n"
        f"  policy: MlpPolicy, normalize: {normalize}, policy_kwargs: {policy_kwargs}}}\n"
    )
    pendulum = ["--env", "Pendulum-v1"]
    done(tmp_path, "train", *pendulum, "-conf", "own.yml", "--eval-freq", 256, "--eval-episodes", 1)
    assert (tmp_path / "logs/trpo/Pendulum-v1_1/Pendulum-v1/vecnormalize.pkl").is_file()
    output = done(tmp_path, "enjoy", *pendulum, "-f", "logs", "--no-render", "-n", 250, "--load-best")
    assert "Loading running average" in output
    assert "Mean reward" in output


@pytest.mark.slow
def test_rl_zoo_trains_halfcheetah_with_the_shipped_entry(tmp_path):
    pytest.importorskip("mujoco")
    halfcheetah = ["--env", "HalfCheetah-v5"]
    done(tmp_path, *halfcheetah, "-n", 1024, "--eval-freq", -1, "--vec-env", "subproc")
    output = done(tmp_path, "enjoy", *halfcheetah, "-f", "logs", "--no-render", "-n", 1000)
    assert "Loading running average" in output


@pytest.mark.slow
def test_rl_zoo_goes_on_with_a_model(tmp_path):
    done(tmp_path, *CARTPOLE, "-n", 512, "--eval-freq", -1)
    model = Path("logs/trpo/CartPole-v1_1/CartPole-v1.zip")
    output = done(tmp_path, *CARTPOLE, "-n", 512, "--eval-freq", -1, "-i", model)
    assert "Loading pretrained agent" in output
    assert (tmp_path / "logs/trpo/CartPole-v1_2/CartPole-v1.zip").is_file()


@pytest.mark.slow
def test_other_algorithms_are_rl_zoos_own(tmp_path):
    output = done(tmp_path, "--algo", "ppo", *CARTPOLE, "-n", 256, "--eval-freq", -1)
    assert "rl_zoo3/hyperparams/ppo.yml" in output


@pytest.mark.slow
def test_rl_zoo_reads_the_runs_that_our_command_line_leaves(tmp_path):
    """Its ``enjoy`` the models and their statistics, its plots the episodes and the evaluations."""
    options = ["-n", "2048", "-P", "n_steps=128", "--seed", "0", "--eval-episodes", "3", "-f", "logs"]
    command = ["train", "--env", "Pendulum-v1", *options]
    subprocess.run([sys.executable, "-m", "sb3_trpo", *command], cwd=tmp_path, check=True, capture_output=True)
    for model in ([], ["--load-best"], ["--load-last-checkpoint"]):
        played = done(tmp_path, "enjoy", "--env", "Pendulum-v1", "-f", "logs", "--no-render", "-n", "450", *model)
        assert "Mean reward: -" in played
        assert "2 Episodes" in played

    def plotted(name, *words):
        code = f"from rl_zoo3.plots.{name} import {name}; {name}()"
        command = [sys.executable, "-W", "ignore", "-c", code, "-a", "trpo", "-e", "Pendulum-v1", "-f", "logs", *words]
        environment = {**os.environ, "MPLBACKEND": "Agg"}
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    assert "|Pendulum-v1 |" in plotted("all_plots", "-o", "results", "--no-million")
    plotted("plot_train", "-w", "2")
