"""Networks whose values and Jacobians are computed in closed form, whatever kind of steps they look at."""

from typing import Any, Protocol

from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from torch import Tensor

from sb3_trpo.algorithms.perceptrons import actor_mlp, actor_network, critic_mlp, critic_network
from sb3_trpo.algorithms.steps import Steps
from sb3_trpo.core.fisher import Jacobian
from sb3_trpo.core.lstm import MemoryJacobian, MemoryNetwork, memory_bytes
from sb3_trpo.core.mlp import Mlp, MlpJacobian, activation_bytes


class ValuedJacobian(Jacobian, Protocol):
    """A Jacobian that knows the value there."""

    output: Tensor


class ClosedForm(Protocol):
    """A network of a policy, looked at from outside: no graph is built."""

    parameters: list[Tensor]
    """The policy's own tensors, in the order of flat vectors."""
    bytes_per_row: int
    """What a Jacobian holds for each step."""

    def value(self, steps: Steps) -> Tensor:
        """(N, K)."""

    def jacobian(self, steps: Steps) -> ValuedJacobian:
        """At the parameters as they stand."""


class Perceptron:
    """A perceptron that sees the steps' ``actor_features`` or ``critic_features``."""

    def __init__(self, policy: Any, mlp: Mlp, features: str):
        self._policy, self._mlp, self._features = policy, mlp.detach(), features
        self.mlp = mlp
        self.parameters = mlp.parameters
        self.bytes_per_row = activation_bytes(mlp)

    def value(self, steps: Steps) -> Tensor:
        """(N, K)."""
        return self._mlp(self._inputs(steps))

    def jacobian(self, steps: Steps) -> MlpJacobian:
        """At the parameters as they stand."""
        return MlpJacobian(self._mlp, self._inputs(steps))

    def _inputs(self, steps: Steps) -> Tensor:
        inputs: Tensor = getattr(steps, self._features)(self._policy)
        return inputs.detach()


class Recurrent:
    """A perceptron on top of an LSTM that sees the steps' ``actor_inputs`` or ``critic_inputs``."""

    def __init__(self, policy: Any, network: MemoryNetwork, inputs: str):
        self._policy, self._network, self._inputs = policy, network.detach(), inputs
        self.parameters = network.parameters
        self.bytes_per_row = memory_bytes(network)

    def value(self, steps: Steps) -> Tensor:
        """(N, K)."""
        return self._network(getattr(steps, self._inputs)(self._policy))

    def jacobian(self, steps: Steps) -> MemoryJacobian:
        """At the parameters as they stand."""
        return MemoryJacobian(self._network, getattr(steps, self._inputs)(self._policy))


def actor_form(policy: Any) -> ClosedForm | None:
    """The actor in closed form, None where it has none or not all of it trains."""
    if isinstance(policy, RecurrentActorCriticPolicy):
        network = actor_network(policy)
        return None if network is None else Recurrent(policy, network, "actor_inputs")
    mlp = actor_mlp(policy)
    return None if mlp is None else Perceptron(policy, mlp, "actor_features")


def critic_form(policy: Any) -> ClosedForm | None:
    """The critic in closed form, trainable or not; None where it has none."""
    mlp = critic_mlp(policy)
    if mlp is not None:
        return Perceptron(policy, mlp, "critic_features")
    network = critic_network(policy) if isinstance(policy, RecurrentActorCriticPolicy) else None
    return None if network is None else Recurrent(policy, network, "critic_inputs")
