r"""The linear-quadratic regulator with a linear-Gaussian policy.

.. math:: x_{t+1} = A x_t + B u_t + L \xi_t, \qquad r_t = -(x_t^T Q x_t + u_t^T R u_t), \qquad x_0 = L_0 \xi

.. math:: u_t = K x_t + e_t, \qquad e_t \sim N(0, \Sigma), \qquad \Sigma = diag(\exp(2 \log\sigma))

with standard normal xi; parameters K (m, n) and log sigma (m,). Forwards in time go the second moments of the state,
backwards the value, which is quadratic:

.. math:: S_{t+1} = (A + BK) S_t (A + BK)^T + B \Sigma B^T + L L^T, \qquad S_0 = L_0 L_0^T

.. math:: V_t(x) = -(x^T P_t x + c_t), \qquad P_t = Q + K^T R K + \gamma (A + BK)^T P_{t+1} (A + BK), \qquad P_H = 0

.. math:: A_t(x, u) = tr(M_t \Sigma) - e^T M_t e - 2 e^T E_t x, \qquad
          M_t = R + \gamma B^T P_{t+1} B, \qquad E_t = M_t K + \gamma B^T P_{t+1} A

and the moments of a normal e leave of the policy gradient

.. math:: \nabla_K J = -2 \sum_t \gamma^t E_t S_t, \qquad
          \nabla_{\log\sigma_i} J = -2 \sum_t \gamma^t (M_t)_{ii} \sigma_i^2

(Fazel et al. 2018, arXiv 1801.05039, lemma 1, here with a finite horizon, noise, and a stochastic policy.)
"""

from typing import NamedTuple

import torch as th
from torch import Tensor

from benchmarks.exact.problem import ExactProblem
from sb3_trpo.core.distributions import Gaussian


class Model(NamedTuple):
    """n state dimensions, m actions: ``A`` (n, n), ``B`` (n, m), ``Q`` (n, n) and ``R`` (m, m) symmetric, R positive
    definite; factors ``noise`` L and ``start`` L_0 (n, n) of the covariances of noise and first state.
    """

    A: Tensor
    B: Tensor
    Q: Tensor
    R: Tensor
    noise: Tensor
    start: Tensor


