"""Ways of fitting the critic to the returns of a rollout: objects for the slot `Regression`."""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th
from torch import Tensor

from sb3_trpo.algorithms.critic import Critic, value_function
from sb3_trpo.algorithms.steps import Steps
from sb3_trpo.core.distributions import FixedGaussian
from sb3_trpo.core.fisher import Jacobian
from sb3_trpo.core.mlp import Mlp
from sb3_trpo.core.natural_step import natural_step
from sb3_trpo.core.parameters import assign, flatten
from sb3_trpo.core.problem import Batch, TrustRegionProblem, constrained_problem
from sb3_trpo.core.regression import Descent, FoldedDescent, LinearizedDescent, fit
from sb3_trpo.core.surrogate import uniform_weights, weighted_mean

NARROW = 256
"""Units of a layer up to which one thread is not worse than several."""

PIECE = 32
"""Steps of the pieces on which a critic with memory is fitted."""

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


class Regression(Protocol):
    """The slot: how the critic is fitted to the returns."""

    def fit(self, critic: Critic, steps: Steps, returns: Tensor, settings: Settings) -> CriticFit:
        """Move the critic's parameters towards the returns (N,) of the steps."""


@dataclass
class MinibatchRegression:
    """Minibatches of ``batch_size``, ``n_critic_updates`` passes, the policy's own optimiser.

    A critic with memory is fitted on pieces of sequences, each beginning with what the critic remembered there before
    the fit (the stored state of Kapturowski et al. 2019); its error goes back in time no further than the piece.

    :param holdout: fraction of the rollout to keep aside; its error ends the passes early when it no longer falls
    :param patience: passes without improvement on it before they end
    :param piece: steps of a piece, for a critic with memory
    :raises ValueError: for a fraction outside [0, 1), a patience or a piece below 1
    """

    holdout: float = 0.0
    patience: int = 1
    piece: int = PIECE

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if not 0.0 <= self.holdout < 1.0:
            raise ValueError(f"holdout={self.holdout!r} must be a number in [0, 1)")
        for name in ("patience", "piece"):
            if not (isinstance(getattr(self, name), Integral) and getattr(self, name) >= 1):
                raise ValueError(f"{name}={getattr(self, name)!r} must be an integer >= 1")

    def fit(self, critic: Critic, steps: Steps, returns: Tensor, settings: Settings) -> CriticFit:
        """One optimiser step for each minibatch, in closed form where the critic is a perceptron and Adam moves it."""
        optimizer = critic.policy.optimizer
        limit = math.inf if settings.max_grad_norm is None else settings.max_grad_norm
        batch_size, n_units = settings.batch_size, len(returns)
        descent: Descent
        if (
            critic.mlp is not None
            and returns.is_cpu
            and is_small(critic.mlp, len(returns))
            and FoldedDescent.applies(critic.mlp, optimizer)
        ):
            features = critic.features(steps).numpy()
            size = min(batch_size, len(returns))
            descent = FoldedDescent(features, returns.numpy(), critic.mlp, optimizer, limit, size)
        else:
            rows, steps = steps.pieces(critic.policy, self.piece)
            targets, n_units = returns[rows], steps.n_units
            batch_size = max(1, round(batch_size * n_units / len(returns)))

            def linearize(units: Any) -> tuple[Jacobian, Tensor, Tensor]:
                some = th.as_tensor(np.sort(units))
                return *critic.jacobian(steps.take(some)), targets[steps.rows(some)]

            descent = LinearizedDescent(linearize, critic.parameters, optimizer, limit)
        units, held_out = split(n_units, self.holdout)
        done = fit(descent, units, held_out, batch_size=batch_size, n_passes=settings.n_passes, patience=self.patience)
        return CriticFit(done.loss / done.used if done.used else None, done.skipped)


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

    def fit(self, critic: Critic, steps: Steps, returns: Tensor, settings: Settings) -> CriticFit:
        """Up to ``steps`` natural-gradient steps."""
        rows, steps = steps.pieces(critic.policy, PIECE)
        returns = returns[rows]
        units, held_out = (th.as_tensor(part) for part in split(steps.n_units, self.holdout))
        fitted, guarded = (_Regressed(steps.take(part), returns[steps.rows(part)]) for part in (units, held_out))
        values = value_function(critic.policy)

        @th.no_grad()
        def error(on: _Regressed) -> float:
            parts = on.steps.parts(critic.bytes_per_row)
            errors = [(values(part).flatten() - on.returns[rows]).square().sum() for rows, part in parts]
            return float(th.stack(errors).sum()) / len(on.returns)

        before = error(fitted)
        if not math.isfinite(before):
            return CriticFit(None, 1)
        guard = error(guarded) if len(held_out) else math.inf
        for _ in range(self.steps):
            critic.std = max(math.sqrt(error(fitted)), th.finfo(returns.dtype).tiny)
            start = flatten(critic.parameters)
            step = natural_step(
                self._problem(critic, fitted),
                radius=self.radius,
                damping=self.damping,
                cg_max_steps=self.cg_max_steps,
                cg_tolerance=1e-2,
                shrinking_factor=0.5,
                max_candidates=10,
            )
            if not step.accepted:
                break
            guard_now = error(guarded) if len(held_out) else -math.inf
            if not guard_now <= guard:
                assign(critic.parameters, start)
                break
            guard = guard_now
        return CriticFit(before)

    def _problem(self, critic: Critic, on: "_Regressed") -> TrustRegionProblem:
        batches = []
        weights = uniform_weights(on.returns)
        for rows, part in on.steps.parts(critic.bytes_per_row):
            targets, share = on.returns[rows], weights[rows]

            def likelihood(values: FixedGaussian, targets: Tensor = targets, share: Tensor = share) -> Tensor:
                return weighted_mean(values.log_prob(targets), share)

            batches.append(Batch(part, share, likelihood))
        return constrained_problem(critic, batches)


class _Regressed(NamedTuple):
    """Steps and their returns (N,)."""

    steps: Steps
    returns: Tensor


def fit_critic(regression: Regression, critic: Critic, steps: Steps, returns: Tensor, settings: Settings) -> CriticFit:
    """Fit the critic to the returns of a rollout, if there is anything to train and any pass to make."""
    if not critic.parameters or settings.n_passes == 0:
        return CriticFit(None)  # everything is frozen or belongs to the actor, or nothing is wanted
    return regression.fit(critic, steps, returns, settings)


def is_small(mlp: Mlp, count: int) -> bool:
    """Whether one thread of numpy is the place for it: narrow layers or no threads to lose, and little to copy."""
    is_narrow = max(max(layer.weight.shape) for layer in mlp.layers[1:] or mlp.layers) <= NARROW
    is_light = count * mlp.layers[0].weight.shape[1] <= COPIED_NUMBERS
    return is_light and (is_narrow or th.get_num_threads() == 1)


def split(n: int, holdout: float) -> tuple[Any, Any]:
    """Numbers of n units for the fit, and at random ``holdout * n`` (one at least, unless it is 0) to keep aside."""
    if holdout == 0.0:
        return np.arange(n), np.arange(0)
    order = np.random.permutation(n)  # noqa: NPY002  # the generator that Stable-Baselines3 seeds
    count = min(max(1, round(holdout * n)), n - 1)
    return np.sort(order[count:]), np.sort(order[:count])
