"""Observations, tensors or dictionaries of them, cut into batches that fit into memory."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

Observations: TypeAlias = Tensor | dict[str, Tensor]
Rows = TypeVar("Rows", bound=Observations)

BATCH_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}
"""What a batch's activations may take: an update needs memory for one batch, whatever the length of the rollout."""


def n_rows(observations: Observations) -> int:
    """How many rows there are."""
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)


def first_rows(observations: Rows, count: int = 2) -> Rows:
    """The first rows."""
    return select(observations, slice(count))


def select(observations: Rows, rows: Any) -> Rows:
    """The rows of a slice or of a tensor of numbers."""
    if isinstance(observations, dict):
        return {key: value[rows] for key, value in observations.items()}  # type: ignore[return-value]
    return observations[rows]  # type: ignore[return-value]


def whole_rollout(buffer: RolloutBuffer) -> Any:
    """All steps of ``buffer``, in its own order if it is one of Stable-Baselines3's."""
    if type(buffer) not in (RolloutBuffer, DictRolloutBuffer):
        return next(buffer.get(batch_size=None))
    next(buffer.get(batch_size=1))  # has the buffer flatten its arrays
    return buffer._get_samples(np.arange(buffer.buffer_size * buffer.n_envs))


def slices(count: int, bytes_per_row: int, device: th.device) -> list[slice]:
    """Consecutive slices of ``count`` rows, equal up to one row, each of about `BATCH_BYTES`."""
    room = BATCH_BYTES.get(device.type, BATCH_BYTES["cpu"])
    n_batches = min(count, max(1, -(-count * bytes_per_row // room)))
    ends = [count * index // n_batches for index in range(n_batches + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def graph_bytes_per_row(policy: ActorCriticPolicy, forward: Callable[[Any], Any], observations: Observations) -> int:
    """What the graph of ``forward`` keeps for each row of the observations, by its growth from one row to two."""
    counts = []
    for count in (1, min(2, n_rows(observations))):
        with SavedBytes(policy) as saved, th.enable_grad():
            forward(first_rows(observations, count))
        counts.append(saved.nbytes)
    return max(counts[1] - counts[0], 0) + 1


class SavedBytes(th.autograd.graph.saved_tensors_hooks):
    """Counts the memory that graphs built inside the block keep for their reverse pass, parameters aside."""

    nbytes: int

    def __init__(self, policy: ActorCriticPolicy):
        self.nbytes = 0
        own = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}

        def count(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                self.nbytes += tensor.nbytes
            return tensor.detach()  # an output that its own graph held would never be freed

        super().__init__(count, lambda tensor: tensor)

    def __enter__(self) -> "SavedBytes":  # type: ignore[override]
        super().__enter__()
        return self
