r"""What a problem whose answers are known has in common with others: its objective, its episodes, their weights.

H steps an episode, discount gamma, and a policy that sees the state s but not the time t:

.. math:: J(\theta) = E \sum_{t<H} \gamma^t r_t, \qquad
          \nabla J = E \sum_{t<H} \gamma^t \, A_t(s_t, a_t) \, \nabla \log \pi_\theta(a_t | s_t)

A_t is the advantage over what is left of the episode, hence a function of time as well. The horizon is the end of the
task and no time limit: after the last step comes nothing, and nothing is bootstrapped.

Step t of each of E episodes has the weight

.. math:: w = \frac{\gamma^t}{E \, \Gamma}, \qquad \Gamma = \sum_{t<H} \gamma^t

Weights sum to one; without discount they are uniform. All episodes have the same length, so that no weight depends on
what happened, and at the policy which sampled the episodes expectations hold exactly, for one episode as for many:

.. math:: E[\nabla L] = \nabla J / \Gamma, \qquad
          E\Big[\sum_n w_n F(s_n)\Big] = F = \frac1\Gamma \sum_{t<H} \gamma^t \, E_{s_t}[F(s_t)]

with L of `sb3_trpo.core.surrogate`, and F(s) the Fisher matrix of the policy in state s.
"""

from abc import ABC, abstractmethod
from itertools import accumulate
from typing import Any, NamedTuple

import torch as th
from torch import Tensor

from sb3_trpo.core.distributions import MetricDistribution
from sb3_trpo.core.fisher import AutogradJacobian, GaussNewton
from sb3_trpo.core.problem import SurrogateBatch
from sb3_trpo.core.surrogate import Surrogate


