"""What an update learns from: a rollout, read out of its buffer."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from torch import Tensor

from sb3_trpo.algorithms.sequences import Layout, Memory, Sequences, layout
from sb3_trpo.algorithms.steps import Steps
from sb3_trpo.core.activations import Array
from sb3_trpo.core.surrogate import normalized_weights, uniform_weights

IN_ORDER = (RolloutBuffer, DictRolloutBuffer, MaskableRolloutBuffer, MaskableDictRolloutBuffer)
"""Buffers whose samples are what stands in their arrays."""


class Experience(NamedTuple):
    """N ``steps``, and for each of them the action taken, its log-probability then, its advantage and its return.

    ``actions`` (N, A) as the buffer keeps them, all else (N,); the ``weights`` sum to one. ``clusters`` number the
    stretches of experience within which advantages depend on each other, None where they are not known.
    """

    steps: Steps
    actions: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    weights: Tensor
    clusters: Tensor | None = None

    def part(self, units: Tensor) -> "Experience":
        """That of some units of the steps, which must rise, with weights that sum to one again."""
        rows = self.steps.rows(units)
        columns = (None if column is None else column[rows] for column in self[1:])
        part = Experience(self.steps.take(units), *columns)  # type: ignore[arg-type]
        return part._replace(weights=normalized_weights(part.weights))


STRETCH = 64
"""Steps of an episode beyond which its advantages are as good as independent: what generalised advantage estimation
with gamma lambda = 0.94 carries from one step to another has then fallen to 2 %."""


def independent_steps(buffer: RolloutBuffer) -> Experience:
    """All steps of ``buffer``, with their action masks if it has some, in its own order if it is a known one."""
    samples = _all_samples(buffer)
    masks = getattr(samples, "action_masks", None)
    steps = Steps(samples.observations, None if masks is None else masks.bool())
    clusters = stretches(buffer.episode_starts).reshape(-1) if type(buffer) in IN_ORDER else None
    return Experience(
        steps,
        samples.actions,
        samples.old_log_prob,
        samples.advantages,
        samples.returns,
        uniform_weights(samples.advantages),
        None if clusters is None else th.as_tensor(clusters, device=steps.device),
    )


def stretches(episode_starts: Array) -> Array:
    """(E, T) numbers of the episodes, cut into stretches, to which steps belong, for ``episode_starts`` (T, E)."""
    starts = np.array(episode_starts.T, dtype=bool)
    starts[:, 0] = True
    number = np.arange(starts.size).reshape(starts.shape)
    since_start = number - np.maximum.accumulate(np.where(starts, number, 0), axis=1)
    numbers: Array = np.cumsum(since_start % STRETCH == 0).reshape(starts.shape) - 1
    return numbers


def _all_samples(buffer: RolloutBuffer) -> Any:
    if type(buffer) not in IN_ORDER:
        return next(buffer.get(batch_size=None))
    next(buffer.get(batch_size=1))  # has the buffer flatten its arrays
    return buffer._get_samples(np.arange(buffer.buffer_size * buffer.n_envs))


class Sequential(NamedTuple):
    """Steps of a policy with memory, and how they lay in the rollout."""

    steps: Sequences
    layout: Layout


def sequential_steps(buffer: Any, device: th.device, n_steps: int | None = None) -> Sequential:
    """The first ``n_steps`` of a recurrent buffer, all by default, as sequences.

    Of the memories in the buffer only those of the first step are looked at: all sequences begin there or with none.
    """
    starts = _starts(buffer)[:n_steps]
    cut = layout(starts)
    goes_on = th.as_tensor((cut.starts == 0) & (starts[0, cut.envs] == 0), device=device)

    def memory(hidden: Array, cell: Array) -> Memory:
        of_envs = [th.as_tensor(_first_memory(buffer, part)[:, cut.envs], device=device) for part in (hidden, cell)]
        return of_envs[0] * goes_on[:, None], of_envs[1] * goes_on[:, None]

    def packed(array: Any) -> Any:
        if isinstance(array, dict):
            return {key: packed(part) for key, part in array.items()}
        return in_order(grid(buffer, array))

    def in_order(grid: Array) -> Tensor:
        return th.as_tensor(grid[:n_steps].reshape(-1, *grid.shape[2:])[cut.order], device=device)

    masks = getattr(buffer, "action_masks", None)
    steps = Sequences(
        packed(buffer.observations),
        None if masks is None else in_order(masks).bool(),
        index=cut.positions,
        actor_memory=memory(buffer.hidden_states_pi, buffer.cell_states_pi),
        critic_memory=memory(buffer.hidden_states_vf, buffer.cell_states_vf),
    )
    return Sequential(steps, cut)


def sequential_experience(buffer: Any, device: th.device) -> Experience:
    """All of a recurrent buffer."""
    steps, cut = sequential_steps(buffer, device)

    def packed(array: Array) -> Tensor:
        rows = grid(buffer, array).reshape(len(cut.order), -1)
        return th.as_tensor(rows[cut.order], dtype=th.float32, device=device)

    actions, *columns = (packed(getattr(buffer, name)) for name in ("actions", "log_probs", "advantages", "returns"))
    old_log_prob, advantages, returns = (column.flatten() for column in columns)
    clusters = th.as_tensor(stretches(_starts(buffer)).T.reshape(-1)[cut.order], device=device)
    return Experience(steps, actions, old_log_prob, advantages, returns, uniform_weights(advantages), clusters)


def _starts(buffer: Any) -> Array:
    """(T, E), 1 where an episode starts."""
    starts: Array = grid(buffer, buffer.episode_starts).reshape(buffer.buffer_size, buffer.n_envs)
    return starts


def grid(buffer: Any, array: Array) -> Array:
    """(T, E, ...), also when the buffer has flattened its arrays for samples, which are (E * T, ...) then."""
    n_steps, n_envs = buffer.buffer_size, buffer.n_envs
    if not buffer.generator_ready:
        return array
    return np.swapaxes(array.reshape(n_envs, n_steps, *array.shape[1:]), 0, 1)


def _first_memory(buffer: Any, states: Array) -> Array:
    """Hidden or cell states (L, E, H) at the first step."""
    return np.asarray(states[0] if not buffer.generator_ready else np.swapaxes(grid(buffer, states)[0], 0, 1))
