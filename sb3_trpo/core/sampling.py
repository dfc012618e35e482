"""Sampling actions from noise drawn before the distributions are known.

A sample is the distribution's parameters plus noise, and a choice that depends on nothing else: the noise of a whole
rollout is drawn at once and a step costs one addition. Parameters are columns here, (K, n) for n states.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import torch as th

from sb3_trpo.core.activations import Array
from sb3_trpo.core.distributions import Bernoulli, Categorical, Gaussian

Head: TypeAlias = Gaussian | Categorical | Bernoulli


class Sampler(NamedTuple):
    """``noise`` (T, K, n) of T steps, and ``choose``: parameters plus noise (K, n) -> actions (n, ...)."""

    noise: Array
    choose: Callable[[Array], Array]

    def sample(self, parameters: Array, step: int) -> Array:
        """The actions of n states with ``parameters`` (K, n) at ``step``; a new array on every call."""
        return self.choose(parameters + self.noise[step])


def sampler(head: Head, n_steps: int, n_states: int) -> Sampler:
    """Draw the noise of ``n_steps`` with torch's generator.

    Normal noise times the standard deviation for a mean; Gumbel noise for the logits of a choice, of which the
    largest is chosen (the Gumbel-max trick); logistic noise for the logit of a coin, which shows 1 if it is positive.

    :param head: a distribution of the kind, with the log std (A,) that holds for all steps
    """
    noise = th.empty(n_steps, head.parameters[0].shape[-1], n_states)
    if isinstance(head, Gaussian):
        noise.normal_().mul_(head.log_std.detach().exp().unsqueeze(-1))
        return Sampler(noise.numpy(), _mean)
    if isinstance(head, Categorical):
        ends = tuple(int(end) for end in np.cumsum(head.sizes)[:-1])
        noise.exponential_().clamp_(min=th.finfo(noise.dtype).tiny).log_().neg_()  # finite
        return Sampler(noise.numpy(), partial(_largest, ends=ends))
    return Sampler(noise.uniform_().logit_().numpy(), _positive)


def _mean(samples: Array) -> Array:
    return np.ascontiguousarray(samples.T)


def _largest(scores: Array, ends: tuple[int, ...]) -> Array:
    if not ends:
        return np.asarray(scores.argmax(0))
    return np.stack([block.argmax(0) for block in np.split(scores, ends)], -1)


def _positive(scores: Array) -> Array:
    return (scores.T > 0).astype(scores.dtype)
