"""The command line: what it refuses, what it shows, and that it starts before torch is loaded."""

import json
import subprocess
import sys

import pytest

from sb3_trpo.zoo.cli import app, main

COMMANDS = ["train", "enjoy", "evaluate", "list", "tune", "benchmark", "plot", "report"]


@pytest.fixture
def run(capsys):
    """Run the command line; exit code, output and complaints."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_every_command_has_help_with_examples(run):
    assert [command.name or command.callback.__name__ for command in app.registered_commands] == COMMANDS
    for command in COMMANDS:
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "Example" in out
        assert f"sb3-trpo {command}" in out
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


REFUSALS = [
    (["trian"], "command 'trian' is unknown, did you mean 'train'?"),
    (["train"], "give an environment to train in (--env ID)"),
    (["train", "--env", "CartPole-v1", "--resume", "x"], "give an environment to train in (--env ID)"),
    (["train", "--evn", "CartPole-v1"], "No such option: --evn"),
    (["train", "--env", "CartPole-v1", "--seed", "one"], "--seed='one': Input should be a valid integer"),
    (["train", "--env", "CartPol-v1"], "environment 'CartPol-v1' is not registered, did you mean 'CartPole-v1'?"),
    (["train", "--env", "CartPole-v1", "-P", "target_k=1"], "'target_k' is unknown to trpo, did you mean 'target_kl'?"),
    (["train", "--env", "CartPole-v1", "-P", "target_kl=-1"], "target_kl=-1 must be a finite number > 0"),
    (["train", "--env", "CartPole-v1", "-P", "target_kl"], "'target_kl' must be written key=value"),
    (["train", "--env", "CartPole-v1", "--algo", "tpro"], "algorithm 'tpro' is unknown, did you mean 'trpo'?"),
    (["train", "--env", "CartPole-v1", "--algo", "sb3_contrib:TRPOO"], "did you mean 'TRPO'?"),
    (
        ["train", "--env", "CartPole-v1", "--algo", "trpo_lst"],
        "algorithm 'trpo_lst' is unknown, did you mean 'trpo_lstm'?",
    ),
    (["train", "--env", "CartPole-v1", "--algo", "ppo_lstm"], "no hyperparameters are shipped for 'ppo_lstm'"),
    (
        ["train", "--env", "CartPole-v1", "--algo", "ppo_mask", "--hyperparams", "ppo.yml"],
        "ppo_mask cannot be built for CartPole-v1: MaskablePPO needs an environment with a method action_masks(): set",
    ),
    (
        ["train", "--env", "CartPole-v1", "--algo", "ppo_lstm", "--hyperparams", "ppo.yml"],
        "policy='MlpPolicy' is unknown to ppo_lstm, did you mean 'MlpLstmPolicy'?",
    ),
    (["train", "--env", "CartPoleNoVel-v2"], "is not registered, did you mean 'CartPoleNoVel-v1'?"),
    (["train", "--env", "CartPole-v1", "--vec-env", "dumy"], "vec_env='dumy' is unknown, did you mean 'dummy'?"),
    (["train", "--env", "CartPole-v1", "--n-timesteps", "0"], "n_timesteps=0.0 must be a whole number >= 1"),
    (["train", "--env", "CartPole-v1", "--n-seeds", "0"], "--n-seeds=0 must be a whole number >= 1"),
    (["train", "--env", "CartPole-v1", "--eval-episodes", "0"], "n_eval_episodes=0 must be a whole number >= 1"),
    (["train", "--env", "CartPole-v1", "--save-freq", "-1"], "save_freq=-1.0 must be a whole number >= 0"),
    (["train", "--env", "CartPole-v1", "--device", "gpu"], "gpu"),
    (["train", "--env", "CartPole-v1", "--num-threads", "0"], "--num-threads=0 must be a whole number >= 1"),
    (["train", "--env", "CartPole-v1", "--gym-packages", "no_such_module"], "No module named 'no_such_module'"),
    (["train", "--env", "CartPole-v1", "--hyperparams", "none.yml"], "none.yml cannot be read: No such file"),
    (["train", "--env", "CartPole-v1", "--hyperparams", "tag.yml"], "tag.yml is no YAML of plain values"),
    (["train", "--resume", "runs/trpo/CartPole-v1_7"], "run 'runs/trpo/CartPole-v1_7' does not exist"),
    (["enjoy", "CartPole-v1"], "run 'CartPole-v1' does not exist"),
    (["enjoy", "."], "is no run folder"),
    (["evaluate", "CartPole-v1", "--episodes", "0"], "episodes=0 must be a whole number >= 1"),
    (["enjoy", "CartPole-v1", "--video", "film.txt"], "video='film.txt' must end in .mp4"),
    (["train", "--env", "CartPole-v1", "-n", "nan"], "n_timesteps=nan must be a whole number >= 1"),
    (["train", "--env", "CartPole-v1", "--eval-freq", "inf"], "eval_freq=inf must be a whole number >= 0"),
    (["train", "--resume", "x", "-P", "gamma=0.5"], "--param cannot be changed when a run goes on"),
    (["train", "--resume", "x", "--seed", "1"], "--seed cannot be changed when a run goes on"),
    (["tune", "--env", "Pendulum-v1", "-n", "nan"], "n_timesteps=nan must be a whole number >= 1"),
    (["tune", "--env", "Pendulum-v1", "--timeout", "nan"], "timeout=nan must be a number of seconds >= 0"),
    (["tune", "--env", "Pendulum-v1", "-P", "gamma=0.5"], "gamma is searched, a value for it would have no effect"),
    (["evaluate", "CartPole-v1", "--seed", "-3"], "seed=-3 must be a whole number in [0, "),
    (["list"], "runs holds no run: make one with train"),
    (["tune", "--env", "Pendulum-v1", "--sampler", "tpee"], "sampler 'tpee' is unknown, did you mean 'tpe'?"),
    (["tune", "--env", "Pendulum-v1", "--pruner", "hyperban"], "did you mean 'hyperband'?"),
    (["tune", "--env", "Pendulum-v1", "--storage", "study.db"], "must be a database URL"),
    (["tune", "--env", "Pendulum-v1", "--storage", "postgresql://127.0.0.1:9/x"], "does not answer"),
    (["tune", "--env", "Pendulum-v1", "--n-trials", "0"], "n_trials=0 must be a whole number >= 1"),
    (["benchmark", "none.yml"], "none.yml cannot be read"),
    (["benchmark", "tag.yml"], "tag.yml is no YAML of plain values"),
    (["plot", "none.csv"], "none.csv cannot be read"),
    (["plot", "tag.yml"], "run 'tag.yml' does not exist"),
    (["report", "empty.csv"], "empty.csv is empty"),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSALS, ids=[" ".join(arguments) for arguments, _ in REFUSALS])
def test_a_refusal_is_one_line_and_leaves_nothing_behind(run, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tag.yml").write_text("CartPole-v1: !!python/object/apply:os.system ['touch pwned']\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "ppo.yml").write_text("CartPole-v1: {n_timesteps: 64, policy: MlpPolicy}\n")
    code, out, err = run(*arguments)
    assert code == 2
    assert sentence in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"tag.yml", "empty.csv", "ppo.yml"}


def test_debug_shows_where_an_error_came_from(run):
    for arguments in (["--debug", "list", "-f", "none"], ["list", "-f", "none", "--debug"]):
        code, _, err = run(*arguments)
        assert code == 2
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("error: none holds no run")


def test_version(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("sb3-trpo 0.")


def test_a_run_from_training_to_plots(run, tmp_path, monkeypatch):
    """Train twice, go on, list, evaluate, play, plot, report: each finds what the one before has left."""
    monkeypatch.chdir(tmp_path)
    settings = ["--n-timesteps", "512", "--seed", "3", "--eval-episodes", "2", "-P", "n_steps=32"]
    code, out, _ = run("train", "--env", "CartPole-v1", "--n-seeds", "2", *settings)
    assert code == 0
    assert "mean over 2 seeds" in out
    folders = [tmp_path / "runs" / "trpo" / f"CartPole-v1_{number}" for number in (1, 2)]
    assert all(folder.is_dir() for folder in folders)

    code, out, _ = run("train", "--resume", "CartPole-v1", "--n-timesteps", "1024")
    assert code == 0
    assert "after 1,024 steps" in out

    code, out, _ = run("list")
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows[0] == ["run", "seed", "steps", "last", "best", "written"]
    assert [row[:3] for row in rows[1:]] == [
        ["runs/trpo/CartPole-v1_1", "3", "512"],
        ["runs/trpo/CartPole-v1_2", "4", "1,024"],
    ]

    code, out, _ = run("evaluate", folders[0], "--episodes", "3", "--json")
    score = json.loads(out)
    assert code == 0
    assert score["n_episodes"] == 3
    assert score["iqm_low"] <= score["iqm"] <= score["iqm_high"]

    code, out, _ = run("enjoy", "CartPole-v1", "--no-render", "--best", "--stochastic", "--episodes", "2")
    assert code == 0
    assert len(out.split(",")) == 2

    code, out, _ = run("plot", *folders, "-o", "plots")
    assert code == 0
    assert {"learning_curves.png", "learning_curves_by_time.png", "scores.html"} <= {
        path.name for path in (tmp_path / "plots").iterdir()
    }
    code, out, _ = run("report", *folders)
    assert code == 0
    assert "| CartPole-v1 | trpo, CartPole-v1_1 |" in out  # the second was trained for longer


def test_the_command_line_starts_without_torch():
    """Imports and help alone; and less than torch alone takes, measured side by side."""
    code = (
        "import sys; from sb3_trpo.zoo.cli import main; main(['train', '--help']);"
        "heavy = {'torch', 'stable_baselines3', 'optuna', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    def cpu_seconds(*command):
        measure = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=-3);"
            "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime)"
        )
        output = subprocess.run([sys.executable, "-c", measure, *command], capture_output=True, text=True, check=True)
        return float(output.stdout)

    ours = cpu_seconds(sys.executable, "-m", "sb3_trpo", "train", "--help")
    assert ours < cpu_seconds(sys.executable, "-c", "import torch")


def test_python_dash_m_is_the_same_command():
    output = subprocess.run([sys.executable, "-m", "sb3_trpo", "trian"], capture_output=True, text=True, check=False)
    assert output.returncode == 2
    assert output.stderr == "error: command 'trian' is unknown, did you mean 'train'?\n"


def test_environments_of_a_module_in_this_folder_are_found_by_the_console_script(tmp_path):
    """Which has its own folder on the path instead of the current one; by the processes of a benchmark, too."""
    (tmp_path / "my_tasks.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('Mine-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=20)\n"
    )
    (tmp_path / "mine.yml").write_text("default: {n_steps: 64, n_timesteps: 128}")
    (tmp_path / "grid.yml").write_text(
        "environments: ['my_tasks:Mine-v0']\nseeds: 1\nn_eval_episodes: 1\n"
        "contestants: {TRPO: {algo: trpo, hyperparams: mine.yml}}"
    )
    script = "import sys; sys.path.remove(''); from sb3_trpo.zoo.cli import main; exit(main())"
    command = [sys.executable, "-c", script, "benchmark", "grid.yml", "--jobs", "1", "-o", "out"]
    made = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert made.returncode == 0, made.stderr
    assert "my_tasks:Mine-v0" in (tmp_path / "out" / "scores.csv").read_text()
