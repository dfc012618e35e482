"""Noise processes: standard normal at every step, correlated as they say, and independent otherwise."""

import copy
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sb3_trpo.extensions.correlated_noise import (
    AHEAD,
    ColoredNoise,
    OrnsteinUhlenbeckNoise,
    PinkNoise,
    WhiteNoise,
    _recursion,
)
from sb3_trpo.saving.codec import decode, encode

N = 4000
"""Streams side by side, over which ensemble means are taken."""

PROCESSES = {
    "white": lambda: WhiteNoise(),
    "ou": lambda: OrnsteinUhlenbeckNoise(20.0),
    "colored": lambda: ColoredNoise(0.5, 32),
    "odd period": lambda: ColoredNoise(0.5, 7),
    "pink": lambda: PinkNoise(32),
    "red": lambda: ColoredNoise(2.0, 48),
}
every = pytest.mark.parametrize("name", list(PROCESSES))


def begun(process, n_envs, n_dims=1, seed=0):
    process.begin(n_envs, n_dims, np.random.default_rng(seed))
    return process


def rows(process, starts):
    """Numbers (T, E, A) for starts (T, E); the first step of an episode is one as a rollout has it."""
    return np.stack([process.next(row).copy() for row in starts])


def starting_at(n_steps, n_envs, *steps):
    starts = np.zeros((n_steps, n_envs), bool)
    starts[[0, *steps]] = True
    return starts


@every
def test_every_step_is_standard_normal(name):
    """After the start, just after resets at random, and where a piece or what was run ahead ends."""
    starts = np.random.default_rng(1).random((150, N)) < 0.02
    starts[0] = True
    drawn = rows(begun(PROCESSES[name](), N), starts)[..., 0]
    assert drawn.dtype == np.float32
    for step in range(150):
        assert stats.kstest(drawn[step], "norm").pvalue > 1e-5, step
        just_started = drawn[step][starts[step]]
        assert stats.kstest(just_started, "norm").pvalue > 1e-5, step
    assert abs(drawn.var() - 1) < 0.02


