"""Closed forms against torch's own, against sampling, and against numbers worked out by hand."""

import math

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sb3_trpo.core.distributions import (
    Bernoulli,
    Categorical,
    Gaussian,
    SquashedGaussian,
)
from tests import oracles
from tests.core.cases import KINDS, cases, make_case


def moved(case, scale, seed=0):
    """Parameters of the distribution after a random displacement of that size."""
    generator = th.Generator().manual_seed(seed)
    with th.no_grad():
        return tuple(p + scale * th.randn(p.shape, dtype=p.dtype, generator=generator) for p in case.net(case.inputs))


@settings(max_examples=80, deadline=None)
@given(cases(), st.floats(1e-3, 2.0))
def test_kl_equals_torchs_formula(case, scale):
    with th.no_grad():
        new = moved(case, scale)
        mine = case.distribution().kl_divergence(case.wrap(new))
        assert_close(mine, oracles.joint_kl(case.components(), case.components(new)), rtol=1e-7, atol=1e-12)
        assert (mine >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_kl_equals_a_monte_carlo_estimate_within_its_error(kind):
    case = make_case(kind, seed=11, sizes=(3, 4, 2), n_dims=3)
    new = moved(case, 0.5, seed=2)
    with th.no_grad():
        exact = case.distribution().kl_divergence(case.wrap(new))
        estimate, error = oracles.monte_carlo_kl(case.components(), case.components(new), 200_000, seed=0)
    assert ((exact - estimate).abs() <= 4.5 * error).all()
    assert (error < 0.1 * exact).all(), "the estimate is too coarse to test anything"


@pytest.mark.parametrize("kind", ["squashed", "masked"])
def test_kl_of_squashed_and_masked_policies_equals_a_monte_carlo_estimate(kind):
    """By sampling the package's own log-probabilities, which other tests compare with torch's."""
    generator = th.Generator().manual_seed(3)
    a, b = (th.randn(5, 4, dtype=th.float64, generator=generator) for _ in range(2))
    n_samples = 50_000
    if kind == "masked":
        a[:, 1] = b[:, 1] = -math.inf

    def wrap(x):
        squashed = SquashedGaussian(Gaussian(0.5 * x[:, :2], 0.3 * x[:, 2:]), 0.0)
        return squashed if kind == "squashed" else Categorical(x, (4,))

    old, new = (wrap(x.repeat(n_samples, 1)) for x in (a, b))
    if kind == "squashed":
        noise = th.randn(5 * n_samples, 2, dtype=th.float64, generator=generator)
        actions = th.tanh(old.base.mean + old.base.log_std.exp() * noise)
    else:
        actions = th.multinomial(old.logits.softmax(-1), 1, generator=generator)
    ratios = (old.log_prob(actions) - new.log_prob(actions)).view(n_samples, 5)
    exact, error = wrap(a).kl_divergence(wrap(b)), ratios.std(0) / n_samples**0.5
    assert ((ratios.mean(0) - exact).abs() <= 4.5 * error).all()
    assert error.mean() < 0.1 * exact.mean(), "the estimate is too coarse to test anything"


@settings(max_examples=60, deadline=None)
@given(cases())
def test_log_prob_and_entropy_equal_torchs(case):
    with th.no_grad():
        parts = case.components()
        actions = th.stack([part.sample() for part in parts], 1).double()
        assert_close(case.distribution().log_prob(actions), oracles.joint_log_prob(parts, actions))
        assert_close(case.distribution().entropy(), sum(part.entropy() for part in parts))


@pytest.mark.parametrize("kind", ["categorical", "bernoulli"])
def test_probabilities_of_all_joint_actions_sum_to_one(kind):
    case = make_case(kind, seed=4, sizes=(3, 2, 4), n_dims=3)
    with th.no_grad():
        total = sum(
            case.distribution().log_prob(a.expand(6, -1)).exp() for a in oracles.all_actions(kind, 3, (3, 2, 4))
        )
    assert_close(total, th.ones(6, dtype=th.float64))


def test_kl_by_hand():
    one = th.ones(1, 1, dtype=th.float64)
    wide, narrow = Gaussian(0 * one, math.log(2) * one), Gaussian(one, 0 * one)
    assert_close(wide.kl_divergence(narrow).item(), -math.log(2) + (4 + 1) / 2 - 0.5)
    assert_close(narrow.kl_divergence(wide).item(), math.log(2) + (1 + 1) / 8 - 0.5)
    fair, biased = Bernoulli(0 * one), Bernoulli(math.log(3) * one)  # p = 1/2, 3/4
    assert_close(fair.kl_divergence(biased).item(), 0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    a = Categorical(th.tensor([[0.5, 0.25, 0.25]], dtype=th.float64).log(), (3,))
    b = Categorical(th.tensor([[0.25, 0.25, 0.5]], dtype=th.float64).log(), (3,))
    assert_close(a.kl_divergence(b).item(), 0.5 * math.log(2) + 0.25 * math.log(0.5))


def test_kl_of_a_joint_is_summed_over_its_dimensions():
    mean, shift, log_std = th.zeros(4, 1), th.full((4, 1), 0.1), th.zeros(1)
    single = Gaussian(mean, log_std).kl_divergence(Gaussian(shift, log_std))
    for copies in (2, 17):
        repeated = Gaussian(mean.repeat(1, copies), log_std.repeat(copies)).kl_divergence(
            Gaussian(shift.repeat(1, copies), log_std.repeat(copies))
        )
        assert_close(repeated, copies * single)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6])
