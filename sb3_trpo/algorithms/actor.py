"""What the trust region needs from a Stable-Baselines3 policy: its action distribution, parameters and curvature."""

from collections.abc import Sequence

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from torch import Tensor

from sb3_trpo.algorithms.action_distribution import (
    action_head,
    as_core_distribution,
    snapshot,
    unvalidated_distributions,
)
from sb3_trpo.algorithms.batches import Observations, graph_bytes_per_row, n_rows
from sb3_trpo.algorithms.perceptrons import actor_mlp
from sb3_trpo.core.distributions import Distribution, MetricDistribution
from sb3_trpo.core.fisher import AutogradJacobian, DoubleBackprop, GaussNewton, Linearization
from sb3_trpo.core.mlp import MlpJacobian, activation_bytes

GRAPHS = 3
"""What a product through autograd holds, in forward graphs: itself, its reverse pass, and the reverse of that."""


class Actor:
    """The part of ``policy`` that chooses actions: the `Policy` of `sb3_trpo.core.problem`.

    ``parameters`` are the trainable tensors that the KL divergence depends on, found from its graph and not by
    name, so that custom policies and shared layers are treated as what they are. For a plain perceptron they are in
    the order of its layers, which is the order of every flat vector of an update.

    :param policy: any `ActorCriticPolicy`; it must be in evaluation mode while an update runs
    :param observations: a few observations, to see what the distribution depends on
    :raises ValueError: for a distribution without a KL divergence, and for an actor with nothing to train
    """

    def __init__(self, policy: ActorCriticPolicy, observations: Observations):
        self.policy = policy
        self._mlp = actor_mlp(policy)
        if self._mlp is not None:
            self.parameters: list[Tensor] = self._mlp.parameters
            self._mlp = self._mlp.detach()
            self.bytes_per_row = activation_bytes(self._mlp)
        else:
            self.parameters = influencing(self._kl_with_itself(observations), list(policy.parameters()))
            self.bytes_per_row = graph_bytes_per_row(policy, policy.get_distribution, observations)
        if not self.parameters:
            raise ValueError("no trainable parameter of the policy changes its actions: unfreeze the actor's layers")

    @th.no_grad()
    def distribution(self, observations: Observations) -> Distribution:
        """The action distributions of a batch, as constants.

        Torch's own checks are off, so that a candidate of the line search that is not finite is refused by its KL.
        """
        if self._mlp is not None:
            return snapshot(action_head(self.policy)(self._mlp(self._features(observations))))
        with unvalidated_distributions():
            return as_core_distribution(self.policy.get_distribution(observations))

    def linearize(self, observations: Observations) -> Linearization:
        """The policy near its current parameters, in the cheapest form that applies."""
        if self._mlp is not None:
            with th.no_grad():
                jacobian = MlpJacobian(self._mlp, self._features(observations))
            return GaussNewton(jacobian, snapshot(action_head(self.policy)(jacobian.output)))
        with unvalidated_distributions(), th.enable_grad():
            attached = as_core_distribution(self.policy.get_distribution(observations))
        nbytes = GRAPHS * self.bytes_per_row * n_rows(observations)
        constant = self.distribution(observations)
        if isinstance(attached, MetricDistribution) and isinstance(constant, MetricDistribution):
            return GaussNewton(AutogradJacobian(attached.parameters, self.parameters, nbytes), constant)
        return DoubleBackprop(attached, constant, self.parameters, nbytes)

    def _features(self, observations: Observations) -> Tensor:
        return BaseModel.extract_features(self.policy, observations, self.policy.pi_features_extractor)

    def _kl_with_itself(self, observations: Observations) -> Tensor:
        """Zero, in the graph of all that the KL depends on."""
        with unvalidated_distributions(), th.enable_grad():
            attached = as_core_distribution(self.policy.get_distribution(observations))
        try:
            return self.distribution(observations).kl_divergence(attached).sum()
        except NotImplementedError as error:
            raise ValueError(
                f"the policy's action distribution {type(self.policy.action_dist).__name__} has no KL divergence: "
                "register one with torch.distributions.kl.register_kl, or use one of Stable-Baselines3's distributions"
            ) from error


def influencing(output: Tensor, candidates: Sequence[Tensor]) -> list[Tensor]:
    """Those of ``candidates`` that are trainable and in the graph of the scalar ``output``."""
    trainable = [candidate for candidate in candidates if candidate.requires_grad]
    if not (trainable and output.requires_grad):
        return []
    gradients = th.autograd.grad(output, trainable, allow_unused=True)
    return [p for p, gradient in zip(trainable, gradients, strict=True) if gradient is not None]
