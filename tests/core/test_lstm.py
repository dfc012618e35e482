"""An LSTM in closed form is torch's, and its derivatives are those of autograd through torch's."""

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from sb3_trpo.core.lstm import Lstm, LstmCell, LstmJacobian, MemoryJacobian, MemoryNetwork, PackedInputs
from sb3_trpo.core.mlp import Layer, Mlp
from sb3_trpo.core.parameters import flat_gradient, unflatten

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=5).map(lambda lengths: sorted(lengths, reverse=True))


def case(lengths, n_inputs=3, n_units=4, seed=0, dtype=th.float64):
    """Torch's module, the same as ours, and packed inputs with memories that are not zero."""
    generator = th.Generator().manual_seed(seed)
    module = nn.LSTM(n_inputs, n_units).to(dtype)
    for parameter in module.parameters():
        parameter.data = th.randn(parameter.shape, generator=generator, dtype=dtype)
    batch_sizes = th.tensor([sum(length > t for length in lengths) for t in range(lengths[0])])
    x, hidden, cell = (
        th.randn(*shape, generator=generator, dtype=dtype)
        for shape in ((sum(lengths), n_inputs), (len(lengths), n_units), (len(lengths), n_units))
    )
    lstm = Lstm(module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0, module.bias_hh_l0)
    return module, lstm, PackedInputs(x, batch_sizes, hidden, cell)


def sequence_by_sequence(module, inputs, lengths):
    """Outputs as torch gives them for each sequence alone, packed; and the final states."""
    starts = np.cumsum([0, *inputs.batch_sizes.tolist()])
    outputs = [None] * len(inputs.x)
    finals = []
    for s, length in enumerate(lengths):
        rows = [int(starts[t]) + s for t in range(length)]
        state = tuple(part[s].view(1, 1, -1) for part in (inputs.hidden, inputs.cell))
        output, final = module(inputs.x[rows].unsqueeze(1), state)
        for row, value in zip(rows, output[:, 0], strict=True):
            outputs[row] = value
        finals.append(final)
    return th.stack(outputs), tuple(th.cat([final[k][0] for final in finals]) for k in (0, 1))


@settings(max_examples=25, deadline=None)
@given(LENGTHS, st.integers(0, 100))
def test_outputs_and_final_states_are_those_of_each_sequence_alone(lengths, seed):
    module, lstm, inputs = case(lengths, seed=seed)
    output, final = sequence_by_sequence(module, inputs, lengths)
    jacobian = LstmJacobian(lstm, inputs)
    th.testing.assert_close(jacobian.output, output)
    th.testing.assert_close(jacobian.final, final)


@settings(max_examples=25, deadline=None)
@given(LENGTHS, st.integers(0, 100))
def test_products_are_those_of_autograd_in_parameters_and_inputs(lengths, seed):
    module, lstm, inputs = case(lengths, seed=seed)
    x = inputs.x.requires_grad_()
    output, _ = sequence_by_sequence(module, inputs, lengths)
    variables = [*lstm, x]
    jacobian = LstmJacobian(lstm, inputs)
    u = th.randn_like(output)
    parts, dx = jacobian.vjp(u, with_inputs=True)
    for ours, theirs in zip([*parts, dx], th.autograd.grad(output, variables, u, retain_graph=True), strict=True):
        th.testing.assert_close(ours, theirs)
    v = [th.randn_like(variable) for variable in variables]
    dummy = th.zeros_like(output, requires_grad=True)
    reverse = th.autograd.grad(output, variables, dummy, create_graph=True)
    (expected,) = th.autograd.grad(reverse, dummy, v)
    th.testing.assert_close(jacobian.jvp(v[:4], v[4]), expected)


@pytest.mark.parametrize("lengths", [[1], [6], [5, 5, 2, 1], [3] * 4])
def test_a_perceptron_on_top_moves_with_it(lengths):
    module, lstm, inputs = case(lengths)
    first, second = nn.Linear(4, 5).double(), nn.Linear(5, 2).double()
    free = nn.Parameter(th.zeros(2, dtype=th.float64))
    mlp = Mlp((Layer(first.weight, first.bias, nn.Tanh()), Layer(second.weight, second.bias, None)), (free,))
    network = MemoryNetwork(lstm, mlp)
    packed = PackedSequence(inputs.x, inputs.batch_sizes)
    hidden = module(packed, (inputs.hidden.unsqueeze(0), inputs.cell.unsqueeze(0)))[0].data
    output = second(th.tanh(first(hidden)))
    jacobian = MemoryJacobian(network, inputs)
    th.testing.assert_close(jacobian.output, output.detach())
    th.testing.assert_close(network.detach()(inputs), output.detach())
    u = (th.randn_like(output), th.randn(2, dtype=th.float64))
    expected = flat_gradient([output, free * 1.0], network.parameters, u, retain_graph=True)
    th.testing.assert_close(jacobian.vjp(u), expected)
    v = th.randn_like(expected)
    d_output, d_free = jacobian.jvp(v)
    th.testing.assert_close((d_output * u[0]).sum() + (d_free * u[1]).sum(), v @ expected)
    th.testing.assert_close(d_free, unflatten(v, network.parameters)[-1])
    assert jacobian.nbytes > output.nbytes


def test_the_jacobian_does_not_follow_the_parameters():
    _, lstm, inputs = case([4, 2])
    jacobian = LstmJacobian(lstm, inputs)
    before = jacobian.output.clone()
    with th.no_grad():
        for parameter in lstm:
            parameter.zero_()
    th.testing.assert_close(jacobian.output, before)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_the_cell_steps_as_torch_does_and_forgets_whom_it_is_told_to(dtype):
    module, lstm, inputs = case([3, 3, 3], dtype=dtype)
    cell = LstmCell(lstm, inputs.hidden, inputs.cell)
    hidden, memory = inputs.hidden.clone(), inputs.cell.clone()
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == th.float32 else {}
    for t, forgotten in enumerate(([0, 0, 0], [0, 1, 0], [1, 1, 1])):
        x = inputs.x[3 * t : 3 * t + 3]
        keep = 1 - th.tensor(forgotten, dtype=dtype).unsqueeze(1)
        with th.no_grad():
            output, (h, c) = module(x.unsqueeze(0), ((hidden * keep).unsqueeze(0), (memory * keep).unsqueeze(0)))
        hidden, memory = h[0], c[0]
        cell.forget(np.array(forgotten))
        cell.inputs[:] = x.t().numpy()
        cell.step()
        th.testing.assert_close(cell.states(), (hidden, memory), **tolerance)
        th.testing.assert_close(th.from_numpy(cell.hidden.T.copy()), output[0], **tolerance)
