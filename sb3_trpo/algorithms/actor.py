"""What the trust region needs from a Stable-Baselines3 policy: its action distribution, parameters and curvature."""

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import torch as th
from stable_baselines3.common import distributions as sb3
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import Tensor, nn

from sb3_trpo.algorithms.action_distribution import (
    action_head,
    as_core_distribution,
    snapshot,
    unvalidated_distributions,
)
from sb3_trpo.core.conjugate_gradient import LinearMap
from sb3_trpo.core.distributions import Distribution, MetricDistribution
from sb3_trpo.core.fisher import AutogradJacobian, gauss_newton, kl_hessian
from sb3_trpo.core.mlp import Layer, Mlp, MlpJacobian

Observations: TypeAlias = Tensor | dict[str, Tensor]
Rows = TypeVar("Rows", Tensor, dict[str, Tensor])

ELEMENTWISE_ACTIVATIONS = (
    nn.Tanh,
    nn.ReLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.SiLU,
    nn.GELU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Mish,
    nn.SELU,
    nn.CELU,
    nn.Hardtanh,
    nn.Softsign,
    nn.Identity,
)


class Actor:
    """The part of ``policy`` that chooses actions.

    ``parameters`` are the trainable tensors that the KL divergence depends on, found from its graph and not by
    name, so that custom policies and shared layers are treated as what they are. For a plain perceptron they are in
    the order of its layers, which is the order of every flat vector of an update.

    :param policy: any `ActorCriticPolicy`; it must be in evaluation mode while an update runs
    :param observations: a few observations, to see what the distribution depends on
    :raises ValueError: for a distribution without a KL divergence, and for an actor with nothing to train
    """

    def __init__(self, policy: ActorCriticPolicy, observations: Observations):
        self.policy = policy
        self._mlp = as_mlp(policy)
        if self._mlp is not None:
            self.parameters: list[Tensor] = self._mlp.parameters
        else:
            self.parameters = self._parameters_behind_the_kl(observations)

    def distribution(self, observations: Observations) -> Distribution:
        """The action distributions of a batch; without a graph they are a snapshot, which keeps its values.

        Torch's own checks are off, so that a candidate of the line search that is not finite is refused by its KL.
        """
        with unvalidated_distributions():
            return as_core_distribution(self.policy.get_distribution(observations))

    def fisher_vector_product(self, observations: Observations, weights: Tensor) -> LinearMap:
        """``v -> F v`` at the current parameters, undamped, in the cheapest form that applies."""
        if self._mlp is not None:
            with th.no_grad():
                features = BaseModel.extract_features(self.policy, observations, self.policy.pi_features_extractor)
                mlp_jacobian = MlpJacobian(self._mlp, features)
                head = action_head(self.policy)
                return gauss_newton(mlp_jacobian, snapshot(head(mlp_jacobian.output)), weights)
        distribution = self.distribution(observations)
        if isinstance(distribution, MetricDistribution):
            jacobian = AutogradJacobian(distribution.parameters, self.parameters)
            return gauss_newton(jacobian, distribution, weights)
        return kl_hessian(distribution, self.distribution_snapshot(observations), self.parameters, weights)

    def distribution_snapshot(self, observations: Observations) -> Distribution:
        """The current action distributions as constants."""
        with th.no_grad():
            return self.distribution(observations)

    def _parameters_behind_the_kl(self, observations: Observations) -> list[Tensor]:
        old = self.distribution_snapshot(observations)
        try:
            kl = old.kl_divergence(self.distribution(observations)).sum()
        except NotImplementedError as error:
            raise ValueError(
                f"the policy's action distribution {type(self.policy.action_dist).__name__} has no KL divergence: "
                "register one with torch.distributions.kl.register_kl, or use one of Stable-Baselines3's distributions"
            ) from error
        parameters = influencing(kl, list(self.policy.parameters()))
        if not parameters:
            raise ValueError("no trainable parameter of the policy changes its actions: unfreeze the actor's layers")
        return parameters


def critic_parameters(policy: ActorCriticPolicy, actor: Sequence[Tensor], observations: Observations) -> list[Tensor]:
    """The trainable tensors that the value depends on and the actions do not."""
    belongs_to_actor = {id(parameter) for parameter in actor}
    behind_the_value = influencing(policy.predict_values(observations).sum(), list(policy.parameters()))
    return [parameter for parameter in behind_the_value if id(parameter) not in belongs_to_actor]


def influencing(output: Tensor, candidates: Sequence[Tensor]) -> list[Tensor]:
    """Those of ``candidates`` that are trainable and in the graph of the scalar ``output``."""
    trainable = [candidate for candidate in candidates if candidate.requires_grad]
    if not (trainable and output.requires_grad):
        return []
    gradients = th.autograd.grad(output, trainable, allow_unused=True)
    return [p for p, gradient in zip(trainable, gradients, strict=True) if gradient is not None]


def every(stride: int, batch: Rows) -> Rows:
    """Every ``stride``-th row of a tensor or of a dictionary of tensors."""
    if isinstance(batch, dict):
        return {key: value[::stride] for key, value in batch.items()}
    return batch[::stride]


def first_rows(batch: Rows, n_rows: int = 2) -> Rows:
    """The first rows of a tensor or of a dictionary of tensors."""
    if isinstance(batch, dict):
        return {key: value[:n_rows] for key, value in batch.items()}
    return batch[:n_rows]


def as_mlp(policy: ActorCriticPolicy) -> Mlp | None:
    """The actor as a plain perceptron, or None when anything about it is out of the ordinary."""
    cls = type(policy)
    own_methods = ("get_distribution", "extract_features", "_get_action_dist_from_latent")
    if any(getattr(cls, name, None) is not getattr(ActorCriticPolicy, name) for name in own_methods):
        return None
    known_distributions = (
        sb3.DiagGaussianDistribution,
        sb3.CategoricalDistribution,
        sb3.MultiCategoricalDistribution,
        sb3.BernoulliDistribution,
    )
    if (
        type(policy.action_dist) not in known_distributions
        or type(policy.mlp_extractor) is not MlpExtractor
        or type(policy.pi_features_extractor) is not FlattenExtractor
        or has_hooks(policy.mlp_extractor.policy_net)
    ):
        return None

    modules = [*policy.mlp_extractor.policy_net, policy.action_net]
    layers: list[Layer] = []
    for module in modules:
        if has_hooks(module) or getattr(module, "inplace", False):
            return None
        if type(module) is nn.Linear and module.bias is not None:
            layers.append(Layer(module.weight, module.bias, None))
        elif type(module) in ELEMENTWISE_ACTIVATIONS and layers and layers[-1].activation is None:
            layers[-1] = layers[-1]._replace(activation=module)
        else:
            return None
    free = (policy.log_std,) if type(policy.action_dist) is sb3.DiagGaussianDistribution else ()
    mlp = Mlp(tuple(layers), free)
    is_tied = len({id(parameter) for parameter in mlp.parameters}) < len(mlp.parameters)
    return mlp if all(parameter.requires_grad for parameter in mlp.parameters) and not is_tied else None


def has_hooks(module: nn.Module) -> bool:
    """Whether something else than the module's own code runs when it is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
