r"""Exploration whose noise remembers: Gaussian in every step, correlated from step to step.

An action is a = mu(s) + sigma(s) x_t. Where the x_t of one environment and one dimension are independent, a robot
trembles; where they are correlated it goes somewhere. Each x_t by itself is exactly standard normal all the same, so
that an action has the probability that the policy gives it: ratios, KL divergence and Fisher matrix are untouched.

Colours are named by the power spectrum S(f) ~ f^-beta: white 0, pink 1, red 2. On-policy, half way to pink is best on
average (beta = 0.5: Hollenstein, Martius & Piater 2024, arXiv 2312.11091); off-policy it is pink (Eberhard et al. 2023,
"Pink Noise Is All You Need"). A process has a stream (A,) for each of E environments, all of them and all their
dimensions independent. A stream begins anew with an episode: what was before has no part in it. (The code of the first
paper lets streams run on through the ends of episodes.)

What is given up: *given the state*, to which earlier numbers of the same stream have led, x_t is not standard normal.
Its score has a mean there, which a baseline no longer leaves alone, so that the estimated policy gradient is biased,
the more so the longer the correlation.
"""

import math
from dataclasses import dataclass, field
from functools import cache
from numbers import Integral
from typing import Protocol

import numpy as np

from sb3_trpo.core.activations import Array

AHEAD = 64
"""Steps that a process with a short memory is run ahead."""


class NoiseProcess(Protocol):
    """The slot: streams of standard normal numbers. What they remember are attributes, which are saved."""

    def begin(self, n_envs: int, n_dims: int, generator: np.random.Generator) -> None:
        """Begin E streams of A numbers a step, drawn from ``generator``, which is the process's own from now on."""

    def next(self, episode_starts: Array) -> Array:
        """The numbers (E, A) of the coming step; the streams where ``episode_starts`` (E,) is true begin with it.

        Only to be read, and only until the next call.
        """


@dataclass
class OrnsteinUhlenbeckNoise:
    r"""An Ornstein-Uhlenbeck process, stationary and exactly discretised.

    .. math:: x_{t+1} = \phi x_t + \sqrt{1 - \phi^2} \, \xi_t, \quad \phi = e^{-1 / \tau}, \quad x_0, \xi_t \sim N(0, 1)

    so that ``E[x_t x_{t+k}] = phi^k``. It is run `AHEAD` steps at a time, for their numbers are linear in the last one
    and in xi. Differs from `OrnsteinUhlenbeckActionNoise` of Stable-Baselines3, which takes Euler steps from zero: the
    variance there begins at nothing and tends to one that depends on sigma, theta and dt.

    :param correlation_time: tau in steps, ``1 / (theta * dt)`` of the usual parameters; by default that of DDPG,
        theta = 0.15 and dt = 1 (Lillicrap et al. 2016); 0 is white
    :raises ValueError: when it is negative or not finite
    """

    correlation_time: float = 1 / 0.15

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        if not (math.isfinite(self.correlation_time) and self.correlation_time >= 0.0):
            raise ValueError(f"correlation_time={self.correlation_time!r} must be a finite number of steps >= 0")

    def begin(self, n_envs: int, n_dims: int, generator: np.random.Generator) -> None:
        """Each stream begins in the stationary distribution."""
        self._generator = generator
        self._ahead = generator.standard_normal((1, n_envs, n_dims), np.float32)
        self._at = 0

    def next(self, episode_starts: Array) -> Array:
        """A row of what was run ahead."""
        if self._at == len(self._ahead):
            self._run_ahead()
        if np.count_nonzero(episode_starts):
            self._start(np.flatnonzero(episode_starts))
        row: Array = self._ahead[self._at]
        self._at += 1
        return row

    def _run_ahead(self) -> None:
        """``x_k = phi^k x_0 + sum_j phi^(k-j) sqrt(1 - phi^2) xi_j`` for k = 1, ..., `AHEAD`."""
        decay, response = _recursion(self.correlation_time)
        last = self._ahead[-1]
        xi = self._generator.standard_normal((AHEAD, last.size), np.float32)
        self._ahead = (response @ xi + np.outer(decay[1:], last)).reshape(AHEAD, *last.shape)
        self._at = 0

    def _start(self, envs: Array) -> None:
        """Other numbers x_0 now, and what becomes of the difference: it decays like everything else."""
        decay, _ = _recursion(self.correlation_time)
        ahead = self._ahead[self._at :, envs]
        change = self._generator.standard_normal(ahead[0].shape, np.float32) - ahead[0]
        self._ahead[self._at :, envs] = ahead + decay[: len(ahead), None, None] * change


