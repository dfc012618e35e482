"""Collecting experience close to the environment's own speed.

Stepping needs an action and nothing else. Where the actor is a plain perceptron it is evaluated alone, without
distribution objects, on noise drawn for the whole rollout at once. Values, log-probabilities and the values at time
limits are computed in one batch when the rollout is over. The buffer then holds what Stable-Baselines3's own loop
would have stored for the same actions; callbacks see the same locals on every step, save ``values`` and
``log_probs``, which are known at the end only.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_trpo.algorithms.action_distribution import Head, action_head
from sb3_trpo.algorithms.actor import as_mlp
from sb3_trpo.core.mlp import Mlp

CHUNK = 8192
"""Rows evaluated at once after the rollout, so that memory does not grow with its length."""

if TYPE_CHECKING:
    from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm


class TimeLimit(NamedTuple):
    """An episode of environment ``env`` that was cut at ``step`` with that last ``observation``."""

    step: int
    env: int
    observation: np.ndarray[Any, Any]


def perceptron_for_stepping(algorithm: "TrustRegionAlgorithm", buffer: RolloutBuffer) -> Mlp | None:
    """The actor to step with, None where only Stable-Baselines3's own loop will do."""
    policy = algorithm.policy
    ordinary = (
        type(buffer) is RolloutBuffer
        and isinstance(algorithm.observation_space, spaces.Box)
        and algorithm.device.type == "cpu"
        and type(policy).forward is ActorCriticPolicy.forward
        and np.issubdtype(algorithm.observation_space.dtype, np.floating)
    )
    mlp = as_mlp(policy) if ordinary else None
    return None if mlp is None else mlp.detach()


def collect(
    algorithm: "TrustRegionAlgorithm",
    mlp: Mlp,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """Fill ``rollout_buffer``; the arguments and the result are those of ``collect_rollouts``.

    :param mlp: the actor of the algorithm's policy, without a graph; environments and callbacks may use one
    """
    policy, head = algorithm.policy, action_head(algorithm.policy)
    policy.set_training_mode(False)
    rollout_buffer.reset()
    callback.on_rollout_start()

    space: Any = algorithm.action_space
    shape, is_box = (env.num_envs, *space.shape), isinstance(space, spaces.Box)
    noise = head(th.empty(n_rollout_steps, env.num_envs, mlp.n_outputs)).noise()
    time_limits: list[TimeLimit] = []
    for n_steps in range(n_rollout_steps):
        output = mlp(_as_rows(algorithm._last_obs, env.num_envs))
        if not math.isfinite(output.sum()):
            raise ValueError(_complaint(output, n_steps))
        actions = head(output).sample(noise[n_steps]).reshape(shape).numpy()
        clipped_actions = np.minimum(np.maximum(actions, space.low), space.high) if is_box else actions
        new_obs, rewards, dones, infos = env.step(clipped_actions)
        algorithm.num_timesteps += env.num_envs

        callback.update_locals({**locals(), "self": algorithm})
        if not callback.on_step():
            return False

        algorithm._update_info_buffer(infos, dones)
        if dones.any():
            time_limits += [
                TimeLimit(n_steps, int(i), np.array(infos[i]["terminal_observation"]))
                for i in np.flatnonzero(dones)
                if infos[i].get("terminal_observation") is not None and infos[i].get("TimeLimit.truncated", False)
            ]
        rollout_buffer.observations[n_steps] = algorithm._last_obs
        rollout_buffer.actions[n_steps] = actions.reshape(env.num_envs, -1)
        rollout_buffer.rewards[n_steps] = rewards
        rollout_buffer.episode_starts[n_steps] = algorithm._last_episode_starts
        algorithm._last_obs = new_obs  # type: ignore[assignment]
        algorithm._last_episode_starts = dones

    _evaluate(policy, lambda rows: head(mlp(rows)), rollout_buffer, time_limits, algorithm.gamma)
    with th.no_grad():
        values = policy.predict_values(th.as_tensor(new_obs))
    rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    callback.update_locals({**locals(), "self": algorithm})
    callback.on_rollout_end()
    return True


@th.no_grad()
def _evaluate(
    policy: ActorCriticPolicy,
    actor: Callable[[Tensor], Head],
    buffer: RolloutBuffer,
    time_limits: list[TimeLimit],
    gamma: float,
) -> None:
    """Write the values and log-probabilities of the whole rollout, and bootstrap the rewards at time limits."""
    n_rows = buffer.buffer_size * buffer.n_envs
    observations = th.as_tensor(buffer.observations.reshape(n_rows, *buffer.obs_shape))
    actions = th.as_tensor(buffer.actions.reshape(n_rows, -1), dtype=th.float32)
    chunks = list(zip(th.split(observations, CHUNK), th.split(actions, CHUNK), strict=True))
    values = th.cat([policy.predict_values(x) for x, _ in chunks])
    log_probs = th.cat([actor(_as_rows(x, len(x))).log_prob(action) for x, action in chunks])
    buffer.values[:] = values.view(buffer.values.shape).numpy()
    buffer.log_probs[:] = log_probs.view(buffer.log_probs.shape).numpy()
    if time_limits:
        last = th.as_tensor(np.stack([limit.observation for limit in time_limits]))
        for limit, value in zip(time_limits, policy.predict_values(last).flatten().numpy(), strict=True):
            buffer.rewards[limit.step, limit.env] += gamma * value
    buffer.pos, buffer.full = buffer.buffer_size, True


def _complaint(output: Tensor, step: int) -> str:
    """Which environment made the actor's output something else than finite numbers."""
    env = int((~th.isfinite(output)).any(-1).nonzero()[0])
    return (
        f"the policy's output is not finite at step {step} of the rollout in environment {env}: "
        "its observation holds NaN, infinity or huge values, or the policy's weights do"
    )


def _as_rows(observations: Any, n_rows: int) -> Tensor:
    """The features of vectors: float32, one row each."""
    return th.as_tensor(observations, dtype=th.float32).reshape(n_rows, -1)
