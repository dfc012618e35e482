"""Run folders and configurations that were made to do harm, or to be made at once."""

import contextlib
import multiprocessing
import os
import pickle

import gymnasium as gym
import pytest
import yaml
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo.zoo import files
from sb3_trpo.zoo.cli import main
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.hyperparams import load_hyperparams, read_yaml
from sb3_trpo.zoo.playing import evaluate_run
from sb3_trpo.zoo.runs import find_run, new_run
from sb3_trpo.zoo.train_run import resume, train
from tests.processes import forked
from tests.saving.payloads import Saved, changed, pickled, touch
from tests.test_files import full_disk

SMALL = {"n_timesteps": 64, "n_eval_episodes": 1, "device": "cpu"}
HARMFUL = [
    "!!python/object/apply:os.system ['touch marker']",
    "!!python/object/apply:subprocess.Popen [['touch', 'marker']]",
    "!!python/object/new:os.system ['touch marker']",
    "!!python/object/apply:builtins.eval [\"open('marker', 'w')\"]",
    "!!python/name:os.system",
    "!!python/module:module_of_an_attacker",
    "!!python/tuple [1]",
]
HARMFUL_VALUES = [
    ("policy_kwargs", "dict(net_arch=[__import__('os').system('touch marker')])"),
    ("policy_kwargs", "dict(net_arch=open('marker', 'w'))"),
    ("policy_kwargs", "eval(\"open('marker', 'w')\")"),
    ("policy_kwargs", "dict(activation_fn=os.system)"),
    ("policy_kwargs", "dict(activation_fn=(lambda: open('marker', 'w'))())"),
    ("policy_kwargs", "dict(activation_fn=nn.ReLU.__class__.__base__.__subclasses__())"),
    ("env_kwargs", "dict(a=open('marker', 'w'))"),
    ("normalize", "dict(a=open('marker', 'w'))"),
    ("policy", "os.system"),
    ("policy", "subprocess.Popen"),
    ("radius", "subprocess.Popen"),
    ("critic", "subprocess.Popen"),
    ("rollout_buffer_class", "subprocess.Popen"),
    ("env_wrapper", {"subprocess.Popen": {"args": ["touch", "marker"]}}),
    ("vec_env_wrapper", {"subprocess.Popen": {"args": ["touch", "marker"]}}),
    ("callback", [{"subprocess.Popen": {"args": ["touch", "marker"]}}]),
    ("learning_rate", "lin_open('marker', 'w')"),
    ("target_kl", "open('marker', 'w')"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, empty but for a module that leaves a marker when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "module_of_an_attacker.py").write_text("open('marker', 'w').close()")
    return tmp_path


@pytest.mark.parametrize("value", HARMFUL)
def test_yaml_that_builds_objects_is_refused(folder, value):
    (folder / "file.yml").write_text(f"default:\n  n_timesteps: {value}\n")
    for read in (read_yaml, lambda file: load_hyperparams("trpo", "CartPole-v1", file)):
        with pytest.raises(UsageError, match=r"file\.yml is no YAML of plain values: .*python/"):
            read("file.yml")
    run = new_run(folder, "trpo", "CartPole-v1")
    (run.settings / "args.yml").write_text("algo: trpo\nenv: CartPole-v1\n")
    (run.settings / "config.yml").write_text(f"policy: {value}")
    with pytest.raises(UsageError, match=r"config\.yml is no YAML of plain values: .*python/"):
        resume(run.folder)
    (run.settings / "args.yml").write_text(f"algo: trpo\nenv: {value}\n")
    with pytest.raises(UsageError, match=r"args\.yml is no YAML of plain values: .*python/"):
        find_run(run.folder)
    assert not (folder / "marker").exists()


@pytest.mark.parametrize(("key", "value"), HARMFUL_VALUES)
def test_a_configuration_that_asks_for_harm_is_refused(folder, key, value):
    (folder / "file.yml").write_text(yaml.safe_dump({"default": {key: value}}))
    with pytest.raises(UsageError, match=key.split("_")[0]):
        train("Pendulum-v1", hyperparams="file.yml", log_folder=folder / "runs", **SMALL)
    assert not (folder / "marker").exists()


@pytest.mark.parametrize("algo", ["trpo", "ppo"])
def test_a_model_in_a_run_folder_runs_no_code_unless_it_is_trusted(folder, algo, capsys):
    """PPO's file is one of Stable-Baselines3, whose own `load` would run it."""
    (folder / "file.yml").write_text("default: {n_timesteps: 64, n_steps: 64, batch_size: 64}")
    run = train("CartPole-v1", algo, hyperparams="file.yml", log_folder="runs", **SMALL).run
    assert evaluate_run(run.folder, 1).n_episodes == 1
    content = run.final.model.read_bytes()
    payload = pickled(pickle.dumps(Saved(touch, str(folder / "marker"))))
    run.final.model.write_bytes(changed(content, {"seed": payload}))
    refusal = r"CartPole-v1\.zip cannot be read: .*in entry 'seed'.*touch is not on the list.*Say --trust"
    for use in (lambda: evaluate_run(run.folder, 1), lambda: resume(run.folder, 128)):
        with pytest.raises(UsageError, match=refusal):
            use()
    assert main(["evaluate", str(run.folder), "--episodes", "1"]) == 2
    assert "Say --trust" in capsys.readouterr().err
    assert not (folder / "marker").exists()
    assert main(["evaluate", str(run.folder), "--episodes", "1", "--trust"]) == 0
    assert (folder / "marker").exists()


def test_statistics_in_a_run_folder_run_no_code_unless_they_are_trusted(folder):
    run = train("Pendulum-v1", log_folder="runs", overrides={"normalize": True, "n_steps": 64}, **SMALL).run
    assert VecNormalize.load(str(run.final.statistics), make_env()).obs_rms.count > 1
    saved = pickle.loads(run.final.statistics.read_bytes())
    saved.set_venv(make_env())
    saved.clip_obs = Saved(touch, str(folder / "marker"))
    run.final.statistics.write_bytes(pickle.dumps(saved))
    with pytest.raises(UsageError, match=r"statistics .* cannot be read: .*touch is not on the list.*trust=True"):
        evaluate_run(run.folder, 1)
    assert not (folder / "marker").exists()
    evaluate_run(run.folder, 1, trust=True)
    assert (folder / "marker").exists()


def make_env():
    return DummyVecEnv([lambda: gym.make("Pendulum-v1")])


def test_trust_is_for_runs_that_go_on(capsys):
    assert main(["train", "--env", "CartPole-v1", "--trust"]) == 2
    assert "--trust is for a run to go on with" in capsys.readouterr().err


def test_sixty_runs_that_start_at_once_have_folders_of_their_own(tmp_path):
    together = multiprocessing.get_context("fork").Barrier(60)

    def start():
        together.wait()
        run = new_run(tmp_path, "trpo", "CartPole-v1")
        files.write_text(run.folder / "pid", str(os.getpid()))

    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(forked(start)) for _ in range(60)]
    folders = {path.name: int((path / "pid").read_text()) for path in (tmp_path / "trpo").iterdir()}
    assert folders.keys() == {f"CartPole-v1_{number}" for number in range(1, 61)}
    assert sorted(folders.values()) == sorted(started)


def test_a_full_disk_costs_one_sentence(folder):
    run = new_run(folder, "trpo", "CartPole-v1")
    with full_disk(10), pytest.raises(UsageError, match=r"file\.txt cannot be written: File too large"):
        files.write_text(run.folder / "file.txt", "text" * 10)
    assert os.listdir(run.folder) == ["CartPole-v1"]
