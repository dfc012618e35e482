"""Stable-Baselines3's action distributions as the tensors that define them."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch as th
from sb3_contrib.common.maskable import distributions as maskable
from stable_baselines3.common import distributions as sb3
from torch import Tensor

from sb3_trpo.core.distributions import Bernoulli, Categorical, Distribution, Gaussian, SquashedGaussian
from sb3_trpo.core.sampling import Head


@contextmanager
def unvalidated_distributions() -> Iterator[None]:
    """Let ``torch.distributions`` hold parameters that are not finite, instead of raising."""
    validate = th.distributions.Distribution._validate_args
    th.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        th.distributions.Distribution.set_default_validate_args(validate)


class OpaqueDistribution(NamedTuple):
    """A distribution of which only log-probabilities and torch's KL formula are known; no Fisher metric."""

    distribution: sb3.Distribution

    def log_prob(self, actions: Tensor) -> Tensor:
        """As the distribution defines it, (N,)."""
        return self.distribution.log_prob(actions)

    def entropy(self) -> Tensor | None:
        """As the distribution defines it; None where it has no formula."""
        try:
            return self.distribution.entropy()
        except NotImplementedError:
            return None

    def kl_divergence(self, new: "OpaqueDistribution") -> Tensor:
        """Torch's formula, summed over all but the first dimension: the KL of the joint action."""
        p, q = self.distribution.distribution, new.distribution.distribution
        if not (isinstance(p, th.distributions.Distribution) and isinstance(q, th.distributions.Distribution)):
            raise NotImplementedError(f"KL divergence of {type(p).__name__}")
        kl = th.distributions.kl_divergence(p, q)
        return kl.flatten(1).sum(-1) if kl.dim() > 1 else kl


def as_core_distribution(distribution: Any) -> Distribution:
    """Stable-Baselines3's distribution as the tensors that define it.

    Its policies return the *same* object on every call; the tensors inside are new each time, so the result is
    not changed by later calls.
    """
    kind = type(distribution)
    if kind in (
        sb3.DiagGaussianDistribution,
        sb3.SquashedDiagGaussianDistribution,
        sb3.StateDependentNoiseDistribution,
    ):
        base = Gaussian(distribution.distribution.mean, distribution.distribution.stddev.log())
        if kind is sb3.SquashedDiagGaussianDistribution:
            return SquashedGaussian(base, distribution.epsilon)
        if kind is sb3.StateDependentNoiseDistribution and distribution.bijector is not None:
            return SquashedGaussian(base, distribution.bijector.epsilon)
        return base
    if kind is sb3.CategoricalDistribution:
        return Categorical(distribution.distribution.logits, (distribution.distribution.logits.shape[-1],))
    if kind is sb3.MultiCategoricalDistribution:
        logits = [choice.logits for choice in distribution.distribution]
        return Categorical(th.cat(logits, -1), tuple(block.shape[-1] for block in logits))
    if kind is maskable.MaskableCategoricalDistribution:
        return Categorical(distribution.distribution.logits, (distribution.action_dim,))
    if kind in (maskable.MaskableMultiCategoricalDistribution, maskable.MaskableBernoulliDistribution):
        return Categorical(
            th.cat([choice.logits for choice in distribution.distributions], -1), sizes_of(distribution.action_dims)
        )
    if kind is sb3.BernoulliDistribution:
        return Bernoulli(distribution.distribution.logits)
    return OpaqueDistribution(copy.copy(distribution))


def action_head(policy: Any) -> Callable[[Tensor], Head]:
    """What turns the output (N, K) of a perceptron that `actor_mlp` found into action distributions.

    The log std is the policy's own: the distributions follow it.
    """
    action_dist: Any = policy.action_dist
    kind = type(action_dist)
    if kind is sb3.DiagGaussianDistribution:
        log_std = policy.log_std.detach()
        return lambda mean: Gaussian(mean, log_std)
    if kind in (sb3.CategoricalDistribution, maskable.MaskableCategoricalDistribution):
        return lambda logits: Categorical(logits, (logits.shape[-1],))
    if kind is sb3.BernoulliDistribution:
        return Bernoulli
    sizes = sizes_of(action_dist.action_dims)
    return lambda logits: Categorical(logits, sizes)


def sizes_of(action_dims: Iterable[Any]) -> tuple[int, ...]:
    """The options of each choice; sb3-contrib's coin with a mask is a choice of two."""
    return tuple(int(size) for size in action_dims)


def masked(distribution: Head, action_masks: Tensor | None) -> Head:
    """The distribution without the options that the masks forbid."""
    if action_masks is None:
        return distribution
    assert isinstance(distribution, Categorical)
    return distribution.masked(action_masks)


def snapshot(distribution: Head) -> Head:
    """The distribution as it is now; it no longer follows the policy's log std."""
    return (
        Gaussian(distribution.mean, distribution.log_std.clone())
        if isinstance(distribution, Gaussian)
        else distribution
    )
