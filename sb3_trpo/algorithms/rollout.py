"""Collecting experience close to the environment's own speed.

Stepping needs an action and nothing else: the critic, the log-probabilities and the values at time limits are
evaluated in batches when the rollout is over. A plain perceptron acts from a copy of its weights in numpy and from
noise drawn for the whole rollout at once; any other policy acts by its own distribution, with the random numbers that
Stable-Baselines3's loop would draw. The buffer then holds what that loop would have stored for the same actions.
Callbacks find ``new_obs``, ``rewards``, ``dones``, ``infos``, ``actions``, ``clipped_actions``, ``n_steps`` and
``rollout_buffer`` in their locals on every step; ``values`` and ``log_probs`` are None until the rollout is over, and
``obs_tensor`` does not exist. A policy whose weights are others at the end than at the start is refused.
"""

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_trpo.algorithms.acting import Acting, PerceptronActing, acting_of
from sb3_trpo.algorithms.batches import select
from sb3_trpo.algorithms.critic import value_function
from sb3_trpo.algorithms.perceptrons import has_hooks, is_own
from sb3_trpo.algorithms.threads import one_numpy_thread
from sb3_trpo.algorithms.vec_env import lean_stepping
from sb3_trpo.core.activations import Array
from sb3_trpo.core.advantages import generalized_advantages
from sb3_trpo.core.parameters import flatten

CHUNK_ROWS, CHUNK_BYTES = 8192, 8 * 2**20
"""Observations evaluated at once after the rollout, so that memory does not grow with its length."""

if TYPE_CHECKING:
    from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm


class TimeLimit(NamedTuple):
    """An episode of environment ``env`` that was cut at ``step`` with that last ``observation``."""

    step: int
    env: int
    observation: Any


def applies(algorithm: "TrustRegionAlgorithm", env: VecEnv, buffer: RolloutBuffer, n_rollout_steps: int) -> bool:
    """Whether evaluating the critic after the rollout does what Stable-Baselines3's own loop would do."""
    policy = algorithm.policy
    own = ("forward", "get_distribution", "extract_features", "predict_values")
    return (
        type(buffer) in (RolloutBuffer, DictRolloutBuffer)
        and (buffer.buffer_size, buffer.n_envs) == (n_rollout_steps, env.num_envs)
        and _is_kept_whole(algorithm._last_obs, buffer.observations)
        and buffer.actions.dtype != np.float16
        and all(is_own(policy, name) for name in own)
        and not any(has_hooks(module) for module in (policy, policy.mlp_extractor))
    )


def _is_kept_whole(observations: Any, stored: Any) -> bool:
    """Whether the buffer keeps observations as the policy saw them, in float32 at least."""
    if isinstance(stored, dict):
        return all(_is_kept_whole(observations[key], array) for key, array in stored.items())
    is_narrower = stored.dtype.itemsize < min(observations.dtype.itemsize, 4)
    return bool(np.can_cast(observations.dtype, stored.dtype, "same_kind")) and not is_narrower


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
    policy, n_envs = algorithm.policy, env.num_envs
    policy.set_training_mode(False)
    rollout_buffer.reset()
    if algorithm.use_sde:
        policy.reset_noise(n_envs)
    callback.on_rollout_start()

    # after the callback, which may change both
    acting, weights = acting_of(algorithm, n_rollout_steps), flatten(list(policy.parameters()))
    in_bounds, store = _in_bounds(policy), _store_observations(rollout_buffer)
    actions_taken, rewards_got, starts = rollout_buffer.actions, rollout_buffer.rewards, rollout_buffer.episode_starts
    time_limits: list[TimeLimit] = []
    callback.update_locals(
        {
            "self": algorithm,
            "env": env,
            "callback": callback,
            "rollout_buffer": rollout_buffer,
            "n_rollout_steps": n_rollout_steps,
            "values": None,  # known when the rollout is over
            "log_probs": None,
        }
    )
    n_steps = 0
    is_in_numpy = isinstance(acting, PerceptronActing)
    with lean_stepping(env), one_numpy_thread() if is_in_numpy else nullcontext():
        while n_steps < n_rollout_steps:
            actions = acting.act(algorithm._last_obs, n_steps)
            clipped_actions = in_bounds(actions)
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            algorithm.num_timesteps += n_envs

            callback.update_locals(
                {
                    "n_steps": n_steps,
                    "actions": actions,
                    "clipped_actions": clipped_actions,
                    "new_obs": new_obs,
                    "rewards": rewards,
                    "dones": dones,
                    "infos": infos,
                }
            )
            if not callback.on_step():
                return False

            algorithm._update_info_buffer(infos, dones)
            if np.count_nonzero(dones):
                time_limits += [
                    TimeLimit(n_steps, int(i), deepcopy(infos[i]["terminal_observation"]))
                    for i in np.flatnonzero(dones)
                    if infos[i].get("terminal_observation") is not None and infos[i].get("TimeLimit.truncated", False)
                ]
            store(algorithm._last_obs, n_steps)
            actions_taken[n_steps] = actions.reshape(n_envs, -1)
            rewards_got[n_steps] = rewards
            starts[n_steps] = algorithm._last_episode_starts
            algorithm._last_obs = new_obs  # type: ignore[assignment]
            algorithm._last_episode_starts = dones
            n_steps += 1
            rollout_buffer.pos = n_steps

    if not th.equal(weights.nan_to_num(), flatten(list(policy.parameters())).nan_to_num()):
        raise ValueError(
            "a callback changed the policy's weights during the rollout, so that the log-probabilities of the actions "
            "taken are lost: change them in on_rollout_start, or pass fast_rollout=False"
        )
    values = _evaluate(algorithm, acting, rollout_buffer, time_limits, new_obs)
    _estimate_advantages(rollout_buffer, values, dones)
    log_probs = th.as_tensor(rollout_buffer.log_probs[-1])  # those of the last step, as in Stable-Baselines3's loop
    callback.update_locals({"values": values, "log_probs": log_probs, "n_steps": n_steps})
    callback.on_rollout_end()
    return True


