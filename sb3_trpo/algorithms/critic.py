"""The critic: which of a policy's parameters are its own, and how they are fitted to the returns of a rollout.

The critic has an optimiser to itself: ``policy.optimizer``, from which the actor's parameters are taken. It holds
moments for what it trains and for nothing else.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

from sb3_trpo.algorithms.actor import GRAPHS, influencing
from sb3_trpo.algorithms.batches import Observations, graph_bytes_per_row, n_rows, select, slices
from sb3_trpo.algorithms.perceptrons import critic_mlp
from sb3_trpo.core.distributions import FixedGaussian
from sb3_trpo.core.fisher import AutogradJacobian, GaussNewton, Linearization
from sb3_trpo.core.mlp import Mlp, MlpJacobian, activation_bytes
from sb3_trpo.core.natural_step import natural_step
from sb3_trpo.core.parameters import assign, flatten
from sb3_trpo.core.problem import Batch, TrustRegionProblem, constrained_problem
from sb3_trpo.core.regression import AutogradDescent, Descent, FoldedDescent, fit
from sb3_trpo.core.surrogate import uniform_weights, weighted_mean

NARROW = 256
"""Units of a layer up to which one thread is not worse than several."""

COPIED_NUMBERS = 2**24
"""Features of a rollout, in all, up to which they are copied for the closed form."""


class CriticFit(NamedTuple):
    """Mean squared error while it was fitted, None if nothing was, and how many minibatches were not finite."""

    value_loss: float | None
    skipped: int = 0


class Settings(NamedTuple):
    """Those of the algorithm that a regression may use."""

    batch_size: int
    n_passes: int
    max_grad_norm: float | None


class Critic:
    """The part of ``policy`` that estimates values.

    ``parameters`` are the trainable tensors that the value depends on and the actions do not.

    :param actor: the actor's parameters
    :param observations: a few observations, to see what the value depends on
    """

    def __init__(self, policy: ActorCriticPolicy, actor: Sequence[Tensor], observations: Observations):
        self.policy = policy
        mlp = critic_mlp(policy)
        belongs_to_actor = {id(parameter) for parameter in actor}
        if mlp is not None:
            candidates = [parameter for parameter in mlp.parameters if parameter.requires_grad]
        else:
            candidates = influencing(policy.predict_values(observations).sum(), list(policy.parameters()))
        self.parameters = [parameter for parameter in candidates if id(parameter) not in belongs_to_actor]
        self.mlp = mlp if mlp is not None and len(self.parameters) == len(mlp.parameters) else None
        """As a perceptron all of which trains, or None."""
        self.bytes_per_row = (
            graph_bytes_per_row(policy, policy.predict_values, observations) if mlp is None else activation_bytes(mlp)
        )
        self.std = 1.0
        """Standard deviation of the residuals, the unit in which a trust region measures values."""

    def features(self, observations: Observations) -> Tensor:
        """What the perceptron sees, (N, D)."""
        with th.no_grad():
            return BaseModel.extract_features(self.policy, observations, self.policy.vf_features_extractor)

    def distribution(self, observations: Observations) -> FixedGaussian:
        """The values of a batch as constants, as a distribution whose standard deviation is ``std``."""
        with th.no_grad():
            return FixedGaussian(value_function(self.policy)(observations), self.std)

    def linearize(self, observations: Observations) -> Linearization:
        """The value function near its current parameters."""
        if self.mlp is not None:
            in_closed_form = MlpJacobian(self.mlp.detach(), self.features(observations))
            return GaussNewton(in_closed_form, FixedGaussian(in_closed_form.output, self.std))
        with th.enable_grad():
            values = self.policy.predict_values(observations)
        jacobian = AutogradJacobian((values,), self.parameters, GRAPHS * self.bytes_per_row * n_rows(observations))
        return GaussNewton(jacobian, FixedGaussian(values.detach(), self.std))


class Regression(Protocol):
    """The slot: how the critic is fitted to the returns."""

    def fit(self, critic: Critic, observations: Observations, returns: Tensor, settings: Settings) -> CriticFit:
        """Move the critic's parameters towards the returns (N,) of the observations."""


