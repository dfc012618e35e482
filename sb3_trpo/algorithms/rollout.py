"""Collecting experience close to the environment's own speed.

Stepping needs an action and nothing else: the critic, the log-probabilities and the values at time limits are
evaluated in batches when the rollout is over. A plain perceptron acts from a copy of its weights in numpy and from
noise drawn for the whole rollout at once; any other policy acts by its own distribution, with the random numbers that
Stable-Baselines3's loop would draw. The buffer then holds what that loop would have stored for the same actions.
Callbacks find ``new_obs``, ``rewards``, ``dones``, ``infos``, ``actions``, ``clipped_actions``, ``n_steps`` and
``rollout_buffer`` in their locals on every step; ``values`` and ``log_probs`` are None until the rollout is over, and
``obs_tensor`` does not exist. A policy whose weights are others at the end than at the start is refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_trpo.algorithms.acting import Acting, End, TimeLimit
from sb3_trpo.algorithms.action_start import for_environment, has_start
from sb3_trpo.algorithms.threads import one_numpy_thread
from sb3_trpo.core.activations import Array
from sb3_trpo.core.advantages import generalized_advantages
from sb3_trpo.core.parameters import flatten

if TYPE_CHECKING:
    from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm


def applies(algorithm: "TrustRegionAlgorithm", env: VecEnv, buffer: RolloutBuffer, n_rollout_steps: int) -> bool:
    """Whether evaluating the critic after the rollout does what Stable-Baselines3's own loop would do."""
    return (
        type(buffer) in algorithm.rollout_buffers
        and (buffer.buffer_size, buffer.n_envs) == (n_rollout_steps, env.num_envs)
        and _is_kept_whole(algorithm._last_obs, buffer.observations)
        and buffer.actions.dtype != np.float16
        and algorithm._acts_as_it_is_evaluated()
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
    acting, weights = algorithm._acting(rollout_buffer, n_rollout_steps), flatten(list(policy.parameters()))
    masks = algorithm._mask_source(env, rollout_buffer)
    as_taken, store = _as_taken(policy), _store_observations(rollout_buffer)
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
    with (
        one_numpy_thread() if acting.is_in_numpy else nullcontext(),
        _abandoned_if_left(acting, rollout_buffer),
    ):
        while n_steps < n_rollout_steps:
            actions = acting.act(algorithm._last_obs, algorithm._last_episode_starts, masks.at(n_steps), n_steps)  # type: ignore[arg-type]
            clipped_actions = as_taken(actions)
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
                acting.abandon(rollout_buffer)
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
    values = acting.evaluate(rollout_buffer, End(time_limits, new_obs, dones))
    rollout_buffer.full = True
    _estimate_advantages(rollout_buffer, values, dones)
    log_probs = th.as_tensor(rollout_buffer.log_probs[-1])  # those of the last step, as in Stable-Baselines3's loop
    callback.update_locals({"values": values, "log_probs": log_probs, "n_steps": n_steps})
    callback.on_rollout_end()
    return True


@contextmanager
def _abandoned_if_left(acting: Acting, buffer: RolloutBuffer) -> Iterator[None]:
    """Whatever ends the block before its end, another rollout can go on from there."""
    try:
        yield
    except BaseException:
        acting.abandon(buffer)
        raise


def _as_taken(policy: Any) -> Callable[[Array], Array]:
    """What turns the policy's actions into those that the environment takes."""
    space = policy.action_space
    if has_start(space):
        return lambda actions: for_environment(actions, space)
    if not isinstance(space, spaces.Box):
        return lambda actions: actions
    if policy.squash_output:
        unscale: Callable[[Array], Array] = policy.unscale_action
        return unscale
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


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is refused before the update
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
