"""Training runs: the folder they leave, going on where one stopped, and what a crash or Ctrl-C leaves."""

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo import TRPO
from sb3_trpo.evaluation.scores import read_scores
from sb3_trpo.zoo import evaluations
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.evaluations import evaluate
from sb3_trpo.zoo.runs import find_run, find_runs, new_run
from sb3_trpo.zoo.train_run import resume, train

SMALL = {"n_eval_episodes": 2, "overrides": {"n_envs": 2, "n_steps": 64, "normalize": True}, "device": "cpu"}


@pytest.fixture
def pendulum(tmp_path):
    """A run with normalised observations and checkpoints."""
    return train(
        "Pendulum-v1", n_timesteps=1024, seed=7, eval_freq=256, save_freq=512, log_folder=tmp_path / "runs", **SMALL
    )


def test_the_folder_has_the_layout_of_rl_zoo(pendulum, tmp_path):
    folder = tmp_path / "runs" / "trpo" / "Pendulum-v1_1"
    assert pendulum.run.folder == folder
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "0.monitor.csv",
        "1.monitor.csv",
        "progress.csv",
        "evaluations.npz",
        "scores.csv",
        ".lock",
        "best_model.zip",
        "best_vecnormalize.pkl",
        "rl_model_512_steps.zip",
        "rl_model_vecnormalize_512_steps.pkl",
        "Pendulum-v1.zip",
        *(f"Pendulum-v1/{name}" for name in ("config.yml", "args.yml", "command.txt", "vecnormalize.pkl")),
    }
    config = yaml.safe_load((folder / "Pendulum-v1" / "config.yml").read_text())
    assert config["normalize"] is True
    assert config["n_timesteps"] == 1024
    assert yaml.safe_load((folder / "Pendulum-v1" / "args.yml").read_text())["env_kwargs"] is None
    with np.load(folder / "evaluations.npz") as saved:
        assert saved["timesteps"].tolist() == [256, 512, 768, 1024]
        assert saved["results"].shape == saved["ep_lengths"].shape == (4, 2)


def test_the_best_model_has_the_statistics_it_had_then(pendulum):
    """RL Zoo pairs it with the last ones."""
    with np.load(pendulum.run.folder / "evaluations.npz") as saved:
        best = int(saved["timesteps"][saved["results"].mean(1).argmax()])
    assert TRPO.load(pendulum.run.best.model).num_timesteps == best
    env = pendulum.model.get_env().venv
    statistics = VecNormalize.load(str(pendulum.run.best.statistics), env).obs_rms
    assert statistics.count == pytest.approx(best + 2, rel=0.01)  # a first observation of each environment


def test_a_run_is_repeated_by_its_seed(pendulum, tmp_path):
    again = train(
        "Pendulum-v1", n_timesteps=1024, seed=7, eval_freq=0, save_freq=0, log_folder=tmp_path / "runs", **SMALL
    )
    assert again.run.folder.name == "Pendulum-v1_2"
    np.testing.assert_array_equal(again.evaluation.returns, pendulum.evaluation.returns)
    assert {path.name for path in again.run.folder.glob("rl_model*")} == set()


def test_a_seed_that_was_drawn_is_written_down(tmp_path):
    trained = train("CartPole-v1", n_timesteps=128, log_folder=tmp_path, eval_freq=0, **SMALL)
    assert trained.model.seed == trained.run.arguments["seed"]


