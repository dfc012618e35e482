"""Fisher-vector products against the dense Fisher, the Hessian of the KL, and each other."""

from functools import partial

import pytest
import torch as th
from hypothesis import given, settings
from torch.testing import assert_close

from sb3_trpo.core.fisher import Linearizations
from sb3_trpo.core.parameters import flat_gradient
from sb3_trpo.core.surrogate import weighted_mean
from tests import oracles
from tests.core.cases import KINDS, cases, make_case


def products(case):
    """The three forms where they apply, all on the perceptron's parameter order."""
    return {
        form: partial(case.linearize(form=form).fisher_vector_product, weights=case.weights) for form in forms_of(case)
    }


def forms_of(case):
    return ["autograd", "double backprop", *(["closed form"] if case.kind != "gaussian_state_std" else [])]


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


@settings(max_examples=40, deadline=None)
@given(cases())
def test_gradients_of_functions_of_the_distribution_are_those_of_backpropagation(case):
    old = case.wrap(tuple(t.detach() + 0.1 for t in case.distribution().parameters))

    def objective(policy):
        return weighted_mean(old.kl_divergence(policy).square(), case.weights)

    expected = flat_gradient([objective(case.distribution())], case.parameters)
    for form in forms_of(case):
        value, gradient = case.linearize(form=form).gradient(objective)
        assert not value.requires_grad
        assert_close(value, objective(case.distribution()).detach(), msg=lambda m, f=form: f"{f}: {m}")
        assert_close(gradient, expected, rtol=1e-9, atol=1e-12, msg=lambda m, f=form: f"{f}: {m}")


class Counted:
    """A linearization of 100 bytes that remembers how often it was made."""

    nbytes = 100

    def __init__(self, batch, made):
        self.batch = batch
        made.append(batch)


@pytest.mark.parametrize(("kept_bytes", "made_again"), [(0, "abc"), (99, "abc"), (100, "bc"), (250, "c"), (300, "")])
def test_linearizations_are_kept_as_far_as_memory_goes_and_made_again_beyond(kept_bytes, made_again):
    made = []
    linearizations = Linearizations(lambda batch: Counted(batch, made), "abc", kept_bytes)
    assert [one.batch for one in linearizations] == list("abc")
    assert made == list("abc")
    made.clear()
    for _ in range(2):
        assert [one.batch for one in linearizations] == list("abc")
    assert "".join(made) == 2 * made_again
