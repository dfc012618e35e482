"""Slow and obvious: what the package computes, written from the definitions with dense matrices and sampling.

Nothing here uses the package's own mathematics, and the package never imports it.
"""

import itertools

import numpy as np
import torch as th
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence
from torch.func import functional_call, jacrev, vmap

GAUSS_HERMITE = tuple(np.polynomial.hermite_e.hermegauss(8))  # exact for polynomials up to degree 15


def components(kind, parameters, sizes=()):
    """The joint action distribution as a list of independent one-dimensional torch distributions, batch first."""
    if kind == "gaussian":
        mean, log_std = parameters
        log_std = log_std.expand_as(mean)
        return [Normal(mean[:, a], log_std[:, a].exp()) for a in range(mean.shape[1])]
    if kind == "categorical":
        return [Categorical(logits=block) for block in parameters[0].split(sizes, -1)]
    return [Bernoulli(logits=parameters[0][:, a]) for a in range(parameters[0].shape[1])]


def joint_kl(old, new):
    """KL of the joint from torch's own formulas, summed over the independent components, (N,)."""
    return sum(kl_divergence(p, q) for p, q in zip(old, new, strict=True))


def joint_log_prob(parts, actions):
    return sum(part.log_prob(actions[:, k]) for k, part in enumerate(parts))


def monte_carlo_kl(old, new, n_samples, seed):
    """E_{a ~ old}[log old(a) - log new(a)] for each state, and the standard error of that mean."""
    with th.random.fork_rng():
        th.manual_seed(seed)
        ratios = sum(
            p.log_prob(x) - q.log_prob(x) for p, q in zip(old, new, strict=True) for x in [p.sample((n_samples,))]
        )
    return ratios.mean(0), ratios.std(0) / n_samples**0.5


def _outcomes(part):
    """Outcomes x (Q, N) of one component and their probabilities (Q, N): an exact expectation of its score."""
    if isinstance(part, Normal):
        nodes, weights = (th.as_tensor(array, dtype=part.mean.dtype) for array in GAUSS_HERMITE)
        x = part.mean + nodes[:, None] * part.stddev
        return x, (weights / weights.sum())[:, None].expand_as(x)
    n_options = part.logits.shape[-1] if isinstance(part, Categorical) else 2
    x = th.arange(n_options, dtype=th.float64)[:, None].expand(n_options, len(part.probs))
    return x, part.log_prob(x).exp()


def dense_fisher(module, inputs, weights, make_components):
    """``sum_n w_n E_a[grad log pi(a|s_n) grad log pi(a|s_n)^T]`` by enumerating or integrating over the actions.

    The components are independent and a score has mean zero, so the cross terms between them vanish.
    """
    named = {name: p.detach() for name, p in module.named_parameters()}
    n_parts = len(make_components(module(inputs)))

    def log_prob(params, x, outcome, k):
        part = make_components(functional_call(module, params, (x[None],)))[k]
        return part.log_prob(outcome[None]).squeeze(0)

    fisher = 0.0
    for k in range(n_parts):
        outcomes, probabilities = _outcomes(make_components(module(inputs))[k])
        for outcome, probability in zip(outcomes.detach(), probabilities.detach(), strict=True):
            score = vmap(jacrev(log_prob), (None, 0, 0, None))(named, inputs, outcome, k)
            flat = th.cat([score[name].flatten(1) for name in named], 1)
            fisher = fisher + (flat * (weights * probability)[:, None]).T @ flat
    return fisher


def dense_kl_hessian(module, inputs, weights, make_components):
    """Hessian of the mean KL(old || new) in the new parameters, at the old ones."""
    names = [name for name, _ in module.named_parameters()]
    shapes = [p.shape for p in module.parameters()]
    theta = th.cat([p.detach().flatten() for p in module.parameters()])
    old = make_components(tuple(t.detach() for t in module(inputs)))

    def mean_kl(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        params = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return (weights * joint_kl(old, make_components(functional_call(module, params, (inputs,))))).sum()

    return th.autograd.functional.hessian(mean_kl, theta)


def all_actions(kind, n_dims, sizes):
    """Every joint action of a finite action space."""
    options = [range(size) for size in sizes] if kind == "categorical" else [range(2)] * n_dims
    return th.tensor(list(itertools.product(*options)), dtype=th.float64)
