"""Processes of environments that are killed, stopped, or fail: an error that names them, and nothing left behind."""

import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_trpo import TRPO, WatchedSubprocVecEnv
from sb3_trpo.algorithms import subproc
from sb3_trpo.algorithms.subproc import WorkerError, watch_workers
from tests.algorithms.kinds import BOX
from tests.envs import Walk

ROOT = Path(__file__).parents[2]
METHODS = ["fork", "spawn", "forkserver"]
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)
BIG = spaces.Box(-1.0, 1.0, (2**20,), np.float32)  # 4 MB, more than a pipe holds
make_walk = partial(Walk, ACTIONS, BOX)


def make_late():
    """Takes so long that it is killed before it is there."""
    time.sleep(60)


def make_broken():
    raise RuntimeError("no such robot")


class Slow(gym.Wrapper):
    """A step of it takes a minute."""

    def step(self, action):
        time.sleep(60)
        return self.env.step(action)


def make_slow():
    return Slow(make_walk())


class Failing(gym.Wrapper):
    """Raises at the third step."""

    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 3:
            raise RuntimeError("the robot fell into the sea")
        return self.env.step(action)


def make_failing():
    return Failing(make_walk())


def ended(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def all_ended(pids, seconds=0.0):
    """Whether none of the processes exists any more, after ``seconds`` at most."""
    ends = time.monotonic() + seconds
    while not all(map(ended, pids)) and time.monotonic() < ends:
        time.sleep(0.02)
    return all(map(ended, pids))


def patience():
    """Seconds that it may take to notice a death: ten, unless others keep the machine from us."""
    is_ours = os.getloadavg()[0] <= 1.5 * (os.cpu_count() or 1)
    return 10 if is_ours else 120


class Killing(threading.Thread):
    """Kills process ``index`` of two, ``delay`` seconds after ``find`` has found them."""

    def __init__(self, find, index, delay):
        super().__init__(daemon=True)
        self.find, self.index, self.delay, self.pids = find, index, delay, []
        self.start()

    def run(self):
        while len(self.pids) < 2:
            time.sleep(0.01)
            self.pids = self.find()
        time.sleep(self.delay)
        self.at = time.monotonic()
        os.kill(self.pids[self.index], signal.SIGKILL)


def train(fast_rollout, env):
    model = TRPO("MlpPolicy", VecNormalize(env), n_steps=32, batch_size=32, fast_rollout=fast_rollout, device="cpu")
    try:
        model.learn(10**8)
    finally:
        assert all(th.isfinite(weights).all() for weights in model.policy.parameters())


def evaluate(env):
    model = TRPO("MlpPolicy", DummyVecEnv([make_walk]), n_steps=32, device="cpu")
    evaluate_policy(model, env, 10**8, warn=False)


SITUATIONS = [
    (WatchedSubprocVecEnv, partial(train, True)),
    (WatchedSubprocVecEnv, None),  # while it is made
    (SubprocVecEnv, partial(train, False)),
    (WatchedSubprocVecEnv, evaluate),
    (SubprocVecEnv, partial(train, True)),
    (WatchedSubprocVecEnv, partial(train, False)),
]


def kill_one(method, number):
    """A worker is killed at a random moment of a situation."""
    cls, use = SITUATIONS[number % len(SITUATIONS)]
    rng = random.Random(f"{method} {number}")
    index, delay = rng.randrange(2), rng.uniform(0.0, 1.0)
    if use is None:
        before = set(multiprocessing.active_children())
        killing = Killing(
            lambda: sorted(child.pid for child in {*multiprocessing.active_children()} - before), index, delay
        )
        with pytest.raises(WorkerError) as caught:
            cls([make_late] * 2, start_method=method)
    else:
        env = cls([make_walk] * 2, start_method=method)
        env.reset()  # they are there
        killing = Killing(lambda: [process.pid for process in env.processes], index, delay)
        with pytest.raises(WorkerError) as caught:
            use(env)
    assert time.monotonic() - killing.at < patience()
    victim = f"the process of environment {index} (pid {killing.pids[index]})"
    assert str(caught.value) == f"{victim} was killed by SIGKILL (exit code -9)"
    assert all_ended(killing.pids)
    if use is not None:
        env.close()
        assert all(remote.connection.closed for remote in env.remotes)


# Each kind of process in half of the situations; the long campaign has them all.
@pytest.mark.parametrize(
    ("method", "numbers"),
    [("fork", [1, 2]), ("spawn", [0, 1]), ("forkserver", [3, 4])]
    + [pytest.param(method, range(20), marks=pytest.mark.slow) for method in METHODS],
)
def test_a_worker_that_is_killed_is_named_and_the_others_end(method, numbers):
    for number in numbers:
        kill_one(method, number)


def test_a_worker_that_is_killed_while_it_sends_much():
    """Where workers are forked, the others must not keep its end of the pipe open."""
    env = WatchedSubprocVecEnv([partial(Walk, ACTIONS, BIG)] * 2, start_method="fork")
    env.reset()
    env.step_async(np.zeros((2, 2), np.float32))
    time.sleep(0.3)
    env.processes[1].kill()
    with pytest.raises(WorkerError, match=r"the process of environment 1 .* was killed by SIGKILL"):
        env.step_wait()
    assert all_ended([process.pid for process in env.processes])


def test_a_worker_that_is_killed_while_another_is_waited_for(monkeypatch):
    monkeypatch.setattr(subproc, "FAILURE_SECONDS", 0.2)
    env = WatchedSubprocVecEnv([make_slow, make_walk], start_method="fork")
    env.reset()
    env.processes[1].kill()
    with pytest.raises(WorkerError, match=r"the process of environment 1 .* was killed by SIGKILL"):
        env.step(np.zeros((2, 2), np.float32))


@pytest.mark.parametrize("cls", [WatchedSubprocVecEnv, SubprocVecEnv])
def test_it_closes_in_the_middle_of_a_step_whatever_has_happened(cls, monkeypatch):
    """With answers that nobody has read, and a worker that is dead or does not listen."""
    monkeypatch.setattr(subproc, "CLOSE_SECONDS", 1.0)
    env = cls([partial(Walk, ACTIONS, BIG)] * 3, start_method="fork")
    watch_workers(env)
    env.reset()
    pids = [process.pid for process in env.processes]
    env.step_async(np.zeros((3, 2), np.float32))
    os.kill(pids[1], signal.SIGSTOP)
    os.kill(pids[2], signal.SIGKILL)
    began = time.monotonic()
    env.close()
    assert time.monotonic() - began < patience()
    assert env.processes[0].exitcode == 0
    assert all_ended(pids)
    env.close()
    with pytest.raises(WorkerError, match="have been ended: make the vectorised environment anew"):
        env.reset()


@pytest.mark.parametrize("is_own", [True, False])
def test_a_worker_that_has_stopped_is_told_by_the_timeout(is_own, monkeypatch):
    monkeypatch.setattr(subproc, "FAILURE_SECONDS", 0.5)
    if is_own:
        env = WatchedSubprocVecEnv([make_walk] * 2, start_method="fork", step_timeout=0.5)
    else:
        env = SubprocVecEnv([make_walk] * 2, start_method="fork")
        watch_workers(env, step_timeout=0.5)
    pids = [process.pid for process in env.processes]
    model = TRPO("MlpPolicy", env, n_steps=32, batch_size=32, device="cpu").learn(64)
    os.kill(pids[1], signal.SIGSTOP)
    words = rf"^the process of environment 1 \(pid {pids[1]}\) has not answered for 0\.5 seconds$"
    with pytest.raises(WorkerError, match=words):
        model.learn(64, reset_num_timesteps=False)
    assert all_ended(pids)
    env.close()


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), "1", True])
def test_a_bad_timeout_is_refused(seconds):
    with pytest.raises(ValueError, match=f"^step_timeout={seconds!r} must be a finite number of seconds > 0, or None"):
        WatchedSubprocVecEnv([make_walk], step_timeout=seconds)


