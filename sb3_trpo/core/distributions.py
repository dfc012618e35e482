r"""Action distributions as their parameters: log-probability, entropy, KL divergence, Fisher metric.

For parameters phi (N, K) of N states, with ``tangents`` d phi and weights w (N,):

.. math:: D(old \| new)_n = E_{a \sim old}[\log old(a|s_n) - \log new(a|s_n)] \quad\text{[nats, of the joint action]}

.. math:: (M \, d\phi)_n = w_n \, E[\nabla_\phi \log \pi \, \nabla_\phi \log \pi^T] \, d\phi_n

Every quantity is that of the *joint* action: summed over action dimensions, never averaged over them (sb3-contrib
averages, and so bounds a KL that shrinks with the number of dimensions). Metrics: Gaussian ``1/sigma^2`` on the
mean and ``2`` on log sigma; categorical ``diag(p) - p p^T`` on the logits; Bernoulli ``p (1 - p)`` on the logits.
The metric is the Hessian of ``D(phi || phi')`` in phi' at phi' = phi.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch as th
from torch import Tensor
from torch.nn import functional as F

Tangents = tuple[Tensor, ...]
Metric = Callable[[Tangents], Tangents]
"""Tangents of distribution parameters -> cotangents in the same shapes."""


class Distribution(Protocol):
    """What the trust region needs of the action distributions of N states."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability (N,) of the joint ``actions``, in nats."""

    def entropy(self) -> Tensor | None:
        """Differential or Shannon entropy (N,) in nats; None without a closed form."""

    def kl_divergence(self, new: Any) -> Tensor:
        """``D(self || new)`` (N,) of the joint action, in nats; ``new`` is of the same kind."""


@runtime_checkable
class MetricDistribution(Distribution, Protocol):
    """A distribution whose Fisher metric in its own parameters has a closed form."""

    @property
    def parameters(self) -> Tangents:
        """The tensors phi that the metric is about."""

    def fisher_metric(self, tangents: Tangents, weights: Tensor) -> Tangents:
        """``w_n M_n d phi_n``, in the shapes of ``parameters``."""

    def with_parameters(self, parameters: Tangents) -> "MetricDistribution":
        """The distribution of the same kind with other ``parameters``."""


class Gaussian(NamedTuple):
    """Independent normal action dimensions: ``mean`` (N, A), ``log_std`` (N, A), or (A,) for one std for all states."""

    mean: Tensor
    log_std: Tensor

    @property
    def parameters(self) -> Tangents:
        """``(mean, log_std)``."""
        return (self.mean, self.log_std)

    def with_parameters(self, parameters: Tangents) -> "Gaussian":
        """Another mean and log std."""
        return Gaussian(*parameters)

    def log_prob(self, actions: Tensor) -> Tensor:
        """``sum_a -((x - mean) / std)^2 / 2 - log std - log(2 pi) / 2``."""
        z = (actions - self.mean) * th.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """``sum_a log std + (1 + log(2 pi)) / 2``."""
        return (self.log_std.expand_as(self.mean) + 0.5 * (1.0 + math.log(2 * math.pi))).sum(-1)

    def kl_divergence(self, new: "Gaussian") -> Tensor:
        """``sum_a (exp(2d) - 1 - 2d) / 2 + (mean - mean')^2 / (2 std'^2)`` with ``d = log(std / std')``.

        The textbook formula with its cancellation done by hand: a small KL keeps its digits.
        """
        d = self.log_std - new.log_std
        shift = (self.mean - new.mean) * th.exp(-new.log_std)
        return (0.5 * (th.expm1(2 * d) - 2 * d) + 0.5 * shift.square()).sum(-1)

    def fisher_metric(self, tangents: Tangents, weights: Tensor) -> Tangents:
        """``1/std^2`` on the mean, ``2`` on log std (weights sum to one, so a shared log std collects just 2)."""
        d_mean, d_log_std = tangents
        w = weights.unsqueeze(-1)
        shared_std = self.log_std.dim() == 1
        return (w * d_mean * th.exp(-2 * self.log_std), 2.0 * d_log_std * (weights.sum() if shared_std else w))


