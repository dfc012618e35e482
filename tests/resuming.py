"""Trainings of several kinds, and what two of them that are one and the same have in common."""

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo import TRPO, MaskableRecurrentTRPO, RecurrentTRPO
from tests.envs import Masked, Walk


def environments(env_id, normalize=False):
    env = make_vec_env(env_id, 2, seed=3)
    return VecNormalize(env) if normalize else env


def masked_walk():
    return Masked(Walk(spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,), np.float32)), [3])


KINDS = {
    "CartPole": (TRPO, "MlpPolicy", lambda: environments("CartPole-v1"), {"critic": "gauss_newton"}),
    "VecNormalize": (TRPO, "MlpPolicy", lambda: environments("Pendulum-v1", True), {"radius": "adaptive"}),
    "Hopper": (TRPO, "MlpPolicy", lambda: environments("Hopper-v5", True), {"sub_sampling_factor": 3}),
    "recurrent": (
        RecurrentTRPO, "MlpLstmPolicy", lambda: environments("CartPole-v1"), {"policy_kwargs": {"lstm_hidden_size": 4}},
    ),
    "gSDE": (TRPO, "MlpPolicy", lambda: environments("Pendulum-v1"), {"use_sde": True, "sde_sample_freq": 4}),
    "colored noise": (
        TRPO, "MlpPolicy", lambda: environments("Hopper-v5", True),
        {"action_noise": "colored", "action_noise_kwargs": {"period": 16}},
    ),
    "memory and noise": (
        RecurrentTRPO, "MlpLstmPolicy", lambda: environments("Pendulum-v1"),
        {"policy_kwargs": {"lstm_hidden_size": 4}, "action_noise": "ou", "fast_rollout": False},
    ),
    "plain loop": (TRPO, "MlpPolicy", lambda: environments("CartPole-v1"), {"fast_rollout": False}),
    "masks and memory": (
        MaskableRecurrentTRPO, "MlpLstmPolicy", lambda: make_vec_env(masked_walk, 2, seed=3),
        {"policy_kwargs": {"lstm_hidden_size": 4}},
    ),
}  # fmt: skip
"""Name -> class, policy, what makes the environments, further arguments."""

N_STEPS, N_ENVS = 20, 2
SCHEDULE = LinearSchedule(1e-3, 5e-4, 1.0)


class Rows(KVWriter):
    """Rows of the log, without what the clock says."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        timed = ("time/fps", "time/time_elapsed")
        self.rows.append({k: str(v) for k, v in key_values.items() if k not in timed and "seconds" not in k})

    def close(self):
        pass


def logged(model):
    """The rows that ``model`` will log."""
    rows = Rows()
    model.set_logger(Logger(None, [rows]))
    return rows.rows


def new_model(kind):
    cls, policy, make, arguments = KINDS[kind]
    return cls(
        policy, make(), n_steps=N_STEPS, batch_size=16, n_critic_updates=2, learning_rate=SCHEDULE, seed=1, **arguments
    )


def load(kind, path):
    """The model at ``path`` as in another process: with environments that have seen something else."""
    cls, _, make, _ = KINDS[kind]
    env = make()
    env.reset()
    return cls.load(path, env=env, force_reset=False)


def assert_same_training(one, other):
    """Weights, optimiser and counters."""
    for a, b in zip(one.policy.state_dict().values(), other.policy.state_dict().values(), strict=True):
        assert th.equal(a, b)
    states = [model.policy.optimizer.state_dict()["state"].values() for model in (one, other)]
    for a, b in zip(*states, strict=True):
        assert all(th.equal(th.as_tensor(a[name]), th.as_tensor(b[name])) for name in a)
    assert (one.num_timesteps, one._n_updates) == (other.num_timesteps, other._n_updates)