@dataclass
class MinibatchRegression:
    """Minibatches of ``batch_size``, ``n_critic_updates`` passes, the policy's own optimiser.

    :param holdout: fraction of the rollout to keep aside; its error ends the passes early when it no longer falls
    :param patience: passes without improvement on it before they end
    :raises ValueError: for a fraction outside [0, 1) or a patience below 1
    """

    holdout: float = 0.0
    patience: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if not 0.0 <= self.holdout < 1.0:
            raise ValueError(f"holdout={self.holdout!r} must be a number in [0, 1)")
        if not (isinstance(self.patience, Integral) and self.patience >= 1):
            raise ValueError(f"patience={self.patience!r} must be an integer >= 1")

    def fit(self, critic: Critic, observations: Observations, returns: Tensor, settings: Settings) -> CriticFit:
        """One optimiser step for each minibatch, in closed form where the critic is a perceptron and Adam moves it."""
        rows, held_out = split_rows(len(returns), self.holdout)
        done = fit(
            self._descent(critic, observations, returns, settings),
            rows,
            held_out,
            batch_size=settings.batch_size,
            n_passes=settings.n_passes,
            patience=self.patience,
        )
        return CriticFit(done.loss / done.used if done.used else None, done.skipped)

    def _descent(self, critic: Critic, observations: Observations, returns: Tensor, settings: Settings) -> Descent:
        optimizer = critic.policy.optimizer
        limit = math.inf if settings.max_grad_norm is None else settings.max_grad_norm
        if (
            critic.mlp is not None
            and returns.is_cpu
            and is_small(critic.mlp, len(returns))
            and FoldedDescent.applies(critic.mlp, optimizer)
        ):
            size = min(settings.batch_size, len(returns))
            features = critic.features(observations).numpy()
            return FoldedDescent(features, returns.numpy(), critic.mlp, optimizer, limit, size)

        def predict(rows: Any) -> Tensor:
            batch = select(observations, th.as_tensor(rows, device=returns.device))
            return critic.policy.predict_values(batch).flatten()

        return AutogradDescent(predict, returns, critic.parameters, optimizer, limit)


