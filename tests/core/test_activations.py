"""Activations on numpy arrays against torch."""

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_trpo.core.activations import activate_with_slope, in_numpy
from tests.core.cases import ACTIVATIONS

Z = np.array([[-3.0, -0.5, -0.0], [0.0, 0.7, 20.0]])


@pytest.mark.parametrize("activation", [*ACTIVATIONS, nn.LeakyReLU(0.3)], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_and_slopes_are_torchs(activation, dtype):
    z = th.as_tensor(Z.astype(dtype), dtype=None).requires_grad_()
    expected = activation(z)
    (slope,) = th.autograd.grad(expected.sum(), z)
    tolerance = 1e-6 if dtype == np.float32 else 1e-12

    array, out, slopes = Z.astype(dtype), np.empty_like(Z, dtype), np.empty_like(Z, dtype)
    in_numpy(activation)(array, out)
    np.testing.assert_array_equal(array, Z.astype(dtype))
    np.testing.assert_allclose(out, expected.detach(), rtol=tolerance, atol=tolerance)
    in_numpy(activation)(array, array)
    np.testing.assert_array_equal(array, out)

    array = Z.astype(dtype)
    activate_with_slope(activation, array, slopes)
    np.testing.assert_array_equal(array, out)
    np.testing.assert_allclose(slopes, slope, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.ELU()], ids=lambda a: type(a).__name__)
def test_what_is_not_a_number_stays_so(activation):
    array, slope = np.array([np.nan, 1.0]), np.empty(2)
    activate_with_slope(activation, array, slope)
    assert np.isnan(array[0])
    assert np.isfinite(array[1])
