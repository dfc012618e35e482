"""How actions come about during one rollout: a perceptron in numpy, or the policy's own distribution."""

import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from sb3_trpo.algorithms.action_distribution import action_head
from sb3_trpo.algorithms.batches import Observations
from sb3_trpo.algorithms.perceptrons import actor_mlp
from sb3_trpo.core.activations import Array
from sb3_trpo.core.folded_mlp import FoldedMlp
from sb3_trpo.core.mlp import Mlp
from sb3_trpo.core.sampling import sampler

if TYPE_CHECKING:
    from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm

FEW = 64
"""Numbers up to which Python looks at them faster than numpy does."""


class Acting(Protocol):
    """How actions come about during one rollout."""

    def act(self, observations: Any, step: int) -> Array:
        """Actions (E, ...) for the observations of E environments; a new array on every call."""

    def log_prob(self, observations: Observations, actions: Tensor) -> Tensor:
        """Log-probabilities (N,) of actions taken, (N, A)."""


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
        numbers = self._numbers
        is_finite = math.isfinite(sum(numbers.tolist())) if numbers.size <= FEW else np.isfinite(numbers).all()
        if not is_finite:
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


def _refuse_what_is_not_finite(output: Array, step: int) -> None:
    """Name the environment whose observation, or the weights, made NaN."""
    broken = (np.isnan(output) | np.isposinf(output)).any(0)
    if broken.any():
        raise ValueError(
            f"the policy's output is not finite at step {step} of the rollout in environment {np.argmax(broken)}: "
            "its observation holds NaN, infinity or huge values, or the policy's weights do"
        )