@dataclass
class GaussNewtonRegression:
    """Natural-gradient steps on the whole rollout, inside a trust region of the values.

    Schulman et al. 2016, arXiv 1506.02438, section 5: least squares subject to a mean squared change of the values,
    ``mean (V - V_old)^2 / (2 sigma^2) <= radius`` with ``sigma^2`` the mean squared error at the start. The steps are
    those of the policy: same products, same conjugate gradient, same line search. A step after which the error on the
    held-out part has risen is taken back and is the last.

    :param steps: natural-gradient steps per rollout
    :param radius: largest mean squared change of the values in a step
    :param damping: of the Gauss-Newton matrix
    :param cg_max_steps: conjugate gradient steps
    :param holdout: fraction of the rollout kept aside as a guard, 0 for no guard
    :raises ValueError: for numbers outside their range
    """

    steps: int = 3
    radius: float = 0.1
    damping: float = 0.1
    cg_max_steps: int = 10
    holdout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if not 0.0 <= self.holdout < 1.0:
            raise ValueError(f"holdout={self.holdout!r} must be a number in [0, 1)")
        for name, least in (("radius", 0.0), ("damping", 0.0)):
            if not math.inf > getattr(self, name) >= least:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a finite number >= {least}")
        for name, least in (("steps", 0), ("cg_max_steps", 1)):
            if not (isinstance(getattr(self, name), Integral) and getattr(self, name) >= least):
                raise ValueError(f"{name}={getattr(self, name)!r} must be an integer >= {least}")

    def fit(self, critic: Critic, observations: Observations, returns: Tensor, settings: Settings) -> CriticFit:
        """Up to ``steps`` natural-gradient steps."""
        rows, held_out = (th.as_tensor(part, device=returns.device) for part in split_rows(len(returns), self.holdout))
        values = value_function(critic.policy)

        @th.no_grad()
        def error(part: Tensor) -> float:
            chunks = [part[chunk] for chunk in slices(len(part), critic.bytes_per_row, returns.device)]
            errors = [(values(select(observations, c)).flatten() - returns[c]).square().sum() for c in chunks]
            return float(th.stack(errors).sum()) / len(part)

        before = error(rows)
        if not math.isfinite(before):
            return CriticFit(None, 1)
        guard = error(held_out) if len(held_out) else math.inf
        for _ in range(self.steps):
            critic.std = max(math.sqrt(error(rows)), th.finfo(returns.dtype).tiny)
            start = flatten(critic.parameters)
            step = natural_step(
                self._problem(critic, observations, returns, rows),
                radius=self.radius,
                damping=self.damping,
                cg_max_steps=self.cg_max_steps,
                cg_tolerance=1e-2,
                shrinking_factor=0.5,
                max_candidates=10,
            )
            if not step.accepted:
                break
            guard_now = error(held_out) if len(held_out) else -math.inf
            if not guard_now <= guard:
                assign(critic.parameters, start)
                break
            guard = guard_now
        return CriticFit(before)

    def _problem(self, critic: Critic, observations: Observations, returns: Tensor, rows: Tensor) -> TrustRegionProblem:
        batches = []
        weights = uniform_weights(returns[rows])
        for part in (rows[chunk] for chunk in slices(len(rows), critic.bytes_per_row, returns.device)):
            targets, share = returns[part], weights[: len(part)]

            def likelihood(values: FixedGaussian, targets: Tensor = targets, share: Tensor = share) -> Tensor:
                return weighted_mean(values.log_prob(targets), share)

            batches.append(Batch(select(observations, part), share, likelihood))
        return constrained_problem(critic, batches)


def fit_critic(regression: Regression, critic: Critic, rollout: RolloutBufferSamples, settings: Settings) -> CriticFit:
    """Fit the critic to the returns of a rollout, if there is anything to train and any pass to make."""
    if not critic.parameters or settings.n_passes == 0:
        return CriticFit(None)  # everything is frozen or belongs to the actor, or nothing is wanted
    return regression.fit(critic, rollout.observations, rollout.returns, settings)


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


def is_small(mlp: Mlp, count: int) -> bool:
    """Whether one thread of numpy is the place for it: narrow layers or no threads to lose, and little to copy."""
    is_narrow = max(max(layer.weight.shape) for layer in mlp.layers[1:] or mlp.layers) <= NARROW
    is_light = count * mlp.layers[0].weight.shape[1] <= COPIED_NUMBERS
    return is_light and (is_narrow or th.get_num_threads() == 1)


def split_rows(n: int, holdout: float) -> tuple[Any, Any]:
    """Row numbers for the fit, and at random ``holdout * n`` of them (one at least, unless it is 0) to keep aside."""
    if holdout == 0.0:
        return np.arange(n), np.arange(0)
    order = np.random.permutation(n)  # noqa: NPY002  # the generator that Stable-Baselines3 seeds
    count = min(max(1, round(holdout * n)), n - 1)
    return np.sort(order[count:]), np.sort(order[:count])


def value_function(policy: ActorCriticPolicy) -> Callable[[Observations], Tensor]:
    """Observations -> values (N, 1), without a graph, in the cheapest way that applies."""
    mlp = critic_mlp(policy)
    if mlp is None:
        return policy.predict_values
    perceptron = mlp.detach()
    return lambda observations: perceptron(
        BaseModel.extract_features(policy, observations, policy.vf_features_extractor)
    )