@every
def test_the_variance_is_one_to_more_digits_than_a_distance_of_distributions_shows(name):
    drawn = np.concatenate([rows(begun(PROCESSES[name](), N, 20, seed), starting_at(3, N)) for seed in range(3)])
    error = (2 / (N * 20)) ** 0.5
    assert np.abs(np.square(drawn).mean((1, 2)) - 1).max() < 4.5 * error
    assert np.abs(drawn.mean((1, 2))).max() < 4.5 / (N * 20) ** 0.5


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("period", [31, 64])
def test_colored_noise_has_the_covariance_of_its_spectrum(beta, period):
    """Against the cosine transform of max(k, 1)^-beta, term by term, wherever on the circle a piece begins."""
    offset = 5
    starts = starting_at(offset + period, N, offset)
    drawn = rows(begun(ColoredNoise(beta, period), N), starts)[offset:, :, 0]
    found = drawn @ drawn.T / N
    k = np.arange(-((period - 1) // 2), period // 2 + 1)
    power = np.maximum(np.abs(k), 1.0) ** -beta
    lags = np.subtract.outer(np.arange(period), np.arange(period))
    expected = np.cos(2 * np.pi * k * lags[..., None] / period) @ power / power.sum()
    assert np.abs(found - expected).max() < 6 / N**0.5
    assert abs(expected[0, 0] - 1) < 1e-12


@pytest.mark.parametrize(
    ("process", "beta"),
    [(WhiteNoise(), 0), (ColoredNoise(0.5, 256), 0.5), (PinkNoise(256), 1), (ColoredNoise(2.0, 256), 2)],
)
def test_the_power_spectrum_falls_as_the_colour_says(process, beta):
    """Slope of the mean periodogram in logarithms, and its level at every frequency."""
    drawn = rows(begun(process, N), starting_at(256, N))[..., 0]
    power = np.square(np.abs(np.fft.rfft(drawn, axis=0))).mean(1)[1:-1]
    frequencies = np.arange(1, 128)
    slope, intercept = np.polyfit(np.log(frequencies), np.log(power), 1)
    assert abs(slope + beta) < 0.02
    assert np.abs(np.log(power) - intercept - slope * np.log(frequencies)).max() < 6 / N**0.5


def test_a_part_of_a_piece_has_a_random_power_that_is_one_on_average():
    drawn = rows(begun(PinkNoise(512), N), starting_at(16, N))[..., 0]
    powers = np.square(drawn).mean(0)
    assert abs(powers.mean() - 1) < 4.5 * powers.std() / N**0.5
    assert powers.std() > 2 * (2 / 16) ** 0.5  # that of white noise


def test_the_next_piece_is_independent_of_the_one_before():
    period = 16
    drawn = rows(begun(ColoredNoise(1.0, period), N), starting_at(3 * period, N))[..., 0]
    pieces = drawn.reshape(3, period, N)
    for one, other in pairwise(pieces):
        assert np.abs(one @ other.T / N).max() < 5 / N**0.5
        assert np.abs(one @ one.T / N)[0, 1] > 0.3


def test_a_piece_that_began_later_also_ends_later():
    """Half of the streams begin again at step 10: of the pieces of 16 steps theirs is whole from there to step 25."""
    starts = starting_at(32, N)
    starts[10, N // 2 :] = True
    drawn = rows(begun(ColoredNoise(1.0, 16), N), starts)[..., 0]
    for streams, ends in ((drawn[:, : N // 2], {16}), (drawn[:, N // 2 :], {10, 26})):
        for step in range(1, 32):
            correlation = np.corrcoef(streams[step - 1 : step + 1])[0, 1]
            assert abs(correlation) < 0.1 if step in ends else correlation > 0.3, step


@every
def test_streams_begin_by_themselves_where_no_start_is_told(name):
    drawn = rows(begun(PROCESSES[name](), N), np.zeros((3, N), bool))[..., 0]
    for step in range(3):
        assert stats.kstest(drawn[step], "norm").pvalue > 1e-5


@pytest.mark.parametrize("correlation_time", [0.0, 0.3, 1 / 0.15, 50.0])
def test_an_ornstein_uhlenbeck_process_has_an_exponential_autocorrelation(correlation_time):
    """Through what is run ahead, and none across a reset: E[x_i x_j] = phi^|i - j| on either side."""
    n_steps, reset = 2 * AHEAD + 20, AHEAD + 30
    starts = starting_at(n_steps, N, reset)
    drawn = rows(begun(OrnsteinUhlenbeckNoise(correlation_time), N), starts)[..., 0]
    found = drawn @ drawn.T / N
    steps = np.arange(n_steps)
    lags = np.abs(np.subtract.outer(steps, steps)).astype(float)
    phi = np.exp(-1 / correlation_time) if correlation_time else 0.0
    same_side = np.equal.outer(steps < reset, steps < reset)
    assert np.abs(found - np.where(same_side, phi**lags, 0.0)).max() < 6 / N**0.5


def test_an_ornstein_uhlenbeck_process_is_its_recursion():
    """What is run ahead, on the numbers xi that it was run ahead with."""
    process = begun(OrnsteinUhlenbeckNoise(7.0), 2, 3)
    first = process.next(np.zeros(2, bool)).copy()
    generator = copy.deepcopy(process._generator)
    drawn = rows(process, np.zeros((AHEAD, 2), bool))
    xi = generator.standard_normal((AHEAD, 6), np.float32).reshape(AHEAD, 2, 3)
    phi, x = np.exp(-1 / 7.0), first.astype(float)
    for k in range(AHEAD):
        x = phi * x + np.sqrt(1 - phi**2) * xi[k]
        np.testing.assert_allclose(drawn[k], x, atol=2e-6)


@pytest.mark.parametrize("correlation_time", [0.0, 0.5, 20.0, 1e3, 1e5, 1e6])
def test_what_is_run_ahead_keeps_the_variance(correlation_time):
    """``v = decay^2 v + sum response^2`` has the solution one, however little is forgotten in `AHEAD` steps."""
    decay, response = (part.astype(float)[-1] for part in _recursion(correlation_time))
    forgotten = -np.expm1(-2 * AHEAD / correlation_time) if correlation_time else 1.0
    resolution = np.finfo(np.float32).eps / forgotten  # of a decay close to one
    assert abs(np.square(response).sum() / (1 - decay**2) - 1) < 1e-6 + resolution


class UnitVectors:
    """In place of a generator of normal numbers: what a linear process makes of them is its matrix."""

    def standard_normal(self, shape, dtype):
        return np.eye(shape[0], shape[-1], dtype=dtype).reshape(shape)


@settings(deadline=None, max_examples=50)
@given(beta=st.floats(0.0, 2.0), period=st.integers(2, 100))
def test_colored_noise_has_its_covariance_exactly(beta, period):
    """``M M^T`` of its matrix against the Toeplitz matrix of the spectrum's cosine transform; its diagonal is 1."""
    process = ColoredNoise(beta, period)
    process.begin(1, period, UnitVectors())
    matrix = rows(process, starting_at(period, 1))[:, 0].astype(float)
    k = np.arange(period)
    power = np.maximum(np.minimum(k, period - k), 1.0) ** -beta
    lags = np.subtract.outer(k, k)
    expected = np.cos(2 * np.pi * k * lags[..., None] / period) @ power / power.sum()
    np.testing.assert_allclose(matrix @ matrix.T, expected, atol=3e-6)


@every
def test_environments_and_dimensions_are_independent(name):
    """At the same step and from one step to the next, in episodes of four steps."""
    episodes, length, n_envs, n_dims = 3000, 4, 2, 3
    starts = np.zeros((episodes, length, n_envs), bool)
    starts[:, 0] = True
    drawn = rows(begun(PROCESSES[name](), n_envs, n_dims), starts.reshape(-1, n_envs))
    drawn = drawn.reshape(episodes, length, n_envs * n_dims)
    for lag in range(length):
        found = drawn[:, 0].T @ drawn[:, lag] / episodes
        np.fill_diagonal(found, 0.0)
        assert np.abs(found).max() < 5 / episodes**0.5


@every
def test_an_episode_that_starts_changes_its_own_stream_only(name):
    """And nothing of what was is left in it."""
    process = begun(PROCESSES[name](), 3, 2)
    rows(process, starting_at(5, 3))
    other = copy.deepcopy(process)
    on, reset = process.next(np.zeros(3, bool)), other.next(np.array([False, True, False]))
    np.testing.assert_array_equal(on[[0, 2]], reset[[0, 2]])
    assert (on[1] != reset[1]).all()

    drawn = rows(begun(PROCESSES[name](), N), starting_at(12, N, 6))[..., 0]
    assert np.abs(drawn[:6] @ drawn[6:].T / N).max() < 5 / N**0.5


@every
@settings(deadline=None)
@given(before=st.integers(0, 80), after=st.integers(1, 80), seed=st.integers(0, 100))
def test_a_process_goes_on_from_where_it_was_saved(name, before, after, seed):
    starts = np.random.default_rng(seed).random((before + after, 2)) < 0.1
    process = begun(PROCESSES[name](), 2, 3, seed)
    for row in starts[:before]:
        process.next(row)
    other = decode(json.loads(json.dumps(encode(process))), unpickle=None)
    assert type(other) is type(process)
    assert other == process
    np.testing.assert_array_equal(rows(process, starts[before:]), rows(other, starts[before:]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ColoredNoise(beta=-0.1), r"beta=-0\.1 must be a number in \[0, 2\]"),
        (lambda: ColoredNoise(beta=2.1), r"beta=2\.1 must"),
        (lambda: ColoredNoise(beta=float("nan")), "beta=nan must"),
        (lambda: ColoredNoise(period=1), "period=1 must be an integer >= 2"),
        (lambda: ColoredNoise(period=10.5), r"period=10\.5 must"),
        (lambda: PinkNoise(period=True), "period=True must"),
        (lambda: OrnsteinUhlenbeckNoise(-1.0), r"correlation_time=-1\.0 must be a finite number of steps >= 0"),
        (lambda: OrnsteinUhlenbeckNoise(float("inf")), "correlation_time=inf must"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
