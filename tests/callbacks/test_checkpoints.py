"""Checkpoints from which a training goes on exactly, whenever a signal ends it."""

import os
import signal

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo import TRPO
from sb3_trpo.callbacks import Checkpoints
from tests.resuming import KINDS, assert_same_training, load, logged, new_model

TOTAL = 400

# a signal may come while something is being finalised: Python then says that it raised in vain, and it is polled later
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_they_are_saved_between_updates_at_multiples_of_the_frequency(tmp_path):
    model = new_model("CartPole").learn(TOTAL, Checkpoints(tmp_path, save_freq=100, name_prefix="cart"))
    # rollouts of 40 steps: at the first boundary at or after each multiple; the end is for whoever calls `learn`
    assert names(tmp_path) == ["cart_120_steps.zip", "cart_200_steps.zip", "cart_320_steps.zip"]
    other = load("CartPole", Checkpoints.latest(tmp_path, "cart"))
    other.learn(other.timesteps_left, reset_num_timesteps=False)
    assert_same_training(model, other)
    assert not model._keeps_boundaries


def test_some_of_them_are_kept(tmp_path, capsys):
    new_model("CartPole").learn(TOTAL, Checkpoints(tmp_path, save_freq=40, keep=2, verbose=1))
    assert names(tmp_path) == ["rl_model_320_steps.zip", "rl_model_360_steps.zip"]
    assert f"checkpoint {tmp_path / 'rl_model_360_steps.zip'}" in capsys.readouterr().out


class Timer:
    """Sends a signal after some milliseconds of the training, which is not heard if that has ended by then."""

    def __init__(self, number, seconds):
        self.number, self.seconds = number, seconds

    def __enter__(self):
        self.before = signal.signal(self.number, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), self.number))
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *error):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(self.number, self.before)


def interrupt_at_random(kind, tmp_path, n, seed):
    """Interrupt ``n`` trainings at random instants; each one goes on to the same end."""
    whole = new_model(kind)
    rows = logged(whole)
    with np.errstate(all="ignore"):
        whole.learn(TOTAL)
    seconds = 0.15  # of the training, about
    rng = np.random.default_rng(seed)
    n_interrupted = 0
    for k in range(n):
        folder = tmp_path / str(k)
        model, number = new_model(kind), [signal.SIGTERM, signal.SIGUSR1][k % 2]
        code = 0
        with Timer(number, rng.uniform(0.002, seconds)):
            try:
                model.learn(TOTAL, Checkpoints(folder))
            except SystemExit as ended:
                code = ended.code
            assert signal.getsignal(number) == signal.SIG_IGN
        assert code in (0, 143)
        if code == 0:
            continue
        n_interrupted += 1
        (file,) = folder.iterdir()
        other = load(kind, file)
        assert file.name == f"rl_model_{other.num_timesteps}_steps.zip"
        other_rows = logged(other)
        done = other._n_updates
        other.learn(other.timesteps_left, reset_num_timesteps=False)
        assert_same_training(whole, other)
        assert other_rows == rows[done:]
    return n_interrupted


@pytest.mark.parametrize("kind", ["VecNormalize", "recurrent"])
def test_a_training_that_a_signal_ends_goes_on_exactly(kind, tmp_path):
    assert interrupt_at_random(kind, tmp_path, 6, seed=0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_trainings_ended_at_random_instants_go_on_exactly(kind, tmp_path):
    assert interrupt_at_random(kind, tmp_path, 50, seed=1) > 20


class Ask(BaseCallback):
    """Asks the process to end, once, in the middle of a rollout."""

    def __init__(self):
        super().__init__()
        self.asked = False

    def _on_step(self):
        if self.num_timesteps == 100 and not self.asked:
            self.asked = True
            os.kill(os.getpid(), signal.SIGTERM)
        return True


def test_the_callback_that_a_signal_ended_can_be_used_again(tmp_path):
    callbacks = [Checkpoints(tmp_path), Ask()]
    with pytest.raises(SystemExit):
        new_model("CartPole").learn(TOTAL, callbacks)
    assert names(tmp_path) == ["rl_model_80_steps.zip"]
    other = load("CartPole", tmp_path / "rl_model_80_steps.zip")
    other.learn(other.timesteps_left, callbacks, reset_num_timesteps=False)
    assert_same_training(new_model("CartPole").learn(TOTAL), other)


class Fail(BaseCallback):
    """Raises on the way."""

    def _on_step(self):
        if self.num_timesteps > 100:
            raise RuntimeError("out of coal")
        return True


def test_handlers_come_back_after_an_error(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="out of coal"):
        new_model("CartPole").learn(TOTAL, [Checkpoints(tmp_path), Fail()])
    assert signal.getsignal(signal.SIGTERM) == before
    assert names(tmp_path) == []


def test_signals_can_be_left_alone(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    class Look(BaseCallback):
        def _on_step(self):
            seen.append(signal.getsignal(signal.SIGTERM))
            return True

    new_model("CartPole").learn(40, [Checkpoints(tmp_path, signals=()), Look()])
    assert set(seen) == {before}


def test_what_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(ValueError, match="save_freq=-1 must be an integer >= 0"):
        Checkpoints(tmp_path, save_freq=-1)
    with pytest.raises(ValueError, match="keep=0 must be an integer >= 1"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint named rl_model_N_steps\.zip"):
        Checkpoints.latest(tmp_path)
    with pytest.raises(TypeError, match="this is PPO: use CheckpointCallback"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).learn(8, Checkpoints(tmp_path))


def test_they_are_of_every_class():
    assert TRPO in {cls for cls, *_ in KINDS.values()}