@dataclass
class WhiteNoise(OrnsteinUhlenbeckNoise):
    """Independent from step to step, as the policy's own noise, but from the generator of a process."""

    correlation_time: float = field(default=0.0, init=False)


@cache
def _recursion(correlation_time: float) -> tuple[Array, Array]:
    """Of k steps: ``phi^k`` for k = 0, ..., `AHEAD`, and the matrix of ``sqrt(1 - phi^2) phi^(k-j)`` for j <= k."""
    phi = math.exp(-1.0 / correlation_time) if correlation_time else 0.0
    decay = phi ** np.arange(AHEAD + 1)
    lags = np.subtract.outer(np.arange(AHEAD), np.arange(AHEAD))
    scale = math.sqrt(-math.expm1(-2.0 / correlation_time)) if correlation_time else 1.0
    response = scale * np.where(lags >= 0, decay[np.abs(lags)], 0.0)
    return decay.astype(np.float32), response.astype(np.float32)


@dataclass
class ColoredNoise:
    r"""Noise of power spectrum S(f) ~ f^-beta down to one cycle in ``period`` steps, and flat below.

    A stream is a piece of ``period`` steps, white noise w through a filter on the circle,

    .. math:: x = F^{-1} (g \, F w), \qquad g_k^2 \propto \max(|k|, 1)^{-\beta}, \quad \langle g^2 \rangle = 1

    (F the Fourier transform; Timmer & Koenig 1995), whose every number is exactly N(0, 1) because the filter's mean
    square is 1. After ``period`` steps without an end of the episode the next piece follows, independent of it. A part
    of a piece, such as a short episode, has a power of its own, which is 1 on average.

    Differs from ``colorednoise`` 2.2, on which both papers rest, in its normalisation: that leaves out the mean of a
    piece, and its numbers have a variance of 1.01, 1.07 and 1.30 for beta = 0.5, 1 and 2 at 1024 steps.

    :param beta: the exponent, in [0, 2]
    :param period: steps of a piece, >= 2, 1024 in the paper's code; a longest episode is a good choice
    :raises ValueError: for numbers that are out of range
    """

    beta: float = 0.5
    period: int = 1024

    def __post_init__(self) -> None:
        """Refuse what is no colour and no period."""
        if not (math.isfinite(self.beta) and 0.0 <= self.beta <= 2.0):
            raise ValueError(f"beta={self.beta!r} must be a number in [0, 2]: 0 is white, 1 pink, 2 red")
        if not isinstance(self.period, Integral) or self.period < 2:
            raise ValueError(f"period={self.period!r} must be an integer >= 2")

    def begin(self, n_envs: int, n_dims: int, generator: np.random.Generator) -> None:
        """Every stream is due at the first step."""
        self._generator = generator
        self._pieces = np.zeros((self.period, n_envs, n_dims), np.float32)
        self._begun = np.full(n_envs, -self.period)
        self._now = self._due = 0

    def next(self, episode_starts: Array) -> Array:
        """Row ``now`` of the pieces, around the circle: where on it a piece is begun makes no difference."""
        starts = episode_starts
        if self._now == self._due:
            starts = np.logical_or(starts, self._begun == self._now - self.period)
        if np.count_nonzero(starts):
            self._draw(np.flatnonzero(starts))
        row: Array = self._pieces[self._now % self.period]
        self._now += 1
        return row

    def _draw(self, envs: Array) -> None:
        """New pieces for some environments."""
        shape = (self.period, len(envs), self._pieces.shape[-1])
        spectrum = np.fft.rfft(self._generator.standard_normal(shape, np.float32), axis=0)
        spectrum *= _gain(self.beta, self.period)[:, None, None]
        self._pieces[:, envs] = np.fft.irfft(spectrum, self.period, axis=0)
        self._begun[envs] = self._now
        self._due = int(self._begun.min()) + self.period


@dataclass
class PinkNoise(ColoredNoise):
    """`ColoredNoise` of beta = 1."""

    beta: float = field(default=1.0, init=False)


@cache
def _gain(beta: float, period: int) -> Array:
    """The filter g at the frequencies 0, 1, ..., period // 2 of the circle; its mean square over all of it is 1."""
    frequencies = np.abs(np.fft.fftfreq(period, 1 / period))
    power = np.maximum(frequencies, 1.0) ** -beta
    gain: Array = np.sqrt(power / power.mean())
    return gain[: period // 2 + 1]
