"""Random small policies in float64, seen both as modules (for the oracles) and as the package's own objects."""

import itertools
from dataclasses import dataclass

import torch as th
from hypothesis import strategies as st
from torch import nn

from sb3_trpo.core.distributions import Bernoulli, Categorical, Gaussian
from sb3_trpo.core.fisher import AutogradJacobian, DoubleBackprop, GaussNewton
from sb3_trpo.core.mlp import Layer, Mlp, MlpJacobian
from sb3_trpo.core.surrogate import normalized_weights
from tests import oracles

ACTIVATIONS = [nn.Tanh(), nn.ReLU(), nn.ELU(), nn.SiLU(), nn.GELU(), nn.Sigmoid(), nn.Softplus()]
KINDS = ["gaussian", "gaussian_state_std", "categorical", "bernoulli"]


class CasePolicy:
    """A case as `sb3_trpo.core.problem` wants a policy; its observations are row numbers or slices of the inputs."""

    def __init__(self, case, form="autograd"):
        self.case, self.form = case, form
        self.parameters = case.parameters

    def distribution(self, rows):
        with th.no_grad():
            return self.case.wrap(tuple(t.clone() for t in self.case.net(self.case.inputs[rows])))

    def linearize(self, rows):
        return self.case.linearize(self.case.inputs[rows], self.form)


class Net(nn.Module):
    """A perceptron whose output is the tuple of the distribution's parameters."""

    def __init__(self, kind, n_inputs, hidden, n_outputs, activation):
        super().__init__()
        self.kind, self.activation = kind, activation
        widths = [n_inputs, *hidden, 2 * n_outputs if kind == "gaussian_state_std" else n_outputs]
        self.linears = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(widths)])
        if kind == "gaussian":
            self.log_std = nn.Parameter(0.3 * th.randn(n_outputs))

    def forward(self, x):
        for linear in self.linears[:-1]:
            x = self.activation(linear(x))
        x = self.linears[-1](x)
        if self.kind == "gaussian":
            return x, self.log_std
        if self.kind == "gaussian_state_std":
            mean, log_std = x.chunk(2, -1)
            return mean, 0.3 * log_std
        return (x,)


@dataclass
class Case:
    kind: str
    net: Net
    inputs: th.Tensor
    weights: th.Tensor
    sizes: tuple

    @property
    def parameters(self):
        """In the order of the perceptron's flat vectors: layers first, then the free ones."""
        free = [self.net.log_std] if self.kind == "gaussian" else []
        return [t for linear in self.net.linears for t in (linear.weight, linear.bias)] + free

    @property
    def mlp(self):
        activations = [self.net.activation] * (len(self.net.linears) - 1) + [None]
        layers = tuple(Layer(li.weight, li.bias, a) for li, a in zip(self.net.linears, activations, strict=True))
        return Mlp(layers, (self.net.log_std,) if self.kind == "gaussian" else ())

    def distribution(self):
        return self.wrap(self.net(self.inputs))

    def old(self):
        """The distribution as a constant: a snapshot, which does not follow the parameters."""
        return self.wrap(tuple(t.detach().clone() for t in self.net(self.inputs)))

    def wrap(self, parameters):
        if self.kind.startswith("gaussian"):
            return Gaussian(*parameters)
        return Categorical(*parameters, self.sizes) if self.kind == "categorical" else Bernoulli(*parameters)

    def components(self, parameters=None):
        """The same distribution as independent torch distributions."""
        kind = "gaussian" if self.kind.startswith("gaussian") else self.kind
        return oracles.components(kind, self.net(self.inputs) if parameters is None else parameters, self.sizes)

    def linearize(self, inputs=None, form="autograd"):
        """The policy of `sb3_trpo.core.problem` near its parameters, in one of the forms."""
        distribution = self.distribution() if inputs is None else self.wrap(self.net(inputs))
        constant = self.wrap(tuple(t.detach().clone() for t in distribution.parameters))
        if form == "double backprop":
            return DoubleBackprop(distribution, constant, self.parameters, 0)
        if form == "autograd":
            return GaussNewton(AutogradJacobian(distribution.parameters, self.parameters), constant)
        return GaussNewton(MlpJacobian(self.mlp, self.inputs if inputs is None else inputs), constant)

    def to_named_order(self, vector):
        """From the perceptron's order to the module's ``named_parameters`` order, which the oracles use."""
        parts = dict(zip(map(id, self.parameters), vector.split([p.numel() for p in self.parameters]), strict=True))
        return th.cat([parts[id(p)] for p in self.net.parameters()])


def make_case(kind, seed, hidden=(5, 4), n=6, n_inputs=3, sizes=(3, 2), n_dims=2, activation=None, mask=None):
    generator_state = th.get_rng_state()
    th.manual_seed(seed)
    n_outputs = sum(sizes) if kind == "categorical" else n_dims
    net = Net(kind, n_inputs, hidden, n_outputs, activation or nn.Tanh()).double()
    inputs, weights = th.randn(n, n_inputs, dtype=th.float64), th.rand(n, dtype=th.float64) + 0.1
    if mask is not None:
        weights = weights * th.tensor(mask, dtype=th.float64)
    th.set_rng_state(generator_state)
    return Case(kind, net, inputs, normalized_weights(weights), tuple(sizes) if kind == "categorical" else ())


@st.composite
def cases(draw, kinds=tuple(KINDS)):
    n = draw(st.integers(1, 6))
    mask = draw(st.lists(st.sampled_from([0.0, 1.0, 1.0]), min_size=n, max_size=n).filter(any))
    return make_case(
        draw(st.sampled_from(kinds)),
        draw(st.integers(0, 10_000)),
        hidden=draw(st.lists(st.integers(1, 5), max_size=2)),
        n=n,
        n_inputs=draw(st.integers(1, 4)),
        sizes=draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)),
        n_dims=draw(st.integers(1, 3)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        mask=mask,
    )
