"""The critic: which of a policy's parameters are its own, and the value function they make.

The critic has an optimiser to itself: ``policy.optimizer``, from which the actor's parameters are taken. It holds
moments for what it trains and for nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch as th
from torch import Tensor

from sb3_trpo.algorithms.actor import GRAPHS, influencing, is_differentiable_twice
from sb3_trpo.algorithms.closed_form import Perceptron, critic_form
from sb3_trpo.algorithms.steps import Steps, graph_bytes_per_row
from sb3_trpo.core.distributions import FixedGaussian
from sb3_trpo.core.fisher import AutogradJacobian, FiniteDifferenceJacobian, GaussNewton, Jacobian, Linearization


class Critic:
    """The part of ``policy`` that estimates values.

    ``parameters`` are the trainable tensors that the value depends on and the actions do not.

    :param actor: the actor's parameters
    :param steps: a few steps, to see what the value depends on
    """

    def __init__(self, policy: Any, actor: Sequence[Tensor], steps: Steps):
        self.policy = policy
        form, belongs_to_actor = critic_form(policy), {id(parameter) for parameter in actor}
        if form is not None:
            candidates = [parameter for parameter in form.parameters if parameter.requires_grad]
            self.bytes_per_row = form.bytes_per_row
        else:
            candidates = influencing(steps.values(policy).sum(), list(policy.parameters()))
            self.bytes_per_row = graph_bytes_per_row(policy, lambda few: few.values(policy), steps)
        self.parameters = [parameter for parameter in candidates if id(parameter) not in belongs_to_actor]
        trains_whole = form is not None and len(self.parameters) == len(form.parameters)
        self._form = form if trains_whole else None
        self.mlp = form.mlp if trains_whole and isinstance(form, Perceptron) else None
        """As a perceptron all of which trains, or None."""
        self.std = 1.0
        """Standard deviation of the residuals, the unit in which a trust region measures values."""

    def features(self, steps: Steps) -> Tensor:
        """What the perceptron sees, (N, D)."""
        with th.no_grad():
            return steps.critic_features(self.policy)

    def distribution(self, steps: Steps) -> FixedGaussian:
        """The values of a batch as constants, as a distribution whose standard deviation is ``std``."""
        with th.no_grad():
            return FixedGaussian(value_function(self.policy)(steps), self.std)

    def linearize(self, steps: Steps) -> Linearization:
        """The value function near its current parameters."""
        jacobian, values = self.jacobian(steps)
        return GaussNewton(jacobian, FixedGaussian(values, self.std))

    def jacobian(self, steps: Steps) -> tuple[Jacobian, Tensor]:
        """That of the values in ``parameters``, in the cheapest form that applies, and the values (N, 1)."""
        if self._form is not None:
            with th.no_grad():
                in_closed_form = self._form.jacobian(steps)
            return in_closed_form, in_closed_form.output
        with th.enable_grad():
            values = steps.values(self.policy)
        nbytes = GRAPHS * self.bytes_per_row * len(steps)
        if is_differentiable_twice(self.policy):
            return AutogradJacobian((values,), self.parameters, nbytes), values.detach()
        evaluate = th.no_grad()(lambda: (steps.values(self.policy),))
        return FiniteDifferenceJacobian((values,), self.parameters, evaluate, nbytes), values.detach()


def keep_critic_only(optimizer: th.optim.Optimizer, actor: Sequence[Tensor]) -> list[list[int]]:
    """Take the actor's parameters out of ``optimizer``; for each of its groups, the positions of those that stay."""
    belongs_to_actor = {id(parameter) for parameter in actor}
    kept = []
    for group in optimizer.param_groups:
        stays = [id(parameter) not in belongs_to_actor for parameter in group["params"]]
        kept.append([position for position, stay in enumerate(stays) if stay])
        for parameter, stay in zip(group["params"], stays, strict=True):
            if not stay:
                optimizer.state.pop(parameter, None)  # some optimisers have one from the start
        if "param_names" in group:
            group["param_names"] = [name for name, stay in zip(group["param_names"], stays, strict=True) if stay]
        group["params"] = [parameter for parameter, stay in zip(group["params"], stays, strict=True) if stay]
    return kept


def narrowed_state(state: dict[str, Any], kept: list[list[int]]) -> dict[str, Any]:
    """The ``state_dict`` of an optimiser of the whole policy as that of the optimiser that `keep_critic_only` left.

    One that is narrow already, or of a policy of another shape, comes back as it is.
    """
    groups = state["param_groups"]
    lengths = [(len(group["params"]), positions) for group, positions in zip(groups, kept, strict=False)]
    is_whole = len(groups) == len(kept) and any(length > len(positions) for length, positions in lengths)
    if not is_whole or any(length <= max(positions, default=-1) for length, positions in lengths):
        return state
    numbers = [[group["params"][i] for i in positions] for group, positions in zip(groups, kept, strict=True)]
    new = {number: index for index, number in enumerate(number for part in numbers for number in part)}
    return {
        "state": {new[number]: value for number, value in state["state"].items() if number in new},
        "param_groups": [
            {**group, "params": [new[number] for number in part]} for group, part in zip(groups, numbers, strict=True)
        ],
    }


def value_function(policy: Any) -> Callable[[Steps], Tensor]:
    """Steps -> values (N, 1), in the cheapest way that applies; without a graph where that is the closed form."""
    form = critic_form(policy)
    return form.value if form is not None else lambda steps: steps.values(policy)
