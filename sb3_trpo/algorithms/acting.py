"""How actions come about during one rollout of a policy without memory: a perceptron in numpy, or its distribution."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from sb3_trpo.algorithms.action_distribution import action_head, masked
from sb3_trpo.algorithms.critic import value_function
from sb3_trpo.algorithms.exploration import exploration_of
from sb3_trpo.algorithms.perceptrons import actor_mlp
from sb3_trpo.algorithms.steps import Steps, even_slices, select
from sb3_trpo.core.activations import Array
from sb3_trpo.core.folded_mlp import FoldedMlp
from sb3_trpo.core.mlp import Mlp
from sb3_trpo.core.sampling import Head

if TYPE_CHECKING:
    from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm

FEW = 64
"""Numbers up to which Python looks at them faster than numpy does."""

CHUNK_ROWS, CHUNK_BYTES = 8192, 8 * 2**20
"""Observations evaluated at once after the rollout, so that memory does not grow with its length."""


class TimeLimit(NamedTuple):
    """An episode of environment ``env`` that was cut at ``step`` with that last ``observation``."""

    step: int
    env: int
    observation: Any


class End(NamedTuple):
    """How a rollout ended: episodes cut by a time limit, the observations after its last step, and whether those are
    the first of an episode.
    """

    time_limits: list[TimeLimit]
    observations: Any
    dones: Array


class Acting(Protocol):
    """How actions come about during one rollout."""

    is_in_numpy: bool
    """Whether that is done by small matrices in numpy."""

    def act(self, observations: Any, episode_starts: Array, masks: Array | None, step: int) -> Array:
        """Actions (E, ...) for the observations of E environments; a new array on every call."""

    def evaluate(self, buffer: RolloutBuffer, end: End) -> Tensor:
        """Write values and log-probabilities of the whole rollout, bootstrap the rewards at time limits.

        :return: the values (E, 1) of the last observations
        """

    def abandon(self, buffer: RolloutBuffer) -> None:
        """A callback has ended the rollout: leave things such that another can begin at the last step."""


def acting_of(algorithm: "TrustRegionAlgorithm", n_steps: int) -> Acting:
    """The cheapest way of acting that the policy allows."""
    policy, space = algorithm.policy, algorithm.observation_space
    mlp = actor_mlp(policy)
    if (
        mlp is not None
        and isinstance(space, spaces.Box)
        and np.issubdtype(space.dtype, np.floating)
        and algorithm.device.type == "cpu"
    ):
        return PerceptronActing(algorithm, mlp, n_steps)
    return PolicyActing(algorithm)


class WithoutMemory:
    """What both ways of acting share: a step is evaluated by itself."""

    def __init__(self, algorithm: "TrustRegionAlgorithm"):
        self._policy = algorithm.policy
        self._device = algorithm.device
        self._gamma = algorithm.gamma
        self._is_discrete = isinstance(algorithm.action_space, spaces.Discrete)

    def log_prob(self, steps: Steps, actions: Tensor) -> Tensor:
        """Log-probabilities (N,) of actions taken, (N, A)."""
        raise NotImplementedError

    @th.no_grad()
    def evaluate(self, buffer: RolloutBuffer, end: End) -> Tensor:
        """In chunks of many steps."""
        predict_values = value_function(self._policy)
        observations, masks = as_rows(buffer.observations), getattr(buffer, "action_masks", None)
        masks = None if masks is None else masks.reshape(-1, masks.shape[-1]).astype(bool)
        actions = buffer.actions.reshape(-1, buffer.action_dim)
        if self._is_discrete:
            actions = actions[:, 0]
        values, log_probs = buffer.values.reshape(-1), buffer.log_probs.reshape(-1)
        for rows in chunks(observations):
            obs = obs_as_tensor(select(observations, rows), self._device)
            steps = Steps(obs, None if masks is None else th.as_tensor(masks[rows], device=self._device))
            values[rows] = predict_values(steps).flatten().cpu().numpy()
            taken = th.as_tensor(actions[rows], dtype=th.float32, device=self._device)
            log_probs[rows] = self.log_prob(steps, taken).cpu().numpy()
        limits = end.time_limits
        for some in even_slices(len(limits), -(-len(limits) // 256)) if limits else ():
            terminal, _ = self._policy.obs_to_tensor(stack([limit.observation for limit in limits[some]]))
            for limit, value in zip(limits[some], predict_values(Steps(terminal)).flatten().tolist(), strict=True):
                buffer.rewards[limit.step, limit.env] += self._gamma * value
        return predict_values(Steps(obs_as_tensor(end.observations, self._device)))

    def abandon(self, buffer: RolloutBuffer) -> None:
        """Nothing is remembered."""


class Chooser:
    """Chooses actions by what a perceptron says, with noise that is drawn beforehand.

    :param head: what turns the perceptron's output into action distributions
    :param output: where the perceptron writes its output (K, E)
    """

    def __init__(self, algorithm: "TrustRegionAlgorithm", head: Callable[[Tensor], Head], output: Array, n_steps: int):
        self._shape = (algorithm.n_envs, *algorithm.action_space.shape)  # type: ignore[misc]
        self._output = output
        self._numbers = output.reshape(-1)
        self._sample = exploration_of(algorithm).sampler(head(th.empty(0, len(output))), n_steps)

    def choose(self, episode_starts: Array, masks: Array | None, step: int) -> Array:
        """The actions (E, ...) of a step; the output is overwritten where it is masked.

        :raises ValueError: when the output is NaN or infinite; -inf is a mask where it is a logit
        """
        numbers = self._numbers
        is_finite = math.isfinite(sum(numbers.tolist())) if numbers.size <= FEW else np.isfinite(numbers).all()
        if not is_finite:
            _refuse_what_is_not_finite(self._output, step)
        if masks is not None:
            np.copyto(self._output, -np.inf, where=~masks.T)
        return self._sample(self._output, step, episode_starts).reshape(self._shape)


class PerceptronActing(WithoutMemory):
    """Act from a copy of a perceptron's weights and from noise drawn beforehand."""

    is_in_numpy = True

    def __init__(self, algorithm: "TrustRegionAlgorithm", mlp: Mlp, n_steps: int):
        super().__init__(algorithm)
        self._mlp = mlp.detach()
        self._head = action_head(algorithm.policy)
        self._folded = FoldedMlp(mlp, algorithm.n_envs)
        self._columns = self._folded.as_columns(np.zeros((algorithm.n_envs, mlp.layers[0].weight.shape[1])))
        self._rows = self._columns[:-1].T
        self._chooser = Chooser(algorithm, self._head, self._folded.output, n_steps)

    def act(self, observations: Any, episode_starts: Array, masks: Array | None, step: int) -> Array:
        """One forward pass in numpy and one addition."""
        self._rows[:] = observations.reshape(self._rows.shape)
        self._folded.forward(self._columns)
        return self._chooser.choose(episode_starts, masks, step)

    def log_prob(self, steps: Steps, actions: Tensor) -> Tensor:
        """In closed form."""
        head = self._head(self._mlp(steps.actor_features(self._policy)))
        return masked(head, steps.action_masks).log_prob(actions)