def test_a_small_kl_keeps_its_digits(dtype, scale):
    """The second-order expansion is the oracle. The relative error is of order eps / d, where that of the textbook
    formulas is eps / d^2: 12 % and 10^5 of the KL at the smallest displacement in float32."""
    rtol = 5 * scale + 5 * th.finfo(dtype).eps / scale
    log_std = th.zeros(1, 3, dtype=dtype)
    d = scale * th.tensor([[1.0, -2.0, 0.5]], dtype=dtype)
    gaussian = Gaussian(th.zeros(1, 3, dtype=dtype), log_std).kl_divergence(Gaussian(d, log_std + d))
    assert_close(gaussian, (0.5 * d**2 + d**2).sum(-1), rtol=rtol, atol=0)
    p = th.tensor([[0.2, 0.3, 0.5]], dtype=dtype)
    categorical = Categorical(p.log(), (3,)).kl_divergence(Categorical(p.log() + d, (3,)))
    expected = 0.5 * ((p * d**2).sum(-1) - (p * d).sum(-1) ** 2)
    assert_close(categorical, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("impossible", [-math.inf, -1e8])
def test_masked_options_have_no_probability_no_metric_and_no_nan(impossible):
    logits = th.tensor([[0.1, impossible, 0.4], [impossible, impossible, 2.0]], dtype=th.float32)
    new_logits = th.tensor([[0.7, impossible, 0.2], [impossible, impossible, -1.0]], dtype=th.float32)
    old, new = Categorical(logits, (3,)), Categorical(new_logits, (3,))
    free = Categorical(logits[:1, [0, 2]], (2,)).kl_divergence(Categorical(new_logits[:1, [0, 2]], (2,)))
    assert_close(old.kl_divergence(new), th.cat([free, th.zeros(1)]))
    (metric,) = old.fisher_metric((th.ones(2, 3) * th.tensor([1.0, 5.0, -1.0]),), th.full((2,), 0.5))
    assert th.isfinite(metric).all()
    assert (metric[0, 1], metric[1, 0], metric[1, 1]) == (0, 0, 0)
    assert_close(metric[1], th.zeros(3))
    assert th.isfinite(old.entropy()).all()
    assert old.entropy()[1] == 0


def test_extreme_changes_stay_finite_or_infinite_but_never_nan():
    sure = Categorical(th.tensor([[200.0, -200.0]]), (2,))
    other = Categorical(th.tensor([[-200.0, 200.0]]), (2,))
    assert_close(sure.kl_divergence(other), th.tensor([400.0]))
    assert_close(Bernoulli(th.tensor([[200.0]])).kl_divergence(Bernoulli(th.tensor([[-200.0]]))), th.tensor([200.0]))
    assert (
        not Gaussian(th.zeros(1, 1), th.full((1, 1), 50.0))
        .kl_divergence(Gaussian(th.zeros(1, 1), th.full((1, 1), -50.0)))
        .isnan()
    )


def test_squashing_changes_neither_kl_nor_metric():
    base, new = Gaussian(th.randn(5, 2), th.randn(5, 2)), Gaussian(th.randn(5, 2), th.randn(5, 2))
    squashed = SquashedGaussian(base, 1e-6)
    assert th.equal(squashed.kl_divergence(SquashedGaussian(new, 1e-6)), base.kl_divergence(new))
    tangents, weights = (th.randn(5, 2), th.randn(5, 2)), th.full((5,), 0.2)
    for mine, other in zip(
        squashed.fisher_metric(tangents, weights), base.fisher_metric(tangents, weights), strict=True
    ):
        assert th.equal(mine, other)
    reference = th.distributions.TransformedDistribution(
        th.distributions.Normal(base.mean.double(), base.log_std.double().exp()),
        [th.distributions.TanhTransform()],
    )
    actions = th.tanh(th.randn(5, 2)).double()
    exact = SquashedGaussian(Gaussian(base.mean.double(), base.log_std.double()), 0.0).log_prob(actions)
    assert_close(exact, reference.log_prob(actions).sum(-1))
