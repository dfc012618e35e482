r"""Regression of values on returns by minibatches.

.. math:: \min_\phi \; \frac1{|B|} \sum_{n \in B} (V_\phi(s_n) - R_n)^2

One optimiser step for each minibatch B; one whose loss or gradient is not finite is skipped. Two paths do the same
work: the Jacobian of any value function with any optimiser, and a perceptron in closed form with Adam, for which a step
costs a fifth.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th
from torch import Tensor, nn

from sb3_trpo.core.activations import Array
from sb3_trpo.core.fisher import Jacobian
from sb3_trpo.core.folded_mlp import FoldedMlp
from sb3_trpo.core.mlp import Mlp
from sb3_trpo.core.parameters import assign, flatten, unflatten

EVALUATED_ROWS = 1024
"""Held-out rows evaluated at once."""


class Tally(NamedTuple):
    """Of one or more passes: the sum of the losses of the ``used`` minibatches, and how many were ``skipped``."""

    loss: float
    used: int
    skipped: int


class Descent(Protocol):
    """Minibatch descent on a fixed set of rows."""

    def run(self, minibatches: Sequence[Array]) -> Tally:
        """One optimiser step for each set of rows."""

    def loss(self, rows: Array) -> float:
        """Mean squared error on ``rows``."""

    def snapshot(self) -> Callable[[], None]:
        """Note the parameters; what is returned brings them back."""

    def finish(self) -> None:
        """Leave parameters and optimiser as the steps made them."""


def fit(descent: Descent, rows: Array, held_out: Array, *, batch_size: int, n_passes: int, patience: int) -> Tally:
    """Make up to ``n_passes`` over ``rows`` in random order, from numpy's global generator.

    With ``held_out`` rows their loss is looked at after each pass: the fit ends when it has not fallen for
    ``patience`` passes, and the best parameters are kept.
    """
    loss, used, skipped = 0.0, 0, 0
    best, restore, failures = descent.loss(held_out) if len(held_out) else math.nan, descent.snapshot(), 0
    for _ in range(n_passes):
        order = rows[np.random.permutation(len(rows))]  # noqa: NPY002  # the generator that Stable-Baselines3 seeds
        done = descent.run([order[start : start + batch_size] for start in range(0, len(order), batch_size)])
        loss, used, skipped = loss + done.loss, used + done.used, skipped + done.skipped
        if not len(held_out):
            continue
        current = descent.loss(held_out)
        if current < best:
            best, restore, failures = current, descent.snapshot(), 0
        else:
            failures += 1
        if failures >= patience:
            break
    if failures:
        restore()
    descent.finish()
    return Tally(loss, used, skipped)


class LinearizedDescent:
    """Minibatch descent by the Jacobian of a value function, with any optimiser.

    :param linearize: numbers of rows, or of other units of the data -> the Jacobian of their values in ``parameters``,
        the values (B, 1) and the targets (B,)
    :param parameters: those to move; no other parameter of the optimiser does
    :param max_grad_norm: largest gradient norm, infinite for no limit
    """

    def __init__(
        self,
        linearize: Callable[[Array], tuple[Jacobian, Tensor, Tensor]],
        parameters: Sequence[Tensor],
        optimizer: th.optim.Optimizer,
        max_grad_norm: float,
    ):
        self._linearize = linearize
        self._parameters, self._optimizer, self._limit = parameters, optimizer, max_grad_norm

    def run(self, minibatches: Sequence[Array]) -> Tally:
        """One pass."""
        losses, skipped = [], 0
        self._optimizer.zero_grad(set_to_none=True)
        for rows in minibatches:
            jacobian, values, targets = self._linearize(rows)
            error = values - targets.unsqueeze(1)
            loss = float(error.square().mean())
            gradient = jacobian.vjp((error * (2.0 / len(error)),))
            if not (math.isfinite(loss) and th.isfinite(th.linalg.vector_norm(gradient))):
                skipped += 1
                continue
            for parameter, part in zip(self._parameters, unflatten(gradient, self._parameters), strict=True):
                parameter.grad = part
            if self._limit < math.inf:
                nn.utils.clip_grad_norm_(self._parameters, self._limit)
            self._optimizer.step()
            losses.append(loss)
        self._optimizer.zero_grad(set_to_none=True)
        return Tally(math.fsum(losses), len(losses), skipped)

    def loss(self, rows: Array) -> float:
        """Mean squared error on ``rows``."""
        total, count = 0.0, 0
        for part in np.array_split(rows, -(-len(rows) // EVALUATED_ROWS)):
            _, values, targets = self._linearize(part)
            total, count = total + float((values.flatten() - targets).square().sum()), count + len(targets)
        return total / count

    def snapshot(self) -> Callable[[], None]:
        """Note the parameters; what is returned brings them back."""
        start = flatten(self._parameters)
        return lambda: assign(self._parameters, start)

    def finish(self) -> None:
        """The parameters are the caller's own: nothing is left to do."""


