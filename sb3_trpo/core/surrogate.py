r"""The surrogate objective of a policy against the policy that collected the data.

.. math:: L(\theta) = \sum_n w_n \, \rho_n(\theta) \, A_n, \qquad
          \rho_n = \pi_\theta(a_n | s_n) / \pi_{old}(a_n | s_n)

(Schulman et al. 2015, arXiv 1502.05477, equation 14, with advantages in place of Q-values.) Weights ``w``
(N,) sum to one over the whole batch, so every mean in this package is ``(w * x).sum()``; a padded step has
weight zero, and when a batch is spread over processes their sums add up to the mean.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch as th
from torch import Tensor


def normalized_weights(mask: Tensor) -> Tensor:
    """Scale non-negative ``mask`` (N,) such that it sums to one.

    :raises ValueError: when nothing is left to average.
    """
    total = mask.sum()
    if not total > 0:
        raise ValueError(f"the weights sum to {float(total)}: at least one step must have a positive weight")
    return mask / total


def uniform_weights(like: Tensor) -> Tensor:
    """Weights 1/N for the N steps of ``like``, with its dtype and device."""
    return th.full((len(like),), 1.0 / len(like), dtype=like.dtype, device=like.device)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """``sum_n w_n x_n`` of ``values`` (N,); steps of weight zero do not count, whatever they hold."""
    return (weights * values.where(weights > 0, 0.0)).sum()


class Standardized(NamedTuple):
    """``advantages`` (N,) of mean zero and standard deviation one, and the ``scale`` they were divided by."""

    advantages: Tensor
    scale: float


def standardize(advantages: Tensor, weights: Tensor) -> Standardized:
    """Advantages (N,) with mean zero and standard deviation one (Bessel-corrected) under ``weights``.

    Advantages which differ by no more than their own rounding carry no signal: they become exact zeros, of scale
    zero, where dividing by a tiny constant would blow their rounding errors up to size one. Computed in float64.
    Differs from sb3-contrib, which adds 1e-8 to the standard deviation and so changes the result with the reward scale.
    """
    values, w = advantages.double(), weights.double()
    centred = values - weighted_mean(values, w)
    effective_count = 1.0 / w.square().sum()
    variance = weighted_mean(centred.square(), w) * effective_count / (effective_count - 1.0).clamp(min=1e-12)
    rounding = th.finfo(advantages.dtype).eps * values.where(w > 0, 0.0).abs().max()
    scale = variance.sqrt()
    if scale <= rounding:
        return Standardized(th.zeros_like(advantages), 0.0)
    return Standardized((centred / scale).to(advantages.dtype), float(scale))


@dataclass(frozen=True)
class Surrogate:
    """The part of the objective that N steps contribute, as a function of their action distributions.

    ``actions`` in the form that the distributions' ``log_prob`` takes; ``old_log_prob`` under the policy that acted,
    ``advantages`` and ``weights``, all (N,). ``entropy_coefficient`` c adds c times the mean entropy.
    """

    actions: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    weights: Tensor
    entropy_coefficient: float = 0.0

    def __call__(self, policy: Any) -> Tensor:
        """``sum_n w_n (rho_n A_n + c H_n)``, a scalar."""
        return self.terms(policy).sum() + self._bonus(policy)

    def terms(self, policy: Any) -> Tensor:
        """``w_n rho_n A_n`` (N,)."""
        return surrogate_terms(policy.log_prob(self.actions), self.old_log_prob, self.advantages, self.weights)

    def truncated(self, limit: float = math.inf) -> Callable[[Any], Tensor]:
        """One whose gradient is ``sum_n w_n min(rho_n, limit) grad log pi_n A_n``, without the entropy."""

        def objective(policy: Any) -> Tensor:
            log_prob = policy.log_prob(self.actions)
            ratio = th.exp(log_prob.detach() - self.old_log_prob).clamp(max=limit)
            return weighted_mean(ratio * log_prob * self.advantages, self.weights)

        return objective

    def _bonus(self, policy: Any) -> Tensor | float:
        if self.entropy_coefficient == 0.0:
            return 0.0
        return self.entropy_coefficient * mean_entropy(policy, self.weights)


def surrogate_terms(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, weights: Tensor) -> Tensor:
    """``w_n exp(log_prob_n - old_log_prob_n) A_n`` (N,), zero for steps of weight zero, whatever they hold.

    :raises ValueError: unless all arguments have the same shape (N,); broadcasting would average over wrong pairs
    """
    shapes = [tuple(x.shape) for x in (log_prob, old_log_prob, advantages, weights)]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise ValueError(
            f"log_prob, old_log_prob, advantages, weights have shapes {shapes}, all must be (N,): "
            "check what the action distribution's log_prob returns"
        )
    return weights * (th.exp(log_prob - old_log_prob) * advantages).where(weights > 0, 0.0)


def mean_entropy(policy: Any, weights: Tensor) -> Tensor:
    """``sum_n w_n H_n``, in nats.

    :raises ValueError: for distributions whose entropy has no closed form
    """
    entropy = policy.entropy()
    if entropy is None:
        raise ValueError(
            "the policy's action distribution has no entropy in closed form: leave ent_coef at 0 and entropy_floor at "
            "None, or use a policy that does not squash its actions"
        )
    return weighted_mean(entropy, weights)