class PolicyActing(WithoutMemory):
    """Act by the policy's own distribution."""

    is_in_numpy = False

    def __init__(self, algorithm: "TrustRegionAlgorithm"):
        super().__init__(algorithm)
        self._exploration = exploration_of(algorithm)
        self._n_envs = algorithm.n_envs
        self._sde_sample_freq = algorithm.sde_sample_freq if algorithm.use_sde else -1
        self._shape = (-1, *algorithm.action_space.shape)  # type: ignore[misc]

    @th.no_grad()
    def act(self, observations: Any, episode_starts: Array, masks: Array | None, step: int) -> Array:
        """Without the critic and without log-probabilities."""
        if self._sde_sample_freq > 0 and step % self._sde_sample_freq == 0:
            self._policy.reset_noise(self._n_envs)
        allowed = None if masks is None else th.as_tensor(masks, device=self._device)
        distribution = Steps(obs_as_tensor(observations, self._device), allowed).action_distribution(self._policy)
        actions = self._exploration.actions(distribution, episode_starts)
        return actions.reshape(self._shape).cpu().numpy()

    def log_prob(self, steps: Steps, actions: Tensor) -> Tensor:
        """By the policy's own distribution."""
        log_prob: Tensor = steps.action_distribution(self._policy).log_prob(actions)
        return log_prob


def as_rows(observations: Any) -> Any:
    """(T, E, ...) -> (T * E, ...), also in a dictionary."""
    if isinstance(observations, dict):
        return {key: as_rows(array) for key, array in observations.items()}
    return observations.reshape(-1, *observations.shape[2:])


def stack(observations: list[Any]) -> Any:
    """Observations of single environments as a batch."""
    if isinstance(observations[0], dict):
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}
    return np.stack(observations)


def chunks(observations: Any) -> list[slice]:
    """Slices of at most `CHUNK_ROWS` rows and about `CHUNK_BYTES`."""
    arrays = list(observations.values()) if isinstance(observations, dict) else [observations]
    n_rows, n_bytes = len(arrays[0]), sum(array.nbytes for array in arrays)
    size = max(1, min(n_rows * CHUNK_BYTES // max(n_bytes, 1), CHUNK_ROWS))
    return [slice(start, start + size) for start in range(0, n_rows, size)]


def _refuse_what_is_not_finite(output: Array, step: int) -> None:
    """Name the environment whose observation, or the weights, made NaN."""
    broken = (np.isnan(output) | np.isposinf(output)).any(0)
    if broken.any():
        raise ValueError(
            f"the policy's output is not finite at step {step} of the rollout in environment {np.argmax(broken)}: "
            "its observation holds NaN, infinity or huge values, or the policy's weights do"
        )