def test_an_environment_that_raises_in_its_process(capfd, tmp_path):
    env = SubprocVecEnv([make_walk, make_failing], start_method="fork")
    model = TRPO("MlpPolicy", env, n_steps=32, device="cpu")
    words = r"the process of environment 1 \(pid \d+\) ended with exit code 1, what it printed tells why"
    with pytest.raises(WorkerError, match=words):
        model.learn(64)
    assert "RuntimeError: the robot fell into the sea" in capfd.readouterr().err
    model.save(tmp_path / "model")  # whatever has become of the environments
    assert TRPO.load(tmp_path / "model").num_timesteps == model.num_timesteps
    model.set_env(DummyVecEnv([make_walk] * 2))
    model.learn(64)
    assert model.num_timesteps >= 64


def test_an_environment_that_cannot_be_made_in_its_process(capfd):
    before = set(multiprocessing.active_children())
    with pytest.raises(WorkerError, match=r"the process of environment 1 .* ended with exit code 1"):
        WatchedSubprocVecEnv([make_walk, make_broken], start_method="fork")
    assert "no such robot" in capfd.readouterr().err
    assert set(multiprocessing.active_children()) <= before


def test_it_steps_as_the_plain_one_does():
    seen = []
    for cls in (SubprocVecEnv, WatchedSubprocVecEnv):
        env = cls([make_walk] * 2, start_method="fork")
        env.seed(3)
        steps = [env.reset(), *(env.step(np.full((2, 2), 0.1 * number, np.float32))[:3] for number in range(12))]
        assert env.get_attr("length") == [8, 8]
        assert env.has_attr("length")
        assert not env.has_attr("width")
        seen.append(steps)
        env.close()
    np.testing.assert_equal(*seen)


def test_a_way_of_closing_of_its_own_is_kept():
    class Telling(SubprocVecEnv):
        told = 0

        def close(self):
            self.told += 1
            super().close()

    env = Telling([make_walk], start_method="fork")
    watch_workers(env)
    watch_workers(env)
    env.close()
    assert env.told == 1
    assert all_ended([process.pid for process in env.processes])
    plain = DummyVecEnv([make_walk])
    before = dict(vars(plain))
    watch_workers(plain)
    assert vars(plain) == before


PARENT = """
import os, signal, sys, time
from tests.algorithms.test_subproc import make_walk
from sb3_trpo import WatchedSubprocVecEnv

if __name__ == "__main__":
    env = WatchedSubprocVecEnv([make_walk] * 3, start_method=sys.argv[1])
    print(*[process.pid for process in env.processes], flush=True)
    if sys.argv[2] == "leave":
        os.kill(env.processes[1].pid, signal.SIGSTOP)
    else:
        time.sleep(600)
"""


@contextmanager
def parent(folder, *arguments):
    """A process with three workers, and their pids."""
    script = folder / "parent.py"
    script.write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        pids = [int(pid) for pid in re.findall(r"\d+", process.stdout.readline())]
        assert len(pids) == 3
        try:
            yield process, pids
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_they_end_with_a_parent_that_is_killed(method, tmp_path):
    with parent(tmp_path, method, "wait") as (process, pids):
        process.kill()
    assert all_ended(pids, patience())


def test_they_end_with_a_parent_that_has_not_closed_them(tmp_path):
    """Also one that has stopped, for which multiprocessing would wait."""
    with parent(tmp_path, "fork", "leave") as (process, pids):
        assert process.wait(timeout=patience()) == 0
        assert all_ended(pids)
