"""Where the noise of actions in rollouts comes from: the policy's own distribution, or a process that remembers.

The three ways in which actions come about ask here: a perceptron in numpy, a distribution of Stable-Baselines3, and
the policy's ``forward`` in Stable-Baselines3's own loop. The same process gives all three the same actions.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import DiagGaussianDistribution, SquashedDiagGaussianDistribution
from torch import Tensor

from sb3_trpo.algorithms.steps import Steps
from sb3_trpo.core import sampling
from sb3_trpo.core.activations import Array
from sb3_trpo.core.distributions import Gaussian
from sb3_trpo.core.sampling import Head
from sb3_trpo.extensions.correlated_noise import NoiseProcess

if TYPE_CHECKING:
    from sb3_trpo.algorithms.configured import ConfiguredAlgorithm

Sample: TypeAlias = Callable[[Array, int, Array], Array]
"""Parameters (K, E), the step of the rollout and the episode starts (E,) -> actions (E, ...), new on every call."""


class Exploration(Protocol):
    """Where the noise comes from."""

    def sampler(self, head: Head, n_steps: int) -> Sample:
        """What samples actions in numpy during a rollout of ``n_steps``, with the scale that ``head`` has."""

    def actions(self, distribution: Any, episode_starts: Array) -> Tensor:
        """Actions (E, A) of Stable-Baselines3's distribution."""

    def in_forward(self, buffer: RolloutBuffer) -> AbstractContextManager[None]:
        """Inside the block, in which ``buffer`` is filled, the actions of the policy's ``forward`` are these."""


def exploration_of(algorithm: "ConfiguredAlgorithm") -> Exploration:
    """By the process of the algorithm, if it has one."""
    process = algorithm.noise_process
    return OwnNoise(algorithm.n_envs) if process is None else ProcessNoise(algorithm, process)


def begin_noise(algorithm: "ConfiguredAlgorithm") -> None:
    """Begin the streams of the process, if there is one, from a seed that numpy's global generator gives.

    Not from the model's seed itself: environments have generators of that seed, too.

    :raises ValueError: when the policy is not Gaussian
    """
    process = algorithm.noise_process
    if process is None:
        return
    kind = type(algorithm.policy.action_dist)
    if kind not in (DiagGaussianDistribution, SquashedDiagGaussianDistribution):
        raise ValueError(
            f"action_noise={algorithm.action_noise!r} is for diagonal Gaussian distributions, and that of "
            f"{type(algorithm.policy).__name__} is a {kind.__name__}: leave it None"
        )
    seed = np.random.randint(2**32, size=4, dtype=np.uint32)  # noqa: NPY002
    process.begin(algorithm.n_envs, int(np.prod(algorithm.action_space.shape)), np.random.default_rng(seed))  # type: ignore[arg-type]


class OwnNoise:
    """The policy's own, independent from step to step."""

    def __init__(self, n_envs: int):
        self._n_envs = n_envs

    def sampler(self, head: Head, n_steps: int) -> Sample:
        """With noise drawn for the whole rollout at once."""
        drawn = sampling.sampler(head, n_steps, self._n_envs)
        return lambda parameters, step, episode_starts: drawn.sample(parameters, step)

    def actions(self, distribution: Any, episode_starts: Array) -> Tensor:
        """As the distribution draws them."""
        drawn: Tensor = distribution.get_actions()
        return drawn

    def in_forward(self, buffer: RolloutBuffer) -> AbstractContextManager[None]:
        """They are."""
        return nullcontext()


class ProcessNoise:
    """That of a process: a = mu + sigma x, squashed where the distribution squashes."""

    def __init__(self, algorithm: "ConfiguredAlgorithm", process: NoiseProcess):
        self._algorithm, self._process = algorithm, process

    def sampler(self, head: Head, n_steps: int) -> Sample:
        """With the std of the rollout, a row for each environment: numpy broadcasts small rows slowly."""
        assert isinstance(head, Gaussian)
        std, process = np.tile(head.log_std.detach().exp().numpy(), (self._algorithm.n_envs, 1)), self._process

        def sample(mean: Array, step: int, episode_starts: Array) -> Array:
            actions: Array = std * process.next(episode_starts)
            actions += mean.T
            return actions

        return sample

    def actions(self, distribution: Any, episode_starts: Array) -> Tensor:
        """Of a step, to which the process goes on."""
        return _gaussian_actions(distribution, self._process.next(episode_starts))

    @contextmanager
    def in_forward(self, buffer: RolloutBuffer) -> Iterator[None]:
        """By a method in place of the distribution's own while ``forward`` runs: `predict` samples as ever.

        The process goes on once for each step up to which ``buffer`` is filled, also where a callback calls the policy
        as well; a copy of the policy, and other observations than those of the environments, are left alone.

        :raises ValueError: from a ``forward`` that does not sample from the policy's distribution
        """
        own, n_envs = self._algorithm.policy, self._algorithm.n_envs
        distribution = own.action_dist
        step, noise, unused = -1, np.empty(0), False

        def sample() -> Tensor:
            nonlocal unused
            unused = False
            return _gaussian_actions(distribution, noise)

        def begin(policy: Any, args: Any) -> None:
            nonlocal step, noise, unused
            if policy is not own or buffer.pos == buffer.buffer_size or len(Steps(args[0])) != n_envs:
                return
            if step != buffer.pos:
                step, noise = buffer.pos, self._process.next(self._algorithm._last_episode_starts)  # type: ignore[arg-type]
            distribution.sample, unused = sample, True

        def end(policy: Any, args: Any, answers: Any) -> None:
            if policy is not own or "sample" not in vars(distribution):
                return
            del distribution.sample
            if unused and answers is not None:
                raise ValueError(
                    f"action_noise={self._algorithm.action_noise!r} has no part in the actions of "
                    f"{type(policy).__name__}: let forward sample from policy.action_dist, or leave action_noise None"
                )

        hooks = own.register_forward_pre_hook(begin), own.register_forward_hook(end, always_call=True)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _gaussian_actions(distribution: Any, noise: Array) -> Tensor:
    """mu + sigma x (E, A) of Stable-Baselines3's diagonal Gaussian, or tanh of it."""
    mean, std = distribution.distribution.mean, distribution.distribution.stddev
    gaussian: Tensor = mean + std * th.as_tensor(noise, dtype=mean.dtype, device=mean.device)
    return gaussian.tanh() if isinstance(distribution, SquashedDiagGaussianDistribution) else gaussian
