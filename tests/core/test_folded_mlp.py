"""The perceptron in preallocated numpy arrays against the one in torch."""

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_trpo.core.folded_mlp import FoldedMlp
from sb3_trpo.core.mlp import Mlp
from tests.core.cases import ACTIVATIONS, cases, make_case


def layers_only(case):
    return Mlp(case.mlp.layers)


@settings(max_examples=60, deadline=None)
@given(cases(kinds=("gaussian", "categorical", "bernoulli")), st.integers(1, 5))
def test_value_and_gradient_are_torchs(case, n_rows):
    mlp = layers_only(case)
    folded = FoldedMlp(mlp, n_rows)
    x = th.randn(n_rows, case.inputs.shape[1], dtype=th.float64)
    expected = mlp(x)
    cotangent = th.randn_like(expected)
    gradients = th.autograd.grad(expected, mlp.parameters, cotangent)

    columns = folded.as_columns(x.numpy())
    np.testing.assert_allclose(folded.forward(columns).T, expected.detach(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(folded.forward_with_slopes(columns).T, expected.detach(), rtol=1e-12, atol=1e-12)
    folded.backward(columns, np.array(cotangent.numpy().T, order="C"))
    np.testing.assert_allclose(folded.gradient, folded.fold(gradients), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_a_copy_is_taken_and_can_be_written_back(activation):
    mlp = layers_only(make_case("gaussian", seed=3, activation=activation))
    folded = FoldedMlp(mlp, 2)
    before = [p.detach().clone() for p in mlp.parameters]
    folded.theta += 1.0
    assert all(th.equal(a, b) for a, b in zip(before, mlp.parameters, strict=True))
    folded.unfold(folded.theta, mlp.parameters)
    for a, b in zip(before, mlp.parameters, strict=True):
        th.testing.assert_close(b.detach(), a + 1.0, rtol=0, atol=0)
    np.testing.assert_array_equal(folded.fold(mlp.parameters), folded.theta)


def test_other_batch_sizes_share_weights_and_gradient():
    folded = FoldedMlp(layers_only(make_case("gaussian", seed=3)), 4)
    small = folded.for_rows(2)
    assert folded.for_rows(4) is folded
    assert (small.n_rows, folded.n_rows) == (2, 4)
    columns = folded.as_columns(np.arange(12.0).reshape(4, 3) / 10)
    part = columns[:, :2]  # not contiguous, as the minibatches of a pass
    np.testing.assert_allclose(folded.forward(columns)[:, :2], small.forward(part))
    folded.theta *= 0.5
    np.testing.assert_allclose(folded.forward(columns)[:, :2], small.forward(part))
    small.forward_with_slopes(part)
    small.backward(part, np.ones_like(small.output))
    assert np.abs(folded.gradient).sum() > 0
    assert small.gradient is folded.gradient
