"""Collecting experience close to the environment's own speed.

Stepping needs an action and nothing else: the critic, the log-probabilities and the values at time limits are
evaluated in batches when the rollout is over. A plain perceptron acts from a copy of its weights in numpy and from
noise drawn for the whole rollout at once; any other policy acts by its own distribution, with the random numbers that
Stable-Baselines3's loop would draw. The buffer then holds what that loop would have stored for the same actions;
callbacks see the same locals on every step, save ``values`` and ``log_probs``, which are None until the rollout is
over. A policy whose weights change during the rollout is refused.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_trpo.algorithms.action_distribution import action_head
from sb3_trpo.algorithms.batches import Observations
from sb3_trpo.algorithms.critic import value_function
from sb3_trpo.algorithms.perceptrons import actor_mlp, has_hooks
from sb3_trpo.algorithms.vec_env import lean_stepping
from sb3_trpo.core.activations import Array
from sb3_trpo.core.advantages import generalized_advantages
from sb3_trpo.core.folded_mlp import FoldedMlp
from sb3_trpo.core.mlp import Mlp
from sb3_trpo.core.sampling import sampler

CHUNK_BYTES = 8 * 2**20
"""Observations evaluated at once after the rollout, so that memory does not grow with its length."""

if TYPE_CHECKING:
    from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm


class TimeLimit(NamedTuple):
    """An episode of environment ``env`` that was cut at ``step`` with that last ``observation``."""

    step: int
    env: int
    observation: Any


class Acting(Protocol):
    """How actions come about during one rollout."""

    def act(self, observations: Any, step: int) -> Array:
        """Actions (E, ...) for the observations of E environments; a new array on every call."""

    def log_prob(self, observations: Observations, actions: Tensor) -> Tensor:
        """Log-probabilities (N,) of actions taken, (N, A)."""


def applies(algorithm: "TrustRegionAlgorithm", env: VecEnv, buffer: RolloutBuffer, n_rollout_steps: int) -> bool:
    """Whether evaluating the critic after the rollout does what Stable-Baselines3's own loop would do."""
    policy = algorithm.policy
    own = ("forward", "get_distribution", "extract_features", "predict_values")
    return (
        type(buffer) in (RolloutBuffer, DictRolloutBuffer)
        and (buffer.buffer_size, buffer.n_envs) == (n_rollout_steps, env.num_envs)
        and all(_is_own(policy, name) for name in own)
        and not any(has_hooks(module) for module in (policy, policy.mlp_extractor))
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
    policy, n_envs = algorithm.policy, env.num_envs
    policy.set_training_mode(False)
    rollout_buffer.reset()
    if algorithm.use_sde:
        policy.reset_noise(n_envs)
    callback.on_rollout_start()

    acting, version = _acting(algorithm, n_rollout_steps), _version(policy)  # after the callback, which may change both
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
    with lean_stepping(env):
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

    if _version(policy) != version:
        raise ValueError(
            "a callback changed the policy's weights during the rollout, so that the log-probabilities of the actions "
            "taken are lost: change them in on_rollout_start, or pass fast_rollout=False"
        )
    values = _evaluate(algorithm, acting, rollout_buffer, time_limits, new_obs)
    _estimate_advantages(rollout_buffer, values, dones)
    callback.update_locals({"values": values, "n_steps": n_steps})
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


def _acting(algorithm: "TrustRegionAlgorithm", n_steps: int) -> Acting:
    """The cheapest way of acting that the policy allows."""
    policy, space = algorithm.policy, algorithm.observation_space
    mlp = actor_mlp(policy)
    if (
        mlp is not None
        and isinstance(space, spaces.Box)
        and np.issubdtype(space.dtype, np.floating)
        and algorithm.device.type == "cpu"
    ):
        return PerceptronActing(policy, mlp, n_steps, algorithm.n_envs)
    return PolicyActing(algorithm)


class PerceptronActing:
    """Act from a copy of a perceptron's weights and from noise drawn beforehand."""

    def __init__(self, policy: ActorCriticPolicy, mlp: Mlp, n_steps: int, n_envs: int):
        self._mlp = mlp.detach()
        self._head = action_head(policy)
        self._shape = (n_envs, *policy.action_space.shape)  # type: ignore[misc]
        self._folded = FoldedMlp(mlp, n_envs)
        self._columns = self._folded.as_columns(np.zeros((n_envs, mlp.layers[0].weight.shape[1])))
        self._rows = self._columns[:-1].T
        self._output = self._folded.output
        self._numbers = self._output.reshape(-1)
        self._sampler = sampler(self._head(th.empty(0, mlp.n_outputs)), n_steps, n_envs)

    def act(self, observations: Any, step: int) -> Array:
        """One forward pass in numpy and one addition.

        :raises ValueError: when the output is NaN or infinite; -inf is a mask where it is a logit
        """
        self._rows[:] = observations.reshape(self._rows.shape)
        self._folded.forward(self._columns)
        if not math.isfinite(sum(self._numbers.tolist())):  # a few numbers: Python is faster than numpy
            _refuse_what_is_not_finite(self._output, step)
        return self._sampler.sample(self._output, step).reshape(self._shape)

    def log_prob(self, observations: Observations, actions: Tensor) -> Tensor:
        """In closed form."""
        assert isinstance(observations, Tensor)
        return self._head(self._mlp(observations.float().flatten(1))).log_prob(actions)


class PolicyActing:
    """Act by the policy's own distribution."""

    def __init__(self, algorithm: "TrustRegionAlgorithm"):
        self._policy = algorithm.policy
        self._device = algorithm.device
        self._n_envs = algorithm.n_envs
        self._sde_sample_freq = algorithm.sde_sample_freq if algorithm.use_sde else -1
        self._shape = (-1, *algorithm.action_space.shape)  # type: ignore[misc]

    @th.no_grad()
    def act(self, observations: Any, step: int) -> Array:
        """Without the critic and without log-probabilities."""
        if self._sde_sample_freq > 0 and step % self._sde_sample_freq == 0:
            self._policy.reset_noise(self._n_envs)
        distribution = self._policy.get_distribution(obs_as_tensor(observations, self._device))
        actions: Array = distribution.get_actions().reshape(self._shape).cpu().numpy()
        return actions

    def log_prob(self, observations: Observations, actions: Tensor) -> Tensor:
        """By the policy's own distribution."""
        return self._policy.get_distribution(observations).log_prob(actions)


def _is_own(policy: ActorCriticPolicy, name: str) -> bool:
    """Whether a method of ``policy`` is Stable-Baselines3's own."""
    return getattr(getattr(policy, name), "__func__", None) is getattr(ActorCriticPolicy, name)


def _version(policy: ActorCriticPolicy) -> list[tuple[int, int]]:
    """Changes whenever a parameter is written to or replaced."""
    return [(parameter._version, parameter.data_ptr()) for parameter in policy.parameters()]


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
        obs = obs_as_tensor(_part(observations, rows), device)
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


def _part(observations: Any, rows: slice) -> Any:
    return {key: a[rows] for key, a in observations.items()} if isinstance(observations, dict) else observations[rows]


def _stack(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}
    return np.stack(observations)


def _chunks(observations: Any) -> list[slice]:
    """Slices of about `CHUNK_BYTES`."""
    arrays = list(observations.values()) if isinstance(observations, dict) else [observations]
    n_rows, n_bytes = len(arrays[0]), sum(array.nbytes for array in arrays)
    size = max(1, n_rows * CHUNK_BYTES // max(n_bytes, 1))
    return [slice(start, start + size) for start in range(0, n_rows, size)]


def _refuse_what_is_not_finite(output: Array, step: int) -> None:
    """Name the environment whose observation, or the weights, made NaN."""
    broken = (np.isnan(output) | np.isposinf(output)).any(0)
    if broken.any():
        raise ValueError(
            f"the policy's output is not finite at step {step} of the rollout in environment {np.argmax(broken)}: "
            "its observation holds NaN, infinity or huge values, or the policy's weights do"
        )
