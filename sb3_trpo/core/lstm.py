r"""An LSTM's value, tangent and cotangent in closed form, on packed sequences.

At step t of a sequence, with input x and gates of H units each (Hochreiter & Schmidhuber 1997, as in `torch.nn.LSTM`):

.. math:: z = W_{ih} x_t + W_{hh} h_{t-1} + b_{ih} + b_{hh} = (z_i, z_f, z_g, z_o), \qquad
          i, f, o = \sigma(z_{i,f,o}), \quad g = \tanh z_g

.. math:: c_t = f c_{t-1} + i g, \qquad h_t = o \tanh c_t

Its tangent, with :math:`k = (g i', c_{t-1} f', i g', \tanh(c_t) o')` and :math:`q = o (1 - \tanh^2 c_t)`:

.. math:: dz = dW_{ih} x_t + dW_{hh} h_{t-1} + db_{ih} + db_{hh} + W_{ih} dx_t + W_{hh} dh_{t-1}, \qquad
          (\iota, \varphi, \gamma, \omega) = k \, dz

.. math:: dc_t = f dc_{t-1} + \iota + \varphi + \gamma, \qquad dh_t = \omega + q \, dc_t

and the cotangent is the same read backwards. Only what depends on the step before is done step by step, for all
sequences at once and in numpy, whose calls are the shortest; the products with all N steps are one each.

Packed as in `torch.nn.utils.rnn.PackedSequence`: ``batch_sizes[t]`` sequences have a step t, the first ones of those
that have a step t - 1.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch as th
from torch import Tensor

from sb3_trpo.core.activations import Array
from sb3_trpo.core.distributions import Tangents
from sb3_trpo.core.mlp import Mlp, MlpJacobian, activation_bytes


class PackedInputs(NamedTuple):
    """Of S packed sequences: inputs ``x`` (N, D), ``batch_sizes`` (T,), first states ``hidden`` and ``cell`` (S, H)."""

    x: Tensor
    batch_sizes: Tensor
    hidden: Tensor
    cell: Tensor


class Lstm(NamedTuple):
    """One layer of torch's: ``weight_ih`` (4H, D), ``weight_hh`` (4H, H), ``bias_ih`` and ``bias_hh`` (4H,)."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor

    @property
    def n_units(self) -> int:
        """H."""
        return self.weight_hh.shape[1]

    def detach(self) -> "Lstm":
        """The same tensors, cut from the graph."""
        return Lstm(*(tensor.detach() for tensor in self))

    def outputs(self, inputs: PackedInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs (N, H), and the final hidden and cell states (S, H), by torch's own kernel."""
        x, batch_sizes, hidden, cell = inputs
        states = (hidden.unsqueeze(0).contiguous(), cell.unsqueeze(0).contiguous())
        output, h, c = th._VF.lstm(x, batch_sizes, states, list(self), True, 1, 0.0, False, False)
        return output, (h[0], c[0])


class LstmJacobian:
    """Jacobian of the outputs of ``lstm`` at packed ``inputs`` and at the parameters as they stand; on a CPU.

    ``output`` (N, H); ``final`` hidden and cell states (S, H) of each sequence.
    """

    def __init__(self, lstm: Lstm, inputs: PackedInputs):
        lstm = lstm.detach()
        x, batch_sizes, hidden, cell = (tensor.detach() for tensor in inputs)
        self.output, self.final = lstm.outputs(PackedInputs(x, batch_sizes, hidden, cell))
        self._lstm = lstm
        sizes = batch_sizes.tolist()
        self._spans = list(pairwise(np.cumsum([0, *sizes]).tolist()))
        n_steps, n_units = self.output.shape
        before = th.empty_like(self.output)  # h_{t-1}
        before[: sizes[0]] = hidden
        for (start, _), (here, there) in pairwise(self._spans):
            before[here:there] = self.output[start : start + there - here]
        self._seen = th.cat([x, before, th.ones_like(x[:, :1])], 1)
        weights = th.cat([lstm.weight_ih, lstm.weight_hh, (lstm.bias_ih + lstm.bias_hh).unsqueeze(1)], 1)
        gates = (self._seen @ weights.t()).view(n_steps, 4, n_units)
        gates[:, :2].sigmoid_()
        gates[:, 2].tanh_()
        gates[:, 3].sigmoid_()
        i, f, g, o = gates.unbind(1)
        self._forget = f.contiguous().numpy()
        cells, c_before = _cells((i * g).numpy(), self._forget, cell.numpy(), self._spans)
        c = th.from_numpy(cells).tanh_()
        self._q = (o * (1 - c.square())).numpy()
        k = (g * i * (1 - i), th.from_numpy(c_before) * f * (1 - f), i * (1 - g.square()), c * o * (1 - o))
        self._k = th.stack(k, 1).numpy()

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return int(self.output.nbytes + self._seen.nbytes + self._forget.nbytes + self._q.nbytes + self._k.nbytes)

    def jvp(self, d: Sequence[Tensor], dx: Tensor | None = None) -> Tensor:
        """Tangent (N, H) of the output for tangents ``d`` of the parameters, and ``dx`` (N, D) of the inputs."""
        d_weights = th.cat([d[0], d[1], (d[2] + d[3]).unsqueeze(1)], 1)
        dz = self._seen @ d_weights.t()
        if dx is not None:
            dz.addmm_(dx, self._lstm.weight_ih.t())
        steps = dz.numpy().reshape(self._k.shape)
        recurrent = np.ascontiguousarray(self._lstm.weight_hh.t().numpy())
        dh, dc = np.empty_like(self._q), np.empty_like(self._q)
        previous: slice | None = None
        for start, end in self._spans:
            now = slice(start, end)
            u, dc_now, dh_now = steps[now], dc[now], dh[now]
            if previous is not None:
                before = slice(previous.start, previous.start + end - start)
                u += (dh[before] @ recurrent).reshape(u.shape)
            u *= self._k[now]
            np.add(u[:, 0], u[:, 1], out=dc_now)
            dc_now += u[:, 2]
            if previous is not None:
                dc_now += self._forget[now] * dc[before]
            np.multiply(self._q[now], dc_now, out=dh_now)
            dh_now += u[:, 3]
            previous = now
        return th.from_numpy(dh)

    def vjp(self, u: Tensor, with_inputs: bool = False) -> tuple[list[Tensor], Tensor | None]:
        """Cotangents of the parameters, and (N, D) of the inputs if wanted, for those ``u`` (N, H) of the output."""
        dh, dz = u.clone().numpy(), np.empty_like(self._k)
        recurrent = self._lstm.weight_hh.numpy()
        flat = dz.reshape(len(dz), -1)
        carry: Array | None = None
        later = slice(0, 0)
        for start, end in reversed(self._spans):
            now = slice(start, end)
            dh_now = dh[now]
            n_later = later.stop - later.start
            if n_later:
                dh_now[:n_later] += flat[later] @ recurrent
            dc = dh_now * self._q[now]
            if carry is not None:
                dc[:n_later] += carry
            k = self._k[now]
            np.multiply(k[:, :3], dc[:, None], out=dz[now, :3])
            np.multiply(k[:, 3], dh_now, out=dz[now, 3])
            dc *= self._forget[now]
            carry, later = dc, now
        cotangents = th.from_numpy(flat)
        gradient = cotangents.t() @ self._seen
        n_inputs = self._lstm.weight_ih.shape[1]
        bias = gradient[:, -1]
        parts = [gradient[:, :n_inputs], gradient[:, n_inputs:-1], bias, bias]
        return parts, cotangents @ self._lstm.weight_ih if with_inputs else None


def _cells(written: Array, forget: Array, first: Array, spans: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    """Cell states ``c_t = f c_{t-1} + i g`` of all steps, and those before them."""
    cells, before = written, np.empty_like(written)
    previous = first
    for start, end in spans:
        before[start:end] = previous[: end - start]
        cells[start:end] += forget[start:end] * before[start:end]
        previous = cells[start:end]
    return cells, before


class LstmCell:
    """One step at a time of n sequences, from a copy of the weights, in numpy.

    ``hidden`` and ``cell`` (H, n) are the states, a column for each sequence.
    """

    def __init__(self, lstm: Lstm, hidden: Tensor, cell: Tensor):
        """Begin with states (n, H)."""
        lstm = lstm.detach()
        weights = th.cat([lstm.weight_ih, lstm.weight_hh, (lstm.bias_ih + lstm.bias_hh).unsqueeze(1)], 1)
        n_inputs, n_units, n = lstm.weight_ih.shape[1], lstm.n_units, len(hidden)
        self._weights = weights.numpy().copy()
        self._weights[: 2 * n_units] *= 0.5  # sigma(z) = (1 + tanh(z / 2)) / 2: one function for all gates
        self._weights[3 * n_units :] *= 0.5
        self._seen = np.ones((n_inputs + n_units + 1, n), self._weights.dtype)
        self._gates = np.empty((4, n_units, n), self._weights.dtype)
        self._flat = self._gates.reshape(4 * n_units, n)
        self.inputs = self._seen[:n_inputs]
        """The inputs (D, n), to be written before a step."""
        self.hidden = self._seen[n_inputs:-1]
        self.hidden[:] = hidden.t().numpy()
        self.cell = cell.t().numpy().copy()

    def step(self) -> None:
        """Move the states."""
        np.dot(self._weights, self._seen, out=self._flat)
        np.tanh(self._flat, out=self._flat)
        i, f, g, o = self._gates
        for gate in (i, f, o):
            gate += 1.0
            gate *= 0.5
        self.cell *= f
        g *= i
        self.cell += g
        np.tanh(self.cell, out=self.hidden)
        self.hidden *= o

    def forget(self, which: Array) -> None:
        """Nothing is remembered of the sequences ``which`` (n,) is not zero for."""
        if which.any():
            self.hidden[:, which != 0] = 0.0
            self.cell[:, which != 0] = 0.0

    def states(self) -> tuple[Tensor, Tensor]:
        """Copies (n, H)."""
        return th.from_numpy(self.hidden.T.copy()), th.from_numpy(self.cell.T.copy())


class MemoryNetwork(NamedTuple):
    """A perceptron on top of an LSTM."""

    lstm: Lstm
    mlp: Mlp

    @property
    def parameters(self) -> list[Tensor]:
        """Those of the LSTM, then those of the perceptron: the order of flat vectors."""
        return [*self.lstm, *self.mlp.parameters]

    def detach(self) -> "MemoryNetwork":
        """The same tensors, cut from the graph."""
        return MemoryNetwork(self.lstm.detach(), self.mlp.detach())

    def __call__(self, inputs: PackedInputs) -> Tensor:
        """The value (N, K)."""
        return self.mlp(self.lstm.outputs(inputs)[0])


def memory_bytes(network: MemoryNetwork) -> int:
    """What a Jacobian holds for each step: that of the perceptron, the gates, and a copy of input and states."""
    lstm = network.lstm
    return activation_bytes(network.mlp) + 3 * lstm.bias_ih.nbytes + lstm.weight_ih[0].nbytes


class MemoryJacobian:
    """Jacobian of ``(mlp(lstm(x)), *free)`` at packed inputs and at the parameters as they stand; on a CPU."""

    def __init__(self, network: MemoryNetwork, inputs: PackedInputs):
        self._lstm = LstmJacobian(network.lstm, inputs)
        self._mlp = MlpJacobian(network.mlp, self._lstm.output)
        self._shapes = [tensor.shape for tensor in network.lstm]
        self._n_lstm = sum(shape.numel() for shape in self._shapes)
        self.output = self._mlp.output
        """The value (N, K)."""

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self._lstm.nbytes + self._mlp.nbytes

    def jvp(self, vector: Tensor) -> Tangents:
        """``J v``: tangents (N, K) of the output, and of the perceptron's free parameters as they are."""
        sizes = [shape.numel() for shape in self._shapes]
        parts = th.split(vector[: self._n_lstm], sizes)
        dh = self._lstm.jvp([part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)])
        return self._mlp.jvp(vector[self._n_lstm :], dh)

    def vjp(self, cotangents: Tangents) -> Tensor:
        """``J^T u``: the flat vector (P,)."""
        of_mlp, u = self._mlp.vjp_with_inputs(cotangents)
        of_lstm, _ = self._lstm.vjp(u)
        return th.cat([*(part.reshape(-1) for part in of_lstm), of_mlp])
