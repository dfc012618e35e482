"""What the trust region needs from a Stable-Baselines3 policy: its action distribution, parameters and curvature."""

from collections.abc import Sequence
from typing import Any

import torch as th
from torch import Tensor, nn

from sb3_trpo.algorithms.action_distribution import (
    action_head,
    as_core_distribution,
    masked,
    snapshot,
    unvalidated_distributions,
)
from sb3_trpo.algorithms.closed_form import actor_form
from sb3_trpo.algorithms.steps import Steps, graph_bytes_per_row
from sb3_trpo.core.distributions import Distribution, MetricDistribution, Tangents
from sb3_trpo.core.fisher import (
    AutogradJacobian,
    DoubleBackprop,
    FiniteDifferenceJacobian,
    GaussNewton,
    Jacobian,
    Linearization,
)

GRAPHS = 3
"""What a product through autograd holds, in forward graphs: itself, its reverse pass, and the reverse of that."""


class Actor:
    """The part of ``policy`` that chooses actions: the `Policy` of `sb3_trpo.core.problem`.

    ``parameters`` are the trainable tensors that the KL divergence depends on, found from its graph and not by
    name, so that custom policies and shared layers are treated as what they are. For a plain perceptron they are in
    the order of its layers, which is the order of every flat vector of an update.

    :param policy: any actor-critic policy; it must be in evaluation mode while an update runs
    :param steps: a few steps, to see what the distribution depends on
    :raises ValueError: for a distribution without a KL divergence, and for an actor with nothing to train
    """

    def __init__(self, policy: Any, steps: Steps):
        self.policy = policy
        self._form = actor_form(policy)
        if self._form is not None:
            self.parameters: list[Tensor] = self._form.parameters
            self.bytes_per_row = self._form.bytes_per_row
        else:
            self.parameters = influencing(self._kl_with_itself(steps), list(policy.parameters()))
            self.bytes_per_row = graph_bytes_per_row(policy, lambda few: few.action_distribution(policy), steps)
        if not self.parameters:
            raise ValueError("no trainable parameter of the policy changes its actions: unfreeze the actor's layers")

    @th.no_grad()
    def distribution(self, steps: Steps) -> Distribution:
        """The action distributions of a batch, as constants.

        Torch's own checks are off, so that a candidate of the line search that is not finite is refused by its KL.
        """
        if self._form is not None:
            distribution: Distribution = self._head(self._form.value(steps), steps)
            return distribution
        return self._ask(steps)

    def linearize(self, steps: Steps) -> Linearization:
        """The policy near its current parameters, in the cheapest form that applies."""
        if self._form is not None:
            with th.no_grad():
                in_closed_form = self._form.jacobian(steps)
            return GaussNewton(in_closed_form, self._head(in_closed_form.output, steps))
        with th.enable_grad():
            attached = self._ask(steps)
        nbytes = GRAPHS * self.bytes_per_row * len(steps)
        constant = self.distribution(steps)
        if not (isinstance(attached, MetricDistribution) and isinstance(constant, MetricDistribution)):
            return DoubleBackprop(attached, constant, self.parameters, nbytes)
        if not is_differentiable_twice(self.policy):
            jacobian: Jacobian = FiniteDifferenceJacobian(
                attached.parameters, self.parameters, lambda: self._parameters_of_distribution(steps), nbytes
            )
        else:
            jacobian = AutogradJacobian(attached.parameters, self.parameters, nbytes)
        return GaussNewton(jacobian, constant)

    def _head(self, output: Tensor, steps: Steps) -> Any:
        """The distributions that a network's output stands for, as they are now."""
        return masked(snapshot(action_head(self.policy)(output)), steps.action_masks)

    def _ask(self, steps: Steps) -> Distribution:
        with unvalidated_distributions():
            return as_core_distribution(steps.action_distribution(self.policy))

    def _parameters_of_distribution(self, steps: Steps) -> Tangents:
        distribution = self.distribution(steps)
        assert isinstance(distribution, MetricDistribution)
        return distribution.parameters

    def _kl_with_itself(self, steps: Steps) -> Tensor:
        """Zero, in the graph of all that the KL depends on."""
        with th.enable_grad():
            attached = self._ask(steps)
        try:
            return self.distribution(steps).kl_divergence(attached).sum()
        except NotImplementedError as error:
            raise ValueError(
                f"the policy's action distribution {type(self.policy.action_dist).__name__} has no KL divergence: "
                "register one with torch.distributions.kl.register_kl, or use one of Stable-Baselines3's distributions"
            ) from error


def is_differentiable_twice(policy: Any) -> bool:
    """Whether reverse passes through ``policy`` can be differentiated themselves; cuDNN's recurrent layers' cannot."""
    return not any(isinstance(m, nn.RNNBase) and m.weight_ih_l0.is_cuda for m in policy.modules())


def influencing(output: Tensor, candidates: Sequence[Tensor]) -> list[Tensor]:
    """Those of ``candidates`` that are trainable and in the graph of the scalar ``output``."""
    trainable = [candidate for candidate in candidates if candidate.requires_grad]
    if not (trainable and output.requires_grad):
        return []
    gradients = th.autograd.grad(output, trainable, allow_unused=True)
    return [p for p, gradient in zip(trainable, gradients, strict=True) if gradient is not None]