def test_a_run_goes_on_where_it_stopped(pendulum):
    rate = pendulum.model.lr_schedule(1.0)
    longer = resume(pendulum.run.folder, 2048)
    assert longer.run == pendulum.run
    assert longer.model.num_timesteps == 2048
    assert longer.model._n_updates == 16
    assert longer.model.policy.optimizer.param_groups[0]["lr"] < 0.1 * rate  # the schedule went on, not anew
    with np.load(pendulum.run.folder / "evaluations.npz") as saved:
        assert saved["timesteps"].tolist() == [256, 512, 768, 1024, 1280, 1536, 1792, 2048]
    assert longer.model.get_vec_normalize_env().obs_rms.count == pytest.approx(2048, rel=0.01)
    episodes = (pendulum.run.folder / "0.monitor.csv").read_text().splitlines()
    assert len(episodes) == 2 + 5  # header, and the whole episodes of 1024 steps
    with pytest.raises(UsageError, match="has had its 2,048 steps: give a larger n_timesteps"):
        resume(pendulum.run.folder)


def test_a_run_goes_on_from_its_last_checkpoint(pendulum):
    pendulum.run.final.model.unlink()  # as after kill -9
    assert pendulum.run.newest == pendulum.run.checkpoint(512)
    assert resume(pendulum.run.folder).model.num_timesteps == 1024
    with np.load(pendulum.run.folder / "evaluations.npz") as saved:
        assert saved["timesteps"].tolist() == [256, 512, 768, 1024]  # those after the checkpoint were made again


def killed_while_it_goes_on(run, n_timesteps):
    """Resume in a process, and kill it after its second checkpoint."""
    command = [sys.executable, "-m", "sb3_trpo", "train", "--resume", str(run.folder), "-n", str(n_timesteps)]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        deadline = time.monotonic() + 300  # on a machine that has other things to do
        while len(list(run.folder.glob("rl_model_*_steps.zip"))) < 4 and time.monotonic() < deadline:
            if process.poll() is not None:
                said.seek(0)
                raise AssertionError(f"it ended by itself with {process.returncode}: {said.read()}")
            time.sleep(0.05)
        process.kill()
        process.wait()


def test_a_run_that_is_killed_while_it_goes_on_loses_what_is_after_its_last_checkpoint_only(pendulum):
    killed_while_it_goes_on(pendulum.run, 1_000_000)
    steps = TRPO.load(pendulum.run.newest.model).num_timesteps
    assert steps >= 2048  # 512 from before, 1024 where it had ended, and two more
    with np.load(pendulum.run.folder / "evaluations.npz") as saved:
        best = saved["results"].mean(1).max()
    model = pendulum.run.best.model.read_bytes()
    resume(pendulum.run.folder, steps + 128)
    with np.load(pendulum.run.folder / "evaluations.npz") as saved:
        assert saved["timesteps"][-1] == steps + 128
        is_better = saved["results"].mean(1).max() > best
    assert is_better or pendulum.run.best.model.read_bytes() == model


def test_a_run_is_trained_by_one_process_at_a_time(pendulum):
    with pendulum.run.lock(), pytest.raises(UsageError, match="is being trained by another process"):
        resume(pendulum.run.folder, 2048)


class Signal(BaseCallback):
    """Sends a signal to the process on the way, once."""

    when = number = 0

    def _on_step(self) -> bool:
        if self.when and self.num_timesteps > self.when:
            type(self).when = 0
            os.kill(os.getpid(), self.number)
        return True


