"""Steps of experience as a policy sees them, and the policy's answers to them.

`Steps` stand each for itself; those of a policy with memory are `sb3_trpo.algorithms.sequences.Sequences`. Whoever
cuts them up does so by *units*, the smallest parts that can be evaluated alone: a step here, a sequence there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import torch as th
from stable_baselines3.common.policies import BaseModel
from torch import Tensor

Observations: TypeAlias = Tensor | dict[str, Tensor]
Rows = TypeVar("Rows", bound=Observations)
Units: TypeAlias = slice | Tensor
SelfSteps = TypeVar("SelfSteps", bound="Steps")

BATCH_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}
"""What a batch's activations may take: an update needs memory for one batch, whatever the length of the rollout.

A sequence is never cut, so that a batch of a policy with memory takes what its longest sequence takes, at least.
"""


@dataclass(frozen=True)
class Steps:
    """N steps, each of which stands for itself.

    ``observations`` (N, ...) and, where actions are masked, ``action_masks`` (N, M), True for the options allowed.
    """

    observations: Observations
    action_masks: Tensor | None = None

    def __len__(self) -> int:
        """N."""
        observations = self.observations
        return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)

    @property
    def n_units(self) -> int:
        """How many parts can be evaluated alone."""
        return len(self)

    @property
    def device(self) -> th.device:
        """Where the observations are."""
        observations = self.observations
        return (next(iter(observations.values())) if isinstance(observations, dict) else observations).device

    @property
    def first_rows(self) -> Units:
        """The number of each unit's first step."""
        return th.arange(len(self))

    def rows(self, units: Units) -> Units:
        """The numbers of the steps in ``units``, in the order in which `take` has them."""
        return units

    def take(self: SelfSteps, units: Units) -> SelfSteps:
        """The steps in ``units``."""
        masks = None if self.action_masks is None else self.action_masks[units]
        return replace(self, observations=select(self.observations, units), action_masks=masks)

    def first(self: SelfSteps, count: int) -> SelfSteps:
        """The first ``count`` steps, to try a policy out."""
        return self.take(slice(count))

    def cut(self, count: int) -> list[slice]:
        """All units in at most ``count`` slices of about as many steps each."""
        return even_slices(self.n_units, count)

    def pieces(self: SelfSteps, policy: Any, length: int) -> tuple[Units, SelfSteps]:
        """The same steps in units of at most ``length`` steps, for a critic's minibatches, and the steps' numbers."""
        return slice(None), self

    def batches(self, bytes_per_row: int) -> list[slice]:
        """All units in slices of about `BATCH_BYTES`."""
        room = BATCH_BYTES.get(self.device.type, BATCH_BYTES["cpu"])
        return self.cut(max(1, -(-len(self) * bytes_per_row // room)))

    def parts(self: SelfSteps, bytes_per_row: int) -> list[tuple[Units, SelfSteps]]:
        """The numbers and steps of each batch."""
        return [(self.rows(units), self.take(units)) for units in self.batches(bytes_per_row)]

    def action_distribution(self, policy: Any) -> Any:
        """The policy's action distribution, an object of Stable-Baselines3's."""
        masks = {} if self.action_masks is None else {"action_masks": self.action_masks}
        return policy.get_distribution(self.observations, **masks)

    def values(self, policy: Any) -> Tensor:
        """The policy's values (N, 1)."""
        values: Tensor = policy.predict_values(self.observations)
        return values

    def actor_features(self, policy: Any) -> Tensor:
        """What the actor's perceptron sees, (N, D)."""
        return BaseModel.extract_features(policy, self.observations, policy.pi_features_extractor)

    def critic_features(self, policy: Any) -> Tensor:
        """What the critic's perceptron sees, (N, D)."""
        return BaseModel.extract_features(policy, self.observations, policy.vf_features_extractor)


def select(observations: Rows, rows: Any) -> Rows:
    """The rows of a slice or of a tensor of numbers."""
    if isinstance(observations, dict):
        return {key: value[rows] for key, value in observations.items()}  # type: ignore[return-value]
    return observations[rows]  # type: ignore[return-value]


def even_slices(n: int, count: int) -> list[slice]:
    """Consecutive slices of ``n`` things, at most ``count`` of them, equal up to one."""
    count = min(n, count)
    ends = [n * index // count for index in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def graph_bytes_per_row(policy: Any, forward: Callable[[Steps], Any], steps: Steps) -> int:
    """What the graph of ``forward`` keeps for each step, by its growth from one step to two."""
    counts = []
    for count in (1, min(2, len(steps))):
        with SavedBytes(policy) as saved, th.enable_grad():
            forward(steps.first(count))
        counts.append(saved.nbytes)
    return max(counts[1] - counts[0], 0) + 1


class SavedBytes(th.autograd.graph.saved_tensors_hooks):
    """Counts the memory that graphs built inside the block keep for their reverse pass, parameters aside."""

    nbytes: int

    def __init__(self, policy: Any):
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