class FixedGaussian(NamedTuple):
    """One normal number for each state, ``mean`` (N, 1), with a standard deviation that is no parameter.

    A regression seen as a distribution: its log-probability is the squared error, its KL divergence the squared
    change of the values, both in units of ``std``.
    """

    mean: Tensor
    std: float

    @property
    def parameters(self) -> Tangents:
        """``(mean,)``."""
        return (self.mean,)

    def with_parameters(self, parameters: Tangents) -> "FixedGaussian":
        """Another mean."""
        return self._replace(mean=parameters[0])

    def log_prob(self, values: Tensor) -> Tensor:
        """``-((x - mean) / std)^2 / 2``, up to a constant; ``values`` (N,)."""
        return -0.5 * ((values - self.mean.flatten()) / self.std).square()

    def entropy(self) -> None:
        """Of no interest: it does not change."""

    def kl_divergence(self, new: "FixedGaussian") -> Tensor:
        """``((mean - mean') / std)^2 / 2``."""
        return 0.5 * ((self.mean - new.mean).flatten() / self.std).square()

    def fisher_metric(self, tangents: Tangents, weights: Tensor) -> Tangents:
        """``1 / std^2``."""
        return (weights.unsqueeze(-1) * tangents[0] / self.std**2,)


class SquashedGaussian(NamedTuple):
    """``tanh`` of a Gaussian: actions in (-1, 1); KL and metric are the base's, which a bijection leaves alone.

    ``epsilon`` is Stable-Baselines3's guard in the density of the squash, so that log-probabilities agree with
    those in its rollout buffers.
    """

    base: Gaussian
    epsilon: float

    @property
    def parameters(self) -> Tangents:
        """``(mean, log_std)`` of the base."""
        return self.base.parameters

    def with_parameters(self, parameters: Tangents) -> "SquashedGaussian":
        """Another mean and log std of the base."""
        return SquashedGaussian(Gaussian(*parameters), self.epsilon)

    def log_prob(self, actions: Tensor) -> Tensor:
        """``log base(atanh a) - sum_a log(1 - a^2 + epsilon)``."""
        eps = th.finfo(actions.dtype).eps
        x = th.atanh(actions.clamp(-1.0 + eps, 1.0 - eps))
        return self.base.log_prob(x) - th.log(1.0 - th.tanh(x).square() + self.epsilon).sum(-1)

    def entropy(self) -> None:
        """No closed form."""

    def kl_divergence(self, new: "SquashedGaussian") -> Tensor:
        """That of the base."""
        return self.base.kl_divergence(new.base)

    def fisher_metric(self, tangents: Tangents, weights: Tensor) -> Tangents:
        """That of the base."""
        return self.base.fisher_metric(tangents, weights)


