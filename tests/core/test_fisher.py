"""Fisher-vector products against the dense Fisher, the Hessian of the KL, and each other."""

import pytest
import torch as th
from hypothesis import given, settings
from torch.testing import assert_close

from sb3_trpo.core.fisher import AutogradJacobian, gauss_newton, kl_hessian
from sb3_trpo.core.mlp import MlpJacobian
from sb3_trpo.core.parameters import flat_gradient
from sb3_trpo.core.surrogate import weighted_mean
from tests import oracles
from tests.core.cases import KINDS, cases, make_case


def products(case):
    """The three forms where they apply, all on the perceptron's parameter order."""
    distribution = case.distribution()
    old = case.old()
    forms = {
        "autograd": gauss_newton(
            AutogradJacobian(distribution.parameters, case.parameters), distribution, case.weights
        ),
        "double backprop": kl_hessian(distribution, old, case.parameters, case.weights),
    }
    if case.kind != "gaussian_state_std":
        forms["closed form"] = gauss_newton(MlpJacobian(case.mlp, case.inputs), old, case.weights)
    return forms


def dense(product, case):
    size = sum(p.numel() for p in case.parameters)
    return th.stack([product(e) for e in th.eye(size, dtype=th.float64)], 1).detach()


@settings(max_examples=60, deadline=None)
@given(cases())
def test_every_form_is_the_dense_fisher_and_the_hessian_of_the_kl(case):
    fisher = oracles.dense_fisher(case.net, case.inputs, case.weights, case.components)
    hessian = oracles.dense_kl_hessian(case.net, case.inputs, case.weights, case.components)
    assert_close(hessian, fisher, rtol=1e-9, atol=1e-11)
    v = th.linspace(-1, 1, fisher.shape[0], dtype=th.float64)
    expected = fisher @ case.to_named_order(v)
    for form, product in products(case).items():
        assert_close(
            case.to_named_order(product(v)), expected, rtol=1e-9, atol=1e-10, msg=lambda m, f=form: f"{f}: {m}"
        )


@settings(max_examples=40, deadline=None)
@given(cases())
def test_products_are_symmetric_and_positive_semi_definite(case):
    for product in products(case).values():
        matrix = dense(product, case)
        assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-11)
        assert th.linalg.eigvalsh(matrix).min() >= -1e-10 * max(1.0, float(matrix.abs().max()))


@settings(max_examples=40, deadline=None)
@given(cases())
def test_the_kl_is_flat_at_the_old_policy_for_each_parameter(case):
    old = case.old()
    mean_kl = weighted_mean(old.kl_divergence(case.distribution()), case.weights)
    for parameter in case.parameters:
        gradient = flat_gradient([mean_kl], [parameter], retain_graph=True)
        assert_close(gradient, th.zeros_like(gradient), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_weight_steps_do_not_count(kind):
    case = make_case(kind, seed=3, n=6, mask=[1, 1, 0, 1, 0, 1])
    short = make_case(kind, seed=3, n=6, mask=[1, 1, 0, 1, 0, 1])
    keep = short.weights > 0
    short.inputs, short.weights = short.inputs[keep], short.weights[keep]
    v = th.linspace(-1, 1, sum(p.numel() for p in case.parameters), dtype=th.float64)
    for form, product in products(case).items():
        assert_close(product(v), products(short)[form](v))


@pytest.mark.parametrize("kind", KINDS)
def test_products_leave_their_input_alone_and_are_repeatable(kind):
    case = make_case(kind, seed=1)
    v = th.randn(sum(p.numel() for p in case.parameters), dtype=th.float64)
    for product in products(case).values():
        before = v.clone()
        first, second = product(v), product(v)
        assert th.equal(v, before)
        assert th.equal(first, second)


@pytest.mark.parametrize("kind", ["gaussian", "categorical", "bernoulli"])
def test_closed_form_agrees_with_autograd_at_the_size_of_a_real_network(kind):
    case = make_case(kind, seed=0, hidden=(64, 64), n=128, n_inputs=17, n_dims=6)
    forms = products(case)
    for seed in range(3):
        v = th.randn(
            sum(p.numel() for p in case.parameters), dtype=th.float64, generator=th.Generator().manual_seed(seed)
        )
        assert_close(forms["closed form"](v), forms["autograd"](v), rtol=1e-9, atol=1e-12)
        assert_close(forms["double backprop"](v), forms["autograd"](v), rtol=1e-9, atol=1e-12)