class LinearQuadratic(ExactProblem):
    """The regulator, its policy with K = 0 and log sigma = -1 at first."""

    def __init__(self, model: Model, horizon: int, discount: float = 1.0):
        n_actions, n_states = model.B.mT.shape
        self.model = model
        self.gain = th.zeros(n_actions, n_states, dtype=th.float64)
        self.log_std = th.full((n_actions,), -1.0, dtype=th.float64)
        super().__init__([self.gain, self.log_std], horizon, discount)

    @classmethod
    def random(
        cls, seed: int, n_states: int = 4, n_actions: int = 2, horizon: int = 20, discount: float = 1.0
    ) -> "LinearQuadratic":
        """Dynamics that neither fade nor explode when left alone: A has spectral radius one. Actions are cheap."""
        generator = th.Generator().manual_seed(seed)
        A = th.randn(n_states, n_states, dtype=th.float64, generator=generator)
        B = th.randn(n_states, n_actions, dtype=th.float64, generator=generator) / n_states**0.5
        A = A / th.linalg.eigvals(A).abs().max()
        state, action = th.eye(n_states, dtype=th.float64), th.eye(n_actions, dtype=th.float64)
        return cls(Model(A, B, Q=state, R=0.1 * action, noise=0.3 * state, start=state), horizon, discount)

    def policy(self, observations: Tensor) -> Gaussian:
        """``N(K x, Sigma)``."""
        return Gaussian(observations @ self.gain.mT, self.log_std)

    def return_of(self, gain: Tensor, log_std: Tensor) -> Tensor:
        """``-sum_t gamma^t (tr((Q + K^T R K) S_t) + tr(R Sigma))``."""
        _, _, Q, R, _, _ = self.model
        cost = Q + gain.mT @ R @ gain
        costs = th.einsum("ij,tij->t", cost, self._second_moments(gain, log_std)) + _trace(R @ _covariance(log_std))
        return -(self.discounts * costs).sum()

    def optimal_return(self) -> float:
        """Riccati's recursion: ``P_t = Q + gamma A^T P A - gamma^2 A^T P B (R + gamma B^T P B)^-1 B^T P A``."""
        A, B, Q, R, L, L_0 = self.model
        P, c = th.zeros_like(Q), th.zeros((), dtype=th.float64)
        for _ in range(self.horizon):
            c = self.discount * (c + _trace(P @ L @ L.mT))
            PA, PB = self.discount * P @ A, self.discount * P @ B
            P = Q + A.mT @ PA - PA.mT @ B @ th.linalg.solve(R + B.mT @ PB, B.mT @ PA)
        return -float(_trace(P @ L_0 @ L_0.mT) + c)

    @th.no_grad()
    def exact_gradient(self) -> Tensor:
        """``-2 sum_t gamma^t E_t S_t`` and ``-2 sum_t gamma^t diag(M_t) sigma^2``, (m n + m,)."""
        M, E = self._advantage_matrices()
        S = self._second_moments(self.gain, self.log_std)
        by_gain = -2.0 * th.einsum("t,tai,tij->aj", self.discounts, E, S)
        by_log_std = -2.0 * (self.discounts @ M.diagonal(dim1=1, dim2=2)) * th.exp(2 * self.log_std)
        return th.cat([by_gain.flatten(), by_log_std])

    @th.no_grad()
    def exact_fisher(self) -> Tensor:
        """``S / sigma_i^2`` for row i of K, S the mean second moment of the state, and 2 for each log sigma."""
        S = th.einsum("t,tij->ij", self.discounts, self._second_moments(self.gain, self.log_std))
        of_gain = th.kron(th.diag(th.exp(-2 * self.log_std)), S / self.effective_horizon)
        return th.block_diag(of_gain, 2.0 * th.eye(len(self.log_std), dtype=th.float64))

    @th.no_grad()
    def exact_values(self, observations: Tensor, times: Tensor) -> Tensor:
        """``-(x^T P_t x + c_t)``."""
        P, c = self._value_matrices()
        return -(_quadratic(P[times], observations) + c[times])

    @th.no_grad()
    def exact_advantages(self, observations: Tensor, actions: Tensor, times: Tensor) -> Tensor:
        """``tr(M_t Sigma) - e^T M_t e - 2 e^T E_t x``."""
        M, E = self._advantage_matrices()
        e = actions - observations @ self.gain.mT
        expected = M.diagonal(dim1=1, dim2=2) @ th.exp(2 * self.log_std)
        return expected[times] - _quadratic(M[times], e) - 2.0 * th.einsum("na,nai,ni->n", e, E[times], observations)

    def start(self, n_episodes: int, generator: th.Generator) -> Tensor:
        """``L_0 xi``."""
        return self._normal(n_episodes, len(self.model.A), generator) @ self.model.start.mT

    def act(self, states: Tensor, generator: th.Generator) -> Tensor:
        """``K x + e``."""
        return states @ self.gain.mT + self._normal(len(states), len(self.log_std), generator) * self.log_std.exp()

    def step(self, states: Tensor, actions: Tensor, generator: th.Generator) -> tuple[Tensor, Tensor]:
        """``-(x^T Q x + u^T R u)`` and ``A x + B u + L xi``."""
        A, B, Q, R, L, _ = self.model
        xi = self._normal(len(states), len(A), generator)
        return -(_quadratic(Q, states) + _quadratic(R, actions)), states @ A.mT + actions @ B.mT + xi @ L.mT

    def _second_moments(self, gain: Tensor, log_std: Tensor) -> Tensor:
        """S_t (H, n, n)."""
        A, B, _, _, L, L_0 = self.model
        closed = A + B @ gain
        moments, disturbance = [L_0 @ L_0.mT], B @ _covariance(log_std) @ B.mT + L @ L.mT
        for _ in range(self.horizon - 1):
            moments.append(closed @ moments[-1] @ closed.mT + disturbance)
        return th.stack(moments)

    def _value_matrices(self) -> tuple[Tensor, Tensor]:
        """P_t (H + 1, n, n) and c_t (H + 1,), from t = 0 to H."""
        A, B, Q, R, L, _ = self.model
        sigma = _covariance(self.log_std)
        closed, cost, disturbance = A + B @ self.gain, Q + self.gain.mT @ R @ self.gain, B @ sigma @ B.mT + L @ L.mT
        P, c = [th.zeros_like(Q)], [th.zeros((), dtype=th.float64)]
        for _ in range(self.horizon):
            c.append(_trace(R @ sigma) + self.discount * (_trace(P[-1] @ disturbance) + c[-1]))
            P.append(cost + self.discount * closed.mT @ P[-1] @ closed)
        return th.stack(P[::-1]), th.stack(c[::-1])

    def _advantage_matrices(self) -> tuple[Tensor, Tensor]:
        """M_t (H, m, m) and E_t (H, m, n)."""
        A, B, _, R, _, _ = self.model
        BP = self.discount * B.mT @ self._value_matrices()[0][1:]
        M = R + BP @ B
        return M, M @ self.gain + BP @ A

    @staticmethod
    def _normal(rows: int, columns: int, generator: th.Generator) -> Tensor:
        return th.randn(rows, columns, dtype=th.float64, generator=generator)


def _covariance(log_std: Tensor) -> Tensor:
    return th.diag(th.exp(2 * log_std))


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal().sum()


def _quadratic(matrix: Tensor, x: Tensor) -> Tensor:
    """``x_n^T M x_n`` (N,), for one matrix or one for each row."""
    return th.einsum("ni,nij,nj->n", x, matrix.expand(len(x), -1, -1), x)