class Categorical(NamedTuple):
    """K independent choices among ``sizes[k]`` options each: ``logits`` (N, sum(sizes)), not necessarily normalised.

    One choice is a categorical distribution, several are a multi-categorical one. A masked option has a logit of
    -inf or a very large negative number.
    """

    logits: Tensor
    sizes: tuple[int, ...]

    @property
    def parameters(self) -> Tangents:
        """``(logits,)``."""
        return (self.logits,)

    def with_parameters(self, parameters: Tangents) -> "Categorical":
        """Other logits."""
        return self._replace(logits=parameters[0])

    def masked(self, masks: Tensor) -> "Categorical":
        """The same choices without the options where ``masks`` (N, sum(sizes)) is False; each keeps one at least.

        A forbidden option has probability zero, whatever its logit: it adds nothing to KL, entropy or Fisher metric.
        """
        return self._replace(logits=self.logits.masked_fill(~masks, -math.inf))

    def log_prob(self, actions: Tensor) -> Tensor:
        """Sum over the choices of the log-probability of the chosen option; ``actions`` (N, K), or (N,) for K = 1."""
        chosen = actions.reshape(-1, len(self.sizes), 1).long()
        return _total([lp.gather(-1, chosen[:, k]).squeeze(-1) for k, lp in enumerate(self._log_probs())])

    def entropy(self) -> Tensor:
        """``-sum_k sum_i p_i log p_i``."""
        return _total([-(log_p.exp() * log_p).sum(-1) for log_p in self._log_probs()])

    def kl_divergence(self, new: "Categorical") -> Tensor:
        """Sum over the choices of ``sum_i p_i log(p_i / p'_i)``."""
        return _total([_kl(*pair) for pair in zip(self._log_probs(), new._log_probs(), strict=True)])

    def fisher_metric(self, tangents: Tangents, weights: Tensor) -> Tangents:
        """``w (diag(p) - p p^T) dl`` for each choice."""
        blocks = []
        for log_p, d in zip(self._log_probs(), th.split(tangents[0], list(self.sizes), -1), strict=True):
            p = log_p.exp()
            pd = p * d
            blocks.append(pd - p * pd.sum(-1, keepdim=True))
        return (weights.unsqueeze(-1) * th.cat(blocks, -1),)

    def _log_probs(self) -> list[Tensor]:
        """Normalised log-probabilities of each choice; those of impossible options are huge but finite."""
        floor = th.finfo(self.logits.dtype).min
        return [F.log_softmax(block, -1).clamp(min=floor) for block in th.split(self.logits, list(self.sizes), -1)]


class Bernoulli(NamedTuple):
    """Independent coins: ``logits`` (N, A) of the probability of 1."""

    logits: Tensor

    @property
    def parameters(self) -> Tangents:
        """``(logits,)``."""
        return (self.logits,)

    def with_parameters(self, parameters: Tangents) -> "Bernoulli":
        """Other logits."""
        return Bernoulli(*parameters)

    def log_prob(self, actions: Tensor) -> Tensor:
        """``sum_a a log p + (1 - a) log(1 - p)``."""
        return -F.binary_cross_entropy_with_logits(self.logits, actions, reduction="none").sum(-1)

    def entropy(self) -> Tensor:
        """``-sum_a p log p + (1 - p) log(1 - p)``."""
        log_p = self._log_probs()
        return -(log_p.exp() * log_p).sum((-2, -1))

    def kl_divergence(self, new: "Bernoulli") -> Tensor:
        """Sum over the coins of the KL of their two outcomes."""
        return _kl(self._log_probs(), new._log_probs()).sum(-1)

    def fisher_metric(self, tangents: Tangents, weights: Tensor) -> Tangents:
        """``w p (1 - p) dl``."""
        return (weights.unsqueeze(-1) * th.sigmoid(self.logits) * th.sigmoid(-self.logits) * tangents[0],)

    def _log_probs(self) -> Tensor:
        """Log-probabilities (N, A, 2) of 0 and of 1."""
        return th.stack([F.logsigmoid(-self.logits), F.logsigmoid(self.logits)], -1)


def _total(tensors: list[Tensor]) -> Tensor:
    """Sum of a non-empty list."""
    return th.stack(tensors).sum(0) if len(tensors) > 1 else tensors[0]


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``sum_i p_i (log p_i - log q_i)`` over the last dimension, as a sum of non-negative terms.

    Because p and q both sum to one, it equals ``sum_i q_i - p_i - p_i d_i`` with ``d = log q - log p``; for small d
    the summand is ``p (expm1(d) - d)``, which does not cancel.
    """
    p, d = log_p.exp(), log_q - log_p
    near = d.clamp(-1.0, 1.0)
    return th.where(d.abs() < 1.0, p * (th.expm1(near) - near), log_q.exp() - p - p * d).sum(-1)