def without_clock(run):
    """What a run has written, but for what the clock says."""
    folder = run.folder
    rows = [
        {name: value for name, value in row.items() if value and "seconds" not in name and "fps" not in name}
        for file in sorted(folder.glob("progress*.csv"))
        for row in csv.DictReader(file.read_text().splitlines())
    ]
    for row in rows:
        del row["time/time_elapsed"]
    episodes = [
        [line.split(",")[:2] for line in (folder / f"{index}.monitor.csv").read_text().splitlines()[1:]]
        for index in range(2)
    ]
    scores = [score._replace(wall_s=0.0, versions="") for score in read_scores(folder / "scores.csv")]
    return rows, episodes, scores


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_a_signal_ends_goes_on_bit_for_bit(number, code, vec_env, tmp_path, monkeypatch):
    overrides = {**SMALL["overrides"], "callback": f"{__name__}.Signal"}
    settings = {**SMALL, "overrides": overrides, "seed": 0, "eval_freq": 256, "save_freq": 0, "vec_env": vec_env}
    whole = train("Pendulum-v1", n_timesteps=1024, log_folder=tmp_path / "whole", **settings)
    assert whole.exit_code == 0
    monkeypatch.setattr(Signal, "when", 600)
    monkeypatch.setattr(Signal, "number", number)
    trained = train("Pendulum-v1", n_timesteps=1024, log_folder=tmp_path / "ended", **settings)
    assert trained.exit_code == code
    assert trained.evaluation.step == 512
    assert TRPO.load(trained.run.final.model, force_reset=False).num_timesteps == 512  # where its rollout began
    rows = read_scores(trained.run.folder / "scores.csv")
    assert [row.step for row in rows] == [256, 512]
    assert all(before.wall_s < after.wall_s for before, after in pairwise(rows))
    resumed = resume(trained.run.folder)
    assert resumed.exit_code == 0
    for a, b in zip(whole.model.policy.parameters(), resumed.model.policy.parameters(), strict=True):
        assert th.equal(a, b)
    assert without_clock(whole.run) == without_clock(resumed.run)


def test_a_run_that_is_ended_in_its_last_evaluation_goes_on_with_that(pendulum, tmp_path, monkeypatch):
    settings = {**SMALL, "seed": 7, "eval_freq": 256, "save_freq": 512}

    def ended(model, *arguments):
        if model.num_timesteps == 1024:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(model, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(evaluations, "evaluate", ended)
        trained = train("Pendulum-v1", n_timesteps=1024, log_folder=tmp_path / "ended", **settings)
    assert trained.exit_code == 143
    assert [row.step for row in read_scores(trained.run.folder / "scores.csv")] == [256, 512, 768]
    assert resume(trained.run.folder).evaluation.step == 1024
    assert without_clock(trained.run) == without_clock(pendulum.run)
    with pytest.raises(UsageError, match="has had its 1,024 steps"):
        resume(trained.run.folder)
    resumed = [resume(run.folder, 1280) for run in (trained.run, pendulum.run)]
    assert without_clock(resumed[0].run) == without_clock(resumed[1].run)


def test_a_run_that_is_killed_goes_on_from_its_checkpoint_bit_for_bit(pendulum, tmp_path):
    """As if what came after the checkpoint had not been."""
    before = without_clock(pendulum.run)
    pendulum.run.final.model.unlink()
    resumed = resume(pendulum.run.folder)
    for a, b in zip(pendulum.model.policy.parameters(), resumed.model.policy.parameters(), strict=True):
        assert th.equal(a, b)
    assert without_clock(resumed.run) == before


def test_a_process_of_the_environment_that_dies_ends_the_training(tmp_path):
    overrides = {**SMALL["overrides"], "callback": f"{__name__}.KillChild"}
    settings = {**SMALL, "overrides": overrides}
    words = r"training on CartPole-v1 has ended: the process of environment 0 \(pid \d+\) was killed by SIGKILL"
    with pytest.raises(UsageError, match=words):
        train("CartPole-v1", n_timesteps=1024, vec_env="subproc", log_folder=tmp_path, **settings)
    assert TRPO.load(find_run("CartPole-v1", tmp_path).newest.model).num_timesteps > 128


class KillChild(BaseCallback):
    """Kills a process of the environment."""

    def _on_step(self) -> bool:
        if self.num_timesteps > 300:
            self.training_env.unwrapped.processes[0].kill()
        return True


class Raise(BaseCallback):
    """Fails on the way."""

    def _on_step(self) -> bool:
        if self.num_timesteps > 300:
            raise RuntimeError("out of coal")
        return True


def test_what_was_learned_before_a_failure_is_kept(tmp_path):
    overrides = {**SMALL["overrides"], "callback": f"{__name__}.Raise"}
    with pytest.raises(RuntimeError, match="out of coal"):
        train("CartPole-v1", n_timesteps=1024, log_folder=tmp_path, **{**SMALL, "overrides": overrides})
    run = find_run("CartPole-v1", tmp_path)
    assert TRPO.load(run.newest.model).num_timesteps > 128


def test_ctrl_c_keeps_what_was_learned(tmp_path):
    command = ["train", "--env", "CartPole-v1", "-n", "1e6", "--seed", "0", "--eval-freq", "0", "-f", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "sb3_trpo", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    monitor = tmp_path / "trpo" / "CartPole-v1_1" / "0.monitor.csv"
    deadline = time.monotonic() + 300  # on a machine that has other things to do
    while not (monitor.is_file() and len(monitor.read_text().splitlines()) > 20) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "what was learned is kept" in out
    assert "--resume" in out
    assert "Traceback" not in err
    assert TRPO.load(find_run("CartPole-v1", tmp_path).newest.model).num_timesteps > 0


def test_nothing_is_made_of_what_cannot_be_built(tmp_path):
    with pytest.raises(UsageError, match="trpo cannot be built for CartPole-v1: use_sde=True is for"):
        train("CartPole-v1", log_folder=tmp_path / "runs", **{**SMALL, "overrides": {"use_sde": True}})
    assert not (tmp_path / "runs").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(UsageError, match="no run folder can be made in"):
        train("CartPole-v1", n_timesteps=128, log_folder=tmp_path / "runs", **SMALL)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda run: run.final.model.write_bytes(b"PK"), "Pendulum-v1.zip cannot be read"),
        (lambda run: run.final.statistics.write_bytes(b""), "observation statistics .* cannot be read"),
        (lambda run: (run.settings / "config.yml").write_text("{"), "config.yml is no YAML of plain values"),
        (lambda run: (run.settings / "args.yml").unlink(), "is no run folder"),
    ],
)
def test_a_damaged_run_is_refused(pendulum, damage, sentence):
    damage(pendulum.run)
    with pytest.raises(UsageError, match=sentence):
        resume(pendulum.run.folder, 2048)


