r"""Value-function regression.

.. math:: \min_\phi \; \frac1{|B|} \sum_{n \in B} (V_\phi(s_n) - R_n)^2

over minibatches B of states and returns R, by the policy's own optimiser, on the critic's own parameters.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor, nn
from torch.nn import functional as F


class CriticFit(NamedTuple):
    """Mean squared error over the minibatches that were used, None for none, and how many were not finite."""

    value_loss: float | None
    skipped: int


def fit_critic(
    predict_values: Callable[..., Tensor],
    parameters: Sequence[Tensor],
    optimizer: th.optim.Optimizer,
    minibatches: Iterable[RolloutBufferSamples],
    max_grad_norm: float | None,
) -> CriticFit:
    """One optimiser step per minibatch; one whose loss or gradient is not finite is skipped.

    :param predict_values: observations -> values (B, 1)
    :param parameters: the critic's; no other parameter of the optimiser moves
    :param max_grad_norm: largest gradient norm, None for no limit
    """
    if not parameters:
        return CriticFit(None, 0)  # everything is frozen, or belongs to the actor
    limit = math.inf if max_grad_norm is None else max_grad_norm
    losses, skipped = [], 0
    optimizer.zero_grad(set_to_none=True)
    for batch in minibatches:
        loss = F.mse_loss(predict_values(batch.observations).flatten(), batch.returns)
        gradients = th.autograd.grad(loss, parameters)
        if not math.isfinite(loss.item()) or not th.isfinite(th.nn.utils.get_total_norm(gradients)):
            skipped += 1
            continue
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if limit < math.inf:
            nn.utils.clip_grad_norm_(parameters, limit)
        optimizer.step()
        losses.append(loss.item())
    optimizer.zero_grad(set_to_none=True)
    return CriticFit(sum(losses) / len(losses) if losses else None, skipped)
