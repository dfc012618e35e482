"""Collecting experience close to the environment's own speed.

Stepping needs an action and nothing else. Where the actor is a plain perceptron it is evaluated alone, without
distribution objects, on noise drawn for the whole rollout at once. Values, log-probabilities and the values at time
limits are computed in one batch when the rollout is over. The buffer then holds what Stable-Baselines3's own loop
would have stored for the same actions; callbacks see the same locals on every step, save ``values`` and
``log_probs``, which are None until the rollout is over. A policy whose weights change during the rollout is refused.
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
from sb3_trpo.algorithms.actor import as_mlp, has_hooks
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


def applies(algorithm: "TrustRegionAlgorithm", env: VecEnv, buffer: RolloutBuffer, n_rollout_steps: int) -> bool:
    """Whether stepping with the actor alone does what Stable-Baselines3's own loop would do."""
    policy, space = algorithm.policy, algorithm.observation_space
    return (
        type(buffer) is RolloutBuffer
        and (buffer.buffer_size, buffer.n_envs) == (n_rollout_steps, env.num_envs)
        and isinstance(space, spaces.Box)
        and np.issubdtype(space.dtype, np.floating)
        and algorithm.device.type == "cpu"
        and getattr(policy.forward, "__func__", None) is ActorCriticPolicy.forward
        and not policy.squash_output
        and as_mlp(policy) is not None
        and not has_hooks(policy)
        and not has_hooks(policy.mlp_extractor)
    )


def collect(
    algorithm: "TrustRegionAlgorithm",
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """Fill ``rollout_buffer``; the arguments and the result are those of ``collect_rollouts``.

    :raises ValueError: when the actor's output is not finite, or a callback changed the policy on the way
    """
    policy, space = algorithm.policy, algorithm.action_space
    policy.set_training_mode(False)
    rollout_buffer.reset()
    callback.on_rollout_start()

    mlp, version = _actor_of_the_moment(policy), _version(policy)  # after the callback, which may have changed them
    head = action_head(policy)
    noise = head(th.empty(n_rollout_steps, env.num_envs, mlp.n_outputs)).noise()
    shape = (env.num_envs, *space.shape)  # type: ignore[misc]
    time_limits: list[TimeLimit] = []
    values = log_probs = None  # known when the rollout is over; named for callbacks
    n_steps = 0
    while n_steps < n_rollout_steps:
        obs_tensor = th.as_tensor(algorithm._last_obs)
        output = mlp(_as_rows(obs_tensor))
        if not math.isfinite(output.sum()):
            _refuse_what_is_not_finite(output, n_steps)
        actions = head(output).sample(noise[n_steps]).reshape(shape).numpy()
        clipped_actions = actions
        if isinstance(space, spaces.Box):
            clipped_actions = np.minimum(np.maximum(actions, space.low), space.high)
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
        n_steps += 1
        rollout_buffer.pos = n_steps

    if _version(policy) != version:
        raise ValueError(
            "a callback changed the policy's weights during the rollout, so that the log-probabilities of the actions "
            "taken are lost: change them in on_rollout_start, or pass fast_rollout=False"
        )
    _evaluate(policy, lambda rows: head(mlp(rows)), rollout_buffer, time_limits, algorithm.gamma)
    with th.no_grad():
        values = policy.predict_values(th.as_tensor(new_obs))
    rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    callback.update_locals({**locals(), "self": algorithm})
    callback.on_rollout_end()
    return True


def _actor_of_the_moment(policy: ActorCriticPolicy) -> Mlp:
    """The actor without a graph; environments and callbacks may use one of their own."""
    mlp = as_mlp(policy)
    if mlp is None:
        raise ValueError("a callback changed the policy's layers at the start of a rollout: pass fast_rollout=False")
    return mlp.detach()


def _version(policy: ActorCriticPolicy) -> list[tuple[int, int]]:
    """Changes whenever a parameter is written to or replaced."""
    return [(parameter._version, parameter.data_ptr()) for parameter in policy.parameters()]


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
    log_probs = th.cat([actor(_as_rows(x)).log_prob(action) for x, action in chunks])
    buffer.values[:] = values.view(buffer.values.shape).numpy()
    buffer.log_probs[:] = log_probs.view(buffer.log_probs.shape).numpy()
    if time_limits:
        last = th.as_tensor(np.stack([limit.observation for limit in time_limits]))
        for limit, value in zip(time_limits, policy.predict_values(last).flatten().numpy(), strict=True):
            buffer.rewards[limit.step, limit.env] += gamma * value
    buffer.full = True


def _refuse_what_is_not_finite(output: Tensor, step: int) -> None:
    """Name the environment whose observation, or the weights, made NaN; -inf is a mask where it is a logit."""
    broken = output.isnan() | (output == math.inf)
    if bool(broken.any()):
        env = int(broken.any(-1).nonzero()[0])
        raise ValueError(
            f"the policy's output is not finite at step {step} of the rollout in environment {env}: "
            "its observation holds NaN, infinity or huge values, or the policy's weights do"
        )


def _as_rows(observations: Tensor) -> Tensor:
    """The features of vectors: float32, one row each."""
    return observations.float().flatten(1) if observations.dim() > 1 else observations.float().unsqueeze(1)