def test_runs_that_start_at_once_have_folders_of_their_own(tmp_path):
    runs = [new_run(tmp_path, "trpo", "ALE/Pong-v5") for _ in range(12)]
    assert [run.folder.name for run in runs] == [f"ALE-Pong-v5_{number}" for number in range(1, 13)]
    assert new_run(tmp_path, "sb3_contrib:TRPO", "CartPole-v1").folder == tmp_path / "sb3_contrib-TRPO/CartPole-v1_1"


def test_runs_are_found_by_folder_and_by_environment(pendulum, tmp_path):
    assert find_run(pendulum.run.folder) == pendulum.run
    assert find_run("Pendulum-v1", tmp_path / "runs") == pendulum.run
    assert find_runs(tmp_path / "runs") == [pendulum.run]
    assert find_runs(tmp_path / "nowhere") == []
    with pytest.raises(UsageError, match="run 'Pendulum-v2' does not exist, did you mean 'Pendulum-v1'"):
        find_run("Pendulum-v2", tmp_path / "runs")
    with pytest.raises(UsageError, match="there are none in"):
        find_run("Pendulum-v1", Path("nowhere"))


def test_other_algorithms_train_the_same_way(tmp_path):
    file = tmp_path / "ppo.yml"
    file.write_text("default: {n_timesteps: 256, n_steps: 64, batch_size: 64}\n")
    trained = train("CartPole-v1", "ppo", hyperparams=file, log_folder=tmp_path, n_eval_episodes=2, device="cpu")
    assert trained.run.folder == tmp_path / "ppo" / "CartPole-v1_1"


def test_tensorboard_is_fed(tmp_path):
    trained = train("CartPole-v1", n_timesteps=128, log_folder=tmp_path, tensorboard=True, **SMALL)
    assert list(trained.run.folder.glob("events.out.tfevents*"))
