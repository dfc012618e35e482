"""Actors and critics that are plain perceptrons, or perceptrons on top of an LSTM, seen as such.

What is found here is computed in closed form elsewhere; anything out of the ordinary is left to the policy's own code.
"""

from collections.abc import Iterable
from typing import Any

import torch as th
from sb3_contrib.common.maskable import distributions as maskable
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common import distributions as sb3
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import Tensor, nn

from sb3_trpo.core.lstm import Lstm, MemoryNetwork
from sb3_trpo.core.mlp import Layer, Mlp

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

KNOWN_DISTRIBUTIONS = (
    sb3.DiagGaussianDistribution,
    sb3.CategoricalDistribution,
    sb3.MultiCategoricalDistribution,
    sb3.BernoulliDistribution,
    maskable.MaskableCategoricalDistribution,
    maskable.MaskableMultiCategoricalDistribution,
    maskable.MaskableBernoulliDistribution,
)

FEEDFORWARD = (ActorCriticPolicy, MaskableActorCriticPolicy)
"""Policies whose actor and critic are functions of the observation, with the same methods for the same purposes."""


def actor_mlp(policy: Any) -> Mlp | None:
    """The actor as a perceptron, with a Gaussian's log std as its free parameter; None unless all of it trains."""
    own_methods = ("get_distribution", "extract_features", "_get_action_dist_from_latent")
    if type(policy.action_dist) not in KNOWN_DISTRIBUTIONS or not _is_plain(
        policy, own_methods, policy.pi_features_extractor
    ):
        return None
    layers = _layers(policy.mlp_extractor.policy_net, policy.action_net)
    if layers is None:
        return None
    free = (policy.log_std,) if type(policy.action_dist) is sb3.DiagGaussianDistribution else ()
    mlp = Mlp(layers, free)
    return mlp if all(parameter.requires_grad for parameter in mlp.parameters) else None


def critic_mlp(policy: Any) -> Mlp | None:
    """The critic as a perceptron of one output, trainable or not; it sees what `Steps.critic_features` gives."""
    if isinstance(policy, RecurrentActorCriticPolicy):
        return _critic_mlp_beside_memory(policy)
    if not _is_plain(policy, ("predict_values", "extract_features"), policy.vf_features_extractor):
        return None
    layers = _layers(policy.mlp_extractor.value_net, policy.value_net)
    return None if layers is None else Mlp(layers)


def _critic_mlp_beside_memory(policy: RecurrentActorCriticPolicy) -> Mlp | None:
    """A critic on the actor's memory, or without any; None for one with an LSTM of its own."""
    is_flat = type(policy.vf_features_extractor) is FlattenExtractor or policy.shared_lstm
    if policy.lstm_critic is not None or type(policy.mlp_extractor) is not MlpExtractor or not is_flat:
        return None
    hidden = policy.mlp_extractor.value_net
    if has_hooks(hidden):
        return None
    layers = _layers([*([] if policy.critic is None else [policy.critic]), *hidden], policy.value_net)
    return None if layers is None else Mlp(layers)


def actor_network(policy: Any) -> MemoryNetwork | None:
    """The actor of a policy with memory, on a CPU; None unless all of it trains."""
    if (
        type(policy.action_dist) not in KNOWN_DISTRIBUTIONS
        or type(policy.pi_features_extractor) is not FlattenExtractor
        or not is_of_a_library(policy, "_get_action_dist_from_latent")
    ):
        return None
    free = (policy.log_std,) if type(policy.action_dist) is sb3.DiagGaussianDistribution else ()
    return _memory_network(policy, policy.lstm_actor, "policy_net", policy.action_net, free)


def critic_network(policy: Any) -> MemoryNetwork | None:
    """A critic with an LSTM of its own, on a CPU; None unless all of it trains."""
    if policy.lstm_critic is None or type(policy.vf_features_extractor) is not FlattenExtractor:
        return None
    return _memory_network(policy, policy.lstm_critic, "value_net", policy.value_net, ())


def _memory_network(
    policy: Any, lstm: Any, hidden: str, head: nn.Module, free: tuple[Tensor, ...]
) -> MemoryNetwork | None:
    if type(policy.mlp_extractor) is not MlpExtractor or type(lstm) is not nn.LSTM or has_hooks(lstm):
        return None
    if not lstm.weight_ih_l0.is_cpu or not lstm.bias or lstm.num_layers > 1 or lstm.bidirectional or lstm.proj_size:
        return None
    layers = _layers(getattr(policy.mlp_extractor, hidden), head)
    if layers is None:
        return None
    weights: Any = lstm  # its parameters are set by name
    own = Lstm(weights.weight_ih_l0, weights.weight_hh_l0, weights.bias_ih_l0, weights.bias_hh_l0)
    network = MemoryNetwork(own, Mlp(layers, free))
    return network if all(parameter.requires_grad for parameter in network.parameters) else None


def is_of_a_library(policy: Any, name: str) -> bool:
    """Whether a method of ``policy`` is Stable-Baselines3's, sb3-contrib's or this package's, and not a user's."""
    if name in vars(policy):
        return False
    owner = next(cls for cls in type(policy).__mro__ if name in vars(cls))
    return owner.__module__.startswith(("stable_baselines3.", "sb3_contrib.", "sb3_trpo."))


def is_own(policy: Any, name: str) -> bool:
    """Whether a method of ``policy`` is that of a feedforward policy of Stable-Baselines3 or sb3-contrib."""
    method = getattr(getattr(policy, name), "__func__", None)
    return any(isinstance(policy, base) and method is getattr(base, name) for base in FEEDFORWARD)


def has_hooks(module: nn.Module) -> bool:
    """Whether something else than the module's own code runs when it is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_plain(policy: Any, methods: tuple[str, ...], extractor: nn.Module) -> bool:
    """Whether ``policy`` flattens its observations and has Stable-Baselines3's own ``methods`` and `MlpExtractor`."""
    return (
        all(is_own(policy, name) for name in methods)
        and type(policy.mlp_extractor) is MlpExtractor
        and type(extractor) is FlattenExtractor
    )


def _layers(hidden: Any, head: nn.Module) -> tuple[Layer, ...] | None:
    """The layers of a sequence of linear maps and elementwise activations, or None if it is anything else."""
    if not isinstance(hidden, Iterable) or (isinstance(hidden, nn.Module) and has_hooks(hidden)):
        return None
    layers: list[Layer] = []
    for module in [*hidden, head]:
        if has_hooks(module) or getattr(module, "inplace", False):
            return None
        if type(module) is nn.Linear and module.bias is not None and module.weight.dtype in (th.float32, th.float64):
            layers.append(Layer(module.weight, module.bias, None))
        elif type(module) in ELEMENTWISE_ACTIVATIONS and layers and layers[-1].activation is None:
            layers[-1] = layers[-1]._replace(activation=module)
        else:
            return None
    tensors = [id(tensor) for layer in layers for tensor in (layer.weight, layer.bias)]
    return tuple(layers) if len(set(tensors)) == len(tensors) else None
