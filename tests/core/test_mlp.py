"""The closed-form perceptron against torch.func."""

import pytest
import torch as th
from hypothesis import given, settings
from torch.func import functional_call, jvp, vjp
from torch.testing import assert_close

from sb3_trpo.core.mlp import MlpJacobian
from sb3_trpo.core.parameters import unflatten
from tests.core.cases import ACTIVATIONS, cases, make_case


def as_function(case):
    """The module's outputs as a function of the parameter list, in the perceptron's order."""
    names = {id(p): name for name, p in case.net.named_parameters()}

    def outputs(*parameters):
        named = {names[id(p)]: value for p, value in zip(case.parameters, parameters, strict=True)}
        return functional_call(case.net, named, (case.inputs,))

    return outputs, tuple(p.detach() for p in case.parameters)


@settings(max_examples=60, deadline=None)
@given(cases(kinds=("gaussian", "categorical", "bernoulli")))
def test_value_tangent_and_cotangent(case):
    outputs, primals = as_function(case)
    jacobian = MlpJacobian(case.mlp, case.inputs)
    v = th.randn(sum(p.numel() for p in primals), dtype=th.float64)
    value, tangents = jvp(outputs, primals, tuple(unflatten(v, primals)))
    assert_close(jacobian.output, value[0])
    for mine, reference in zip(jacobian.jvp(v), tangents, strict=True):
        assert_close(mine, reference, rtol=1e-10, atol=1e-12)

    cotangents = tuple(th.randn_like(output) for output in value)
    reference = th.cat([g.reshape(-1) for g in vjp(outputs, *primals)[1](cotangents)])
    assert_close(jacobian.vjp(cotangents), reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_the_forward_and_the_reverse_map_are_transposes(activation):
    case = make_case("gaussian", seed=5, activation=activation)
    jacobian = MlpJacobian(case.mlp, case.inputs)
    v = th.randn(sum(p.numel() for p in case.parameters), dtype=th.float64)
    u = (th.randn(6, 2, dtype=th.float64), th.randn(2, dtype=th.float64))
    forward = sum((a * b).sum() for a, b in zip(jacobian.jvp(v), u, strict=True))
    assert_close(forward, jacobian.vjp(u) @ v, rtol=1e-12, atol=1e-12)
