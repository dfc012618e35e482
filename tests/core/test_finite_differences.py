"""A Jacobian by finite differences against the dense one, and the parameters it borrows."""

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sb3_trpo.core.fisher import AutogradJacobian, FiniteDifferenceJacobian
from tests.core.cases import cases, make_case

SMOOTH = [th.nn.Tanh(), th.nn.SiLU(), th.nn.GELU(), th.nn.Sigmoid(), th.nn.Softplus()]


def jacobians(case):
    """By finite differences and by autograd."""
    outputs = case.net(case.inputs)
    evaluate = th.no_grad()(lambda: case.net(case.inputs))
    return FiniteDifferenceJacobian(outputs, case.parameters, evaluate), AutogradJacobian(outputs, case.parameters)


def dense(case):
    """All rows, one for each number of all outputs, by one reverse pass each."""
    flat = th.cat([output.flatten() for output in case.net(case.inputs)])
    rows = [
        th.autograd.grad(number, case.parameters, retain_graph=True, materialize_grads=True, allow_unused=True)
        for number in flat
    ]
    return th.stack([th.cat([part.flatten() for part in row]) for row in rows])


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from(SMOOTH), st.floats(-6, 6))
def test_products_are_those_of_the_dense_jacobian_whatever_the_vectors_length(case, activation, exponent):
    case.net.activation = activation  # central differences need a derivative on both sides
    ours, theirs = jacobians(case)
    matrix = dense(case)
    v = 10**exponent * th.randn(matrix.shape[1], dtype=matrix.dtype)
    expected = matrix @ v
    Jv = th.cat([tangent.flatten() for tangent in ours.jvp(v)])
    assert_close(Jv, expected, rtol=1e-6, atol=1e-7 * float(v.norm()))
    assert_close(Jv, th.cat([t.flatten() for t in theirs.jvp(v)]), rtol=1e-6, atol=1e-7 * float(v.norm()))
    cotangents = tuple(th.randn_like(output) for output in case.net(case.inputs))
    assert_close(ours.vjp(cotangents), th.cat([u.flatten() for u in cotangents]) @ matrix, rtol=1e-9, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_the_parameters_come_back_bit_for_bit(case):
    before = [parameter.detach().clone() for parameter in case.parameters]
    jacobian, _ = jacobians(case)
    for _ in range(3):
        jacobian.jvp(th.randn(sum(p.numel() for p in before), dtype=th.float64))
        assert all(th.equal(a, b) for a, b in zip(before, case.parameters, strict=True))


@pytest.mark.parametrize("fails_at", [1, 2])
def test_the_parameters_come_back_when_the_evaluation_raises(fails_at):
    case, calls = make_case("gaussian", seed=0), []

    def evaluate():
        calls.append([parameter.detach().clone() for parameter in case.parameters])
        if len(calls) == fails_at:
            raise RuntimeError("out of memory")
        return case.net(case.inputs)

    before = [parameter.detach().clone() for parameter in case.parameters]
    jacobian = FiniteDifferenceJacobian(case.net(case.inputs), case.parameters, evaluate)
    with pytest.raises(RuntimeError, match="out of memory"):
        jacobian.jvp(th.ones(sum(p.numel() for p in before), dtype=th.float64))
    assert not any(th.equal(a, b) for a, b in zip(before, calls[-1], strict=True)), "it had not moved them"
    assert all(th.equal(a, b) for a, b in zip(before, case.parameters, strict=True))


def test_the_reverse_product_still_works_after_a_forward_one():
    """The graph belongs to the parameters as they were, which are the same again."""
    case = make_case("categorical", seed=1)
    ours, theirs = jacobians(case)
    cotangents = tuple(th.randn_like(output) for output in case.net(case.inputs))
    ours.jvp(th.ones(sum(p.numel() for p in case.parameters), dtype=th.float64))
    assert th.equal(ours.vjp(cotangents), theirs.vjp(cotangents))


def test_the_product_with_nothing_is_nothing():
    case = make_case("gaussian_state_std", seed=2)
    jacobian, _ = jacobians(case)
    Jv = jacobian.jvp(th.zeros(sum(p.numel() for p in case.parameters), dtype=th.float64))
    for tangent, output in zip(Jv, case.net(case.inputs), strict=True):
        assert th.equal(tangent, th.zeros_like(output))