class FoldedDescent:
    """The same descent for a perceptron with Adam, in closed form on a CPU.

    Weights and Adam's averages are copied into flat vectors and back by `finish`, so that the optimiser's state
    afterwards is what its own steps would have left.

    :param inputs: all rows, (N, D)
    :param targets: (N,)
    :param mlp: with one output, such that `applies`
    :param optimizer: moves all of its parameters
    :param max_grad_norm: largest gradient norm, infinite for no limit
    """

    def __init__(
        self, inputs: Array, targets: Array, mlp: Mlp, optimizer: th.optim.Optimizer, max_grad_norm: float, size: int
    ):
        self._mlp, self._optimizer, self._limit = mlp, optimizer, max_grad_norm
        self._folded = FoldedMlp(mlp, size)
        self._columns, self._targets = self._folded.as_columns(inputs), targets
        states = [optimizer.state[parameter] for parameter in mlp.parameters]
        is_fresh = not states[0]
        self._averages = {
            key: np.zeros_like(self._folded.theta) if is_fresh else self._folded.fold([state[key] for state in states])
            for key in ("exp_avg", "exp_avg_sq")
        }
        self._n_steps = th.tensor(0.0) if is_fresh else th.as_tensor(states[0]["step"], dtype=th.float32).clone()
        self._update = self._adam(_group_of(mlp.parameters[0], optimizer))

    @staticmethod
    def applies(mlp: Mlp, optimizer: th.optim.Optimizer) -> bool:
        """Whether ``optimizer`` is a plain Adam that has treated all parameters of ``mlp`` alike."""
        groups = {id(_group_of(parameter, optimizer)) for parameter in mlp.parameters}
        group = _group_of(mlp.parameters[0], optimizer)
        if type(optimizer) is not th.optim.Adam or len(groups) > 1 or group is None:
            return False
        hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
        if "step" in vars(optimizer) or any(hooks):  # a learning-rate scheduler, for one, wraps it
            return False
        unusual = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")
        steps = {float(optimizer.state.get(parameter, {}).get("step", -1)) for parameter in mlp.parameters}
        return not any(group.get(option) for option in unusual) and len(steps) == 1

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite is skipped
    def run(self, minibatches: Sequence[Array]) -> Tally:
        """One pass."""
        rows = np.concatenate(minibatches)
        columns, targets = self._columns[:, rows], self._targets[rows]
        total, used, skipped, start = 0.0, 0, 0, 0
        folded = self._folded
        for size in map(len, minibatches):
            folded = folded.for_rows(size)
            x = columns[:, start : start + size]
            error = folded.forward_with_slopes(x)
            error -= targets[start : start + size]
            start += size
            loss = float(np.dot(error[0], error[0])) / size
            error *= 2.0 / size
            folded.backward(x, error)
            square = float(np.dot(folded.gradient, folded.gradient))
            if not (math.isfinite(loss) and math.isfinite(square)):
                skipped += 1
                continue
            if self._limit < math.inf:
                folded.gradient *= min(1.0, self._limit / (math.sqrt(square) + 1e-6))
            self._update()
            total += loss
            used += 1
        return Tally(total, used, skipped)

    def loss(self, rows: Array) -> float:
        """Mean squared error on ``rows``."""
        folded = self._folded.for_rows(len(rows))
        return float(np.square(folded.forward(self._columns[:, rows])[0] - self._targets[rows]).mean())

    def snapshot(self) -> Callable[[], None]:
        """Note the parameters; what is returned brings them back."""
        start = self._folded.theta.copy()
        return lambda: np.copyto(self._folded.theta, start)

    def finish(self) -> None:
        """Write weights and averages back into the perceptron and the optimiser."""
        if not self._n_steps:
            return
        parameters = self._mlp.parameters
        self._folded.unfold(self._folded.theta, parameters)
        for parameter in parameters:
            self._optimizer.state[parameter]["step"] = self._n_steps.clone()
        for key, average in self._averages.items():
            for parameter in parameters:
                self._optimizer.state[parameter].setdefault(key, th.empty_like(parameter))
            self._folded.unfold(average, [self._optimizer.state[parameter][key] for parameter in parameters])

    def _adam(self, group: dict[str, Any]) -> Callable[[], None]:
        """One step of Adam on the flat vectors, by the kernel behind ``torch.optim.Adam(fused=True)``."""
        first, second = (th.from_numpy(self._averages[key]) for key in ("exp_avg", "exp_avg_sq"))
        theta, gradient = th.from_numpy(self._folded.theta), th.from_numpy(self._folded.gradient)
        beta1, beta2 = map(float, group["betas"])

        def update() -> None:
            self._n_steps.add_(1.0)
            th._fused_adam_(
                [theta],
                [gradient],
                [first],
                [second],
                [],
                [self._n_steps],
                lr=float(group["lr"]),
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

        return update


def _group_of(parameter: Tensor, optimizer: th.optim.Optimizer) -> Any:
    """The group of ``optimizer`` that ``parameter`` is in, None for none."""
    return next((group for group in optimizer.param_groups if any(p is parameter for p in group["params"])), None)