class Episodes(NamedTuple):
    """E whole episodes, one after the other: N = E H rows, row ``e H + t`` is step t of episode e.

    ``values`` V_t(s_t) and ``advantages`` A_t(s_t, a_t) are exact, of the policy that acted; ``returns`` are what it
    got, ``sum_k gamma^k r_{t+k}`` from t to the end. ``x.view(E, H).T`` is the form (T, E) of a rollout.
    """

    observations: Tensor
    actions: Tensor
    log_prob: Tensor
    rewards: Tensor
    next_observations: Tensor
    times: Tensor
    clusters: Tensor
    weights: Tensor
    values: Tensor
    returns: Tensor
    advantages: Tensor

    @property
    def episode_starts(self) -> Tensor:
        """Whether a row (N,) is the first of its episode."""
        return self.times == 0

    def with_monte_carlo_advantages(self) -> "Episodes":
        """The same steps with ``returns - values`` for advantages: their mean is exact, their noise a training's."""
        return self._replace(advantages=self.returns - self.values)

    def split(self, n_episodes: int) -> list["Episodes"]:
        """Independent samples of ``n_episodes`` each, as if each had been sampled for itself, but at once.

        :raises ValueError: when the episodes cannot be dealt out evenly
        """
        total = int(self.clusters[-1]) + 1
        if n_episodes < 1 or total % n_episodes:
            raise ValueError(f"n_episodes={n_episodes!r} must divide the {total} episodes of the sample")
        rows = zip(*(column.split(n_episodes * len(column) // total) for column in self), strict=True)
        pieces = (Episodes(*columns) for columns in rows)
        share = total / n_episodes
        return [p._replace(weights=share * p.weights, clusters=p.clusters - p.clusters[0]) for p in pieces]


def batches_of(episodes: Episodes) -> list[SurrogateBatch]:
    """All of ``episodes`` as the one batch of `sb3_trpo.core.problem.constrained_problem`."""
    surrogate = Surrogate(episodes.actions, episodes.log_prob, episodes.advantages, episodes.weights)
    return [SurrogateBatch(episodes.observations, episodes.weights, surrogate, episodes.clusters)]


class ExactProblem(ABC):
    """A task and a policy in it; a policy of `sb3_trpo.core.problem`, all in float64.

    What is exact is so for the parameters as they stand, P numbers in the order of ``parameters``.

    :param parameters: tensors that the policy is made of; they are taken over, and start to require gradients
    :raises ValueError: when the horizon is not positive or the discount is not in (0, 1]
    """

    def __init__(self, parameters: list[Tensor], horizon: int, discount: float):
        if horizon < 1:
            raise ValueError(f"horizon={horizon!r} must be at least 1: an episode has steps")
        if not 0.0 < discount <= 1.0:
            raise ValueError(f"discount={discount!r} must be in (0, 1]")
        self.horizon, self.discount = horizon, discount
        self.parameters = [parameter.requires_grad_() for parameter in parameters]
        self.discounts = discount ** th.arange(horizon, dtype=th.float64)
        """``gamma^t`` (H,)."""

    @property
    def effective_horizon(self) -> float:
        """Gamma, by which the gradient of J exceeds that of the surrogate."""
        return float(self.discounts.sum())

    def distribution(self, observations: Tensor) -> MetricDistribution:
        """The action distributions of N states, as constants."""
        with th.no_grad():
            return _constant(self.policy(observations))

    def linearize(self, observations: Tensor) -> GaussNewton:
        """The policy near the parameters as they stand."""
        with th.enable_grad():
            attached = self.policy(observations)
        return GaussNewton(AutogradJacobian(attached.parameters, self.parameters), _constant(attached))

    def exact_return(self) -> float:
        """``J(theta)``."""
        with th.no_grad():
            return float(self.return_of(*self.parameters))

    @th.no_grad()
    def sample(self, n_episodes: int, generator: th.Generator) -> Episodes:
        """Episodes of the policy as it stands; all that is random comes from ``generator``.

        :raises ValueError: when there are no episodes to sample
        """
        if n_episodes < 1:
            raise ValueError(f"n_episodes={n_episodes!r} must be at least 1")
        steps, states = [], self.start(n_episodes, generator)
        for _ in range(self.horizon):
            actions = self.act(states, generator)
            rewards, successors = self.step(states, actions, generator)
            steps.append((states, actions, rewards, successors))
            states = successors
        columns = [th.stack(column, 1) for column in zip(*steps, strict=True)]
        observations, actions, rewards, next_observations = (column.flatten(0, 1) for column in columns)
        backwards = accumulate(columns[2].flip(1).unbind(1), lambda after, now: now + self.discount * after)
        times = th.arange(self.horizon).repeat(n_episodes)
        return Episodes(
            observations=observations,
            actions=actions,
            log_prob=self.policy(observations).log_prob(actions),
            rewards=rewards,
            next_observations=next_observations,
            times=times,
            clusters=th.arange(n_episodes).repeat_interleave(self.horizon),
            weights=self.discounts[times] / (n_episodes * self.effective_horizon),
            values=self.exact_values(observations, times),
            returns=th.stack(list(backwards), 1).flip(1).flatten(),
            advantages=self.exact_advantages(observations, actions, times),
        )

    @abstractmethod
    def policy(self, observations: Tensor) -> MetricDistribution:
        """The action distributions of N states, in the graph of the parameters."""

    @abstractmethod
    def return_of(self, *parameters: Any) -> Tensor:
        """J () of other parameters, which it can be differentiated in."""

    @abstractmethod
    def optimal_return(self) -> float:
        """The best J of all policies, those that see the time as well: an upper bound for ours."""

    @abstractmethod
    def exact_gradient(self) -> Tensor:
        """``nabla J`` (P,)."""

    @abstractmethod
    def exact_fisher(self) -> Tensor:
        """F (P, P) over the states that the policy visits, with their weights."""

    @abstractmethod
    def exact_values(self, observations: Tensor, times: Tensor) -> Tensor:
        """V_t(s_t) (N,) of the policy as it stands, whoever came to these states."""

    @abstractmethod
    def exact_advantages(self, observations: Tensor, actions: Tensor, times: Tensor) -> Tensor:
        """A_t(s_t, a_t) (N,) of the policy as it stands, whoever acted."""

    @abstractmethod
    def start(self, n_episodes: int, generator: th.Generator) -> Tensor:
        """First states."""

    @abstractmethod
    def act(self, states: Tensor, generator: th.Generator) -> Tensor:
        """Actions of the policy, one a state."""

    @abstractmethod
    def step(self, states: Tensor, actions: Tensor, generator: th.Generator) -> tuple[Tensor, Tensor]:
        """Rewards (N,) and the states that follow."""


def _constant(distribution: MetricDistribution) -> MetricDistribution:
    """A snapshot, which does not follow the parameters."""
    return distribution.with_parameters(tuple(p.detach().clone() for p in distribution.parameters))
