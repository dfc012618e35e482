"""Minibatch descent: the closed form and the Jacobian are twins; held-out rows end the fit; bad numbers are skipped."""

import math

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_trpo.core.fisher import AutogradJacobian
from sb3_trpo.core.mlp import Layer, Mlp
from sb3_trpo.core.regression import FoldedDescent, LinearizedDescent, fit

N = 50


def data(seed=0):
    generator = th.Generator().manual_seed(seed)
    inputs = th.randn(N, 3, generator=generator)
    return inputs, (inputs[:, 0] * inputs[:, 1]).sin() + 0.1 * th.randn(N, generator=generator)


def network(activation=None, seed=1):
    th.manual_seed(seed)
    linears = [nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 1)]
    phi = activation or nn.Tanh()
    return Mlp(tuple(Layer(li.weight, li.bias, phi if i < 2 else None) for i, li in enumerate(linears)))


def adam(mlp, **options):
    return th.optim.Adam(mlp.parameters, lr=1e-2, **options)


def autograd(mlp, optimizer, limit=math.inf, targets=None):
    inputs, usual = data()
    targets = usual if targets is None else targets

    def linearize(rows):
        values = mlp(inputs[rows])
        return AutogradJacobian((values,), mlp.parameters), values.detach(), targets[rows]

    return LinearizedDescent(linearize, mlp.parameters, optimizer, limit)


def folded(mlp, optimizer, limit=math.inf, targets=None):
    inputs, usual = data()
    targets = usual if targets is None else targets
    return FoldedDescent(inputs.numpy(), targets.numpy(), mlp, optimizer, limit, 16)


def run(descent, n_passes=3, batch_size=16, held_out=(), patience=1):
    np.random.seed(0)  # noqa: NPY002  # the generator that the fit draws from
    held_out = np.array(held_out, dtype=int)
    rows = np.setdiff1d(np.arange(N), held_out)
    return fit(descent, rows, held_out, batch_size=batch_size, n_passes=n_passes, patience=patience)


def check_same(mlps, optimizers, rtol=1e-4):
    for a, b in zip(*(mlp.parameters for mlp in mlps), strict=True):
        th.testing.assert_close(a, b, rtol=rtol, atol=1e-6)
        states = [optimizer.state[p] for optimizer, p in zip(optimizers, (a, b), strict=True)]
        assert states[0].keys() == states[1].keys()
        for key in states[0]:
            th.testing.assert_close(states[0][key], states[1][key], rtol=rtol, atol=1e-7)
            assert states[0][key].dtype == states[1][key].dtype


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.ELU()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("options", [{}, {"eps": 1e-3, "betas": (0.8, 0.9)}, {"weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("limit", [math.inf, 0.1])
@pytest.mark.parametrize("batch_size", [16, 50, 7])
def test_both_descents_leave_the_same_weights_and_the_same_optimiser(activation, options, limit, batch_size):
    mlps = [network(activation), network(activation)]
    optimizers = [adam(mlp, **options) for mlp in mlps]
    results = []
    for _ in range(2):  # the second time from a state that is not fresh
        results.append(run(folded(mlps[0], optimizers[0], limit), batch_size=batch_size))
        results.append(run(autograd(mlps[1], optimizers[1], limit), batch_size=batch_size))
        assert results[-2].used == results[-1].used == 3 * math.ceil(N / batch_size)
        assert results[-2].loss == pytest.approx(results[-1].loss, rel=1e-4)
        check_same(mlps, optimizers)


def test_they_can_take_turns():
    mlps = [network(), network()]
    optimizers = [adam(mlp) for mlp in mlps]
    run(folded(mlps[0], optimizers[0]))
    run(autograd(mlps[0], optimizers[0]))
    run(autograd(mlps[1], optimizers[1]))
    run(folded(mlps[1], optimizers[1]))
    check_same(mlps, optimizers)


@pytest.mark.parametrize("make", [folded, autograd])
@pytest.mark.parametrize("fault", [math.nan, math.inf, 3e38])
def test_a_minibatch_that_is_not_finite_is_skipped(make, fault):
    targets = data()[1].clone()
    targets[4] = fault
    mlp = network()
    result = run(make(mlp, adam(mlp), targets=targets), n_passes=2)
    assert (result.used, result.skipped) == (6, 2)
    assert math.isfinite(result.loss)
    assert all(th.isfinite(p).all() for p in mlp.parameters)


@pytest.mark.parametrize("make", [folded, autograd])
def test_nothing_to_use_moves_nothing(make):
    mlp = network()
    optimizer, before = adam(mlp), [p.detach().clone() for p in mlp.parameters]
    result = run(make(mlp, optimizer, targets=th.full((N,), math.nan)))
    assert (result.used, result.skipped, result.loss) == (0, 12, 0.0)
    assert all(th.equal(a, b) for a, b in zip(before, mlp.parameters, strict=True))
    assert not optimizer.state[mlp.parameters[0]]


@pytest.mark.parametrize("make", [folded, autograd])
def test_held_out_rows_end_the_fit_and_the_best_weights_are_kept(make):
    """On pure noise the held-out error soon rises."""
    held_out = range(0, N, 3)
    targets = th.randn(N, generator=th.Generator().manual_seed(3))

    def error(mlp):
        rows = list(held_out)
        with th.no_grad():
            return float((mlp(data()[0][rows]).flatten() - targets[rows]).square().mean())

    guarded = network()
    start = error(guarded)
    result = run(make(guarded, adam(guarded), targets=targets), n_passes=200, held_out=held_out, patience=2)
    assert result.used < 200 * 3
    assert error(guarded) <= start
    assert make(guarded, adam(guarded), targets=targets).loss(np.array(held_out)) == pytest.approx(error(guarded))


def test_the_closed_form_is_only_for_plain_adam():
    mlp = network()
    assert FoldedDescent.applies(mlp, adam(mlp))
    for optimizer in (
        th.optim.SGD(mlp.parameters, lr=0.1),
        th.optim.AdamW(mlp.parameters),
        adam(mlp, amsgrad=True),
        adam(mlp, maximize=True),
        th.optim.Adam([{"params": mlp.parameters[:1]}, {"params": mlp.parameters[1:], "lr": 0.5}]),
        th.optim.Adam(mlp.parameters[:3]),
    ):
        assert not FoldedDescent.applies(mlp, optimizer)
    uneven = adam(mlp)
    mlp.parameters[0].grad = th.ones_like(mlp.parameters[0])
    uneven.step()
    assert not FoldedDescent.applies(mlp, uneven)
    hooked = adam(mlp)
    hooked.register_step_post_hook(lambda *args: None)
    assert not FoldedDescent.applies(mlp, hooked)
    scheduled = adam(mlp)
    th.optim.lr_scheduler.StepLR(scheduled, 1)
    assert not FoldedDescent.applies(mlp, scheduled)
