r"""A Markov decision process of a few states and actions, with a softmax policy.

.. math:: \pi_\theta(a | s) \propto \exp \theta_{sa}, \qquad d_{t+1}(s') = \sum_{s, a} d_t(s) \, \pi(a|s) \, p(s'|s, a)

.. math:: Q_t(s, a) = r(s, a) + \gamma \sum_{s'} p(s' | s, a) V_{t+1}(s'), \qquad V_t(s) = \sum_a \pi(a|s) Q_t(s, a),
          \qquad V_H = 0

Forwards in time goes the distribution d_t of the state, backwards the value; and since a score is ``1_a - pi`` and
advantages have mean zero in each state, the policy gradient (Sutton et al. 2000, theorem 1) and the Fisher matrix are

.. math:: \frac{\partial J}{\partial \theta_{sa}} = \sum_t \gamma^t d_t(s) \, \pi(a|s) \, A_t(s, a), \qquad
          F_{sa, sb} = \frac1\Gamma \sum_t \gamma^t d_t(s) \, (\pi(a|s) 1_{ab} - \pi(a|s) \pi(b|s))

F is singular: a constant added to the logits of a state changes nothing.
"""

from typing import NamedTuple

import torch as th
from torch import Tensor

from benchmarks.exact.problem import ExactProblem
from sb3_trpo.core.distributions import Categorical


class Model(NamedTuple):
    """S states, A actions: ``transitions`` p(s' | s, a) (S, A, S), mean ``rewards`` r(s, a) (S, A), ``start`` d_0 (S,).

    A reward is normal, with standard deviation ``reward_std``: noise that returns have and advantages have not.
    """

    transitions: Tensor
    rewards: Tensor
    start: Tensor
    reward_std: float


class Tabular(ExactProblem):
    """The process, its policy uniform at first; states and actions are their numbers (N,)."""

    def __init__(self, model: Model, horizon: int, discount: float = 1.0):
        self.model = model
        self.logits = th.zeros_like(model.rewards)
        super().__init__([self.logits], horizon, discount)

    @classmethod
    def random(
        cls, seed: int, n_states: int = 5, n_actions: int = 3, horizon: int = 20, discount: float = 1.0
    ) -> "Tabular":
        """Transitions that prefer some states to others; rewards that vary more than their means do."""
        generator = th.Generator().manual_seed(seed)
        preferences = th.randn(n_states, n_actions, n_states, dtype=th.float64, generator=generator)
        rewards = th.randn(n_states, n_actions, dtype=th.float64, generator=generator)
        start = th.full((n_states,), 1.0 / n_states, dtype=th.float64)
        return cls(Model((2.0 * preferences).softmax(-1), rewards, start, reward_std=2.0), horizon, discount)

    def policy(self, observations: Tensor) -> Categorical:
        """Logits ``theta_s``."""
        return Categorical(self.logits[observations], (self.logits.shape[1],))

    def return_of(self, logits: Tensor) -> Tensor:
        """``sum_t gamma^t sum_sa d_t(s) pi(a|s) r(s, a)``."""
        rewards = (logits.softmax(-1) * self.model.rewards).sum(-1)
        return self.discounts @ self._occupancies(logits) @ rewards

    def optimal_return(self) -> float:
        """Bellman's optimality equation, backwards: ``V_t(s) = max_a Q_t(s, a)``."""
        V = th.zeros_like(self.model.start)
        for _ in range(self.horizon):
            V = self._action_values(V).amax(-1)
        return float(self.model.start @ V)

    @th.no_grad()
    def exact_gradient(self) -> Tensor:
        """``sum_t gamma^t d_t(s) pi(a|s) A_t(s, a)``, (S A,)."""
        V, Q = self._values()
        d = self._occupancies(self.logits)
        advantages = Q - V[:-1].unsqueeze(-1)
        return th.einsum("t,ts,sa,tsa->sa", self.discounts, d, self.logits.softmax(-1), advantages).flatten()

    @th.no_grad()
    def exact_fisher(self) -> Tensor:
        """``d(s) (diag(pi_s) - pi_s pi_s^T)`` for the logits of state s, d the mean distribution of the state."""
        d = self.discounts @ self._occupancies(self.logits) / self.effective_horizon
        pi = self.logits.softmax(-1)
        blocks = d.view(-1, 1, 1) * (th.diag_embed(pi) - pi.unsqueeze(-1) * pi.unsqueeze(-2))
        return th.block_diag(*blocks)

    @th.no_grad()
    def exact_values(self, observations: Tensor, times: Tensor) -> Tensor:
        """``V_t(s)``."""
        V, _ = self._values()
        return V[times, observations]

    @th.no_grad()
    def exact_advantages(self, observations: Tensor, actions: Tensor, times: Tensor) -> Tensor:
        """``Q_t(s, a) - V_t(s)``."""
        V, Q = self._values()
        return Q[times, observations, actions] - V[times, observations]

    def start(self, n_episodes: int, generator: th.Generator) -> Tensor:
        """States from d_0."""
        return self.model.start.multinomial(n_episodes, replacement=True, generator=generator)

    def act(self, states: Tensor, generator: th.Generator) -> Tensor:
        """Actions from ``pi(. | s)``."""
        return self.logits.softmax(-1)[states].multinomial(1, generator=generator).squeeze(-1)

    def step(self, states: Tensor, actions: Tensor, generator: th.Generator) -> tuple[Tensor, Tensor]:
        """``r(s, a)`` with its noise, and states from ``p(. | s, a)``."""
        successors = self.model.transitions[states, actions].multinomial(1, generator=generator).squeeze(-1)
        noise = self.model.reward_std * th.randn(len(states), dtype=th.float64, generator=generator)
        return self.model.rewards[states, actions] + noise, successors

    def _occupancies(self, logits: Tensor) -> Tensor:
        """d_t (H, S)."""
        transitions = th.einsum("sa,sax->sx", logits.softmax(-1), self.model.transitions)
        d = [self.model.start]
        for _ in range(self.horizon - 1):
            d.append(d[-1] @ transitions)
        return th.stack(d)

    def _values(self) -> tuple[Tensor, Tensor]:
        """V_t (H + 1, S), from t = 0 to H, and Q_t (H, S, A)."""
        pi = self.logits.softmax(-1)
        V, Q = [th.zeros_like(self.model.start)], []
        for _ in range(self.horizon):
            Q.append(self._action_values(V[-1]))
            V.append((pi * Q[-1]).sum(-1))
        return th.stack(V[::-1]), th.stack(Q[::-1])

    def _action_values(self, after: Tensor) -> Tensor:
        """``r + gamma p V`` (S, A) for values ``after`` (S,) of the step after."""
        return self.model.rewards + self.discount * self.model.transitions @ after
