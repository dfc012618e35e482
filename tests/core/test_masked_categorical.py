"""A masked categorical is the categorical over the allowed options, and nothing else."""

import math

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sb3_trpo.core.distributions import Categorical


@st.composite
def masked_choices(draw):
    """Logits of two policies, masks that leave one option of each choice at least, and the sizes of the choices."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    n = draw(st.integers(1, 4))
    generator = th.Generator().manual_seed(draw(st.integers(0, 10_000)))
    old, new = (3 * th.randn(n, sum(sizes), dtype=th.float64, generator=generator) for _ in range(2))
    allowed = st.lists(st.integers(1, 2 ** max(sizes) - 1), min_size=n * len(sizes), max_size=n * len(sizes))
    bits = iter(draw(allowed))
    rows = []
    for _ in range(n):
        row = []
        for size in sizes:
            number = next(bits) % 2**size or 1
            row += [bool(number >> option & 1) for option in range(size)]
        rows.append(row)
    return old, new, th.tensor(rows), tuple(sizes)


def allowed_only(logits, mask, sizes):
    """For one state, each choice's categorical over its allowed options alone, and which options those are."""
    parts = []
    for block, allowed in zip(logits.split(sizes), mask.split(sizes), strict=True):
        options = allowed.nonzero().flatten()
        parts.append((th.distributions.Categorical(logits=block[options]), options))
    return parts


@settings(max_examples=80, deadline=None)
@given(masked_choices())
def test_kl_entropy_and_log_prob_are_those_of_the_allowed_options(case):
    old, new, masks, sizes = case
    mine, other = (Categorical(logits, sizes).masked(masks) for logits in (old, new))
    kl, entropy = mine.kl_divergence(other), mine.entropy()
    for n in range(len(old)):
        p, q = (allowed_only(logits[n], masks[n], sizes) for logits in (old, new))
        pairs = zip(p, q, strict=True)
        expected = sum(th.distributions.kl_divergence(a, b) for (a, _), (b, _) in pairs)
        assert_close(kl[n], expected, rtol=1e-7, atol=1e-12)
        assert_close(entropy[n], sum(a.entropy() for a, _ in p), rtol=1e-7, atol=1e-12)
        chosen = [part.sample() for part, _ in p]
        action = th.stack([options[i] for i, (_, options) in zip(chosen, p, strict=True)])
        log_prob = Categorical(old[n : n + 1], sizes).masked(masks[n : n + 1]).log_prob(action[None])
        assert_close(log_prob[0], sum(part.log_prob(i) for i, (part, _) in zip(chosen, p, strict=True)))


@settings(max_examples=80, deadline=None)
@given(masked_choices())
def test_the_metric_is_that_of_the_allowed_options_and_exactly_zero_elsewhere(case):
    old, tangents, masks, sizes = case
    weights = th.linspace(0.5, 2.0, len(old), dtype=old.dtype)
    (metric,) = Categorical(old, sizes).masked(masks).fisher_metric((tangents,), weights)
    assert (metric[~masks] == 0).all()
    for n in range(len(old)):
        p = [part.probs for part, _ in allowed_only(old[n], masks[n], sizes)]
        dense = th.block_diag(*[th.diag(block) - th.outer(block, block) for block in p])
        assert_close(metric[n][masks[n]], weights[n] * dense @ tangents[n][masks[n]], rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(masked_choices())
def test_gradients_reach_the_allowed_options_only_and_are_those_of_the_allowed_options(case):
    old, new, masks, sizes = case
    constant = Categorical(old, sizes).masked(masks)

    def gradients(of, logits):
        leaf = logits.clone().requires_grad_()
        return th.autograd.grad(of(leaf), leaf)[0]

    def by_hand(of):
        return lambda leaf: sum(
            of(a, b)
            for n in range(len(old))
            for (a, _), (b, _) in zip(
                allowed_only(old[n], masks[n], sizes), allowed_only(leaf[n], masks[n], sizes), strict=True
            )
        )

    kl = gradients(lambda leaf: constant.kl_divergence(Categorical(leaf, sizes).masked(masks)).sum(), new)
    entropy = gradients(lambda leaf: Categorical(leaf, sizes).masked(masks).entropy().sum(), new)
    for mine, expected in (
        (kl, gradients(by_hand(th.distributions.kl_divergence), new)),
        (entropy, gradients(by_hand(lambda a, b: b.entropy()), new)),
    ):
        assert (mine[~masks] == 0).all()
        assert_close(mine, expected, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("logit", [0.0, 1e4, -1e8, -math.inf])
def test_a_single_allowed_option_is_certain_and_gives_exact_zeros(dtype, logit):
    """Whatever the logits of the others are."""
    masks = th.tensor([[True, False, False, False, True], [False, False, True, True, False]])
    logits = th.full((2, 5), logit, dtype=dtype)
    logits[masks] = th.tensor([-3.0, 50.0, 0.0, 7.0], dtype=dtype)
    leaf = logits.clone().requires_grad_()
    constant, attached = (Categorical(x, (3, 2)).masked(masks) for x in (logits, leaf))
    zeros = th.zeros(2, dtype=dtype)
    action = th.tensor([[0, 1], [2, 0]])
    for quantity in (constant.kl_divergence(attached), attached.entropy(), attached.log_prob(action)):
        assert th.equal(quantity.detach().abs(), zeros)
        (gradient,) = th.autograd.grad(quantity.sum(), leaf, retain_graph=True)
        assert th.equal(gradient.abs(), th.zeros_like(logits))
    (metric,) = constant.fisher_metric((th.ones_like(logits),), th.ones(2, dtype=dtype))
    assert th.equal(metric.abs(), th.zeros_like(logits))