def _in_bounds(policy: ActorCriticPolicy) -> Callable[[Array], Array]:
    """What turns the policy's actions into those that the environment takes."""
    space = policy.action_space
    if not isinstance(space, spaces.Box):
        return lambda actions: actions
    if policy.squash_output:
        return policy.unscale_action
    low, high = space.low, space.high
    return lambda actions: np.minimum(np.maximum(actions, low), high)


def _store_observations(buffer: RolloutBuffer) -> Callable[[Any, int], None]:
    """What writes the observations of a step into ``buffer``."""
    arrays = buffer.observations
    if isinstance(arrays, dict):

        def store_dict(observations: Any, step: int) -> None:
            for key, array in arrays.items():
                array[step] = observations[key].reshape(array.shape[1:])

        return store_dict

    def store(observations: Any, step: int) -> None:
        arrays[step] = observations.reshape(arrays.shape[1:])

    return store


@th.no_grad()
def _evaluate(
    algorithm: "TrustRegionAlgorithm",
    acting: Acting,
    buffer: RolloutBuffer,
    time_limits: list[TimeLimit],
    last_observations: Any,
) -> Tensor:
    """Write values and log-probabilities of the whole rollout, bootstrap the rewards at time limits.

    :return: the values (E, 1) of the last observations
    """
    policy, device = algorithm.policy, algorithm.device
    predict_values = value_function(policy)
    observations = _rows(buffer.observations)
    actions = buffer.actions.reshape(-1, buffer.action_dim)
    if isinstance(algorithm.action_space, spaces.Discrete):
        actions = actions[:, 0]
    values, log_probs = buffer.values.reshape(-1), buffer.log_probs.reshape(-1)
    for rows in _chunks(observations):
        obs = obs_as_tensor(select(observations, rows), device)
        values[rows] = predict_values(obs).flatten().cpu().numpy()
        taken = th.as_tensor(actions[rows], dtype=th.float32, device=device)
        log_probs[rows] = acting.log_prob(obs, taken).cpu().numpy()
    buffer.full = True
    for limits in (time_limits[i : i + 256] for i in range(0, len(time_limits), 256)):
        terminal, _ = policy.obs_to_tensor(_stack([limit.observation for limit in limits]))
        for limit, value in zip(limits, predict_values(terminal).flatten().cpu().numpy(), strict=True):
            buffer.rewards[limit.step, limit.env] += algorithm.gamma * value
    return predict_values(obs_as_tensor(last_observations, device))


def _estimate_advantages(buffer: RolloutBuffer, last_values: Tensor, dones: Array) -> None:
    """What ``compute_returns_and_advantage`` of the buffer computes."""
    buffer.advantages[:] = generalized_advantages(
        buffer.rewards,
        buffer.values,
        buffer.episode_starts,
        last_values.flatten().cpu().numpy(),
        dones,
        buffer.gamma,
        buffer.gae_lambda,
    )
    buffer.returns = buffer.advantages + buffer.values


def _rows(observations: Any) -> Any:
    """(T, E, ...) -> (T * E, ...), also in a dictionary."""
    if isinstance(observations, dict):
        return {key: _rows(array) for key, array in observations.items()}
    return observations.reshape(-1, *observations.shape[2:])


def _stack(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}
    return np.stack(observations)


def _chunks(observations: Any) -> list[slice]:
    """Slices of at most `CHUNK_ROWS` rows and about `CHUNK_BYTES`."""
    arrays = list(observations.values()) if isinstance(observations, dict) else [observations]
    n_rows, n_bytes = len(arrays[0]), sum(array.nbytes for array in arrays)
    size = max(1, min(n_rows * CHUNK_BYTES // max(n_bytes, 1), CHUNK_ROWS))
    return [slice(start, start + size) for start in range(0, n_rows, size)]
