"""What a training has learned, as plain data: captured between two updates, and put back later.

That is all by which the coming updates would differ, were they to go on from there, but for counters, exploration, and
the environments, which go on where they are; and for rollouts that are used again, which are of other policies.
"""

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from sb3_trpo.algorithms.slots import SLOTS
from sb3_trpo.algorithms.transaction import duplicate

if TYPE_CHECKING:
    from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm

LEARNING = tuple(slot.attribute for name, slot in SLOTS.items() if name != "action_noise")
"""Attributes whose objects learn; the noise of actions goes on, as the environments do that it acts in."""

STATISTICS = ("obs_rms", "ret_rms")
"""Attributes of `VecNormalize` that hold what it has seen; it has the first where it normalises observations."""


class Learned(NamedTuple):
    """``weights`` and buffers of the policy by name, the state of the critic's ``optimizer``, the objects in the
    ``slots`` by attribute (radius controller, fit of the critic, extensions), and the ``statistics`` of `VecNormalize`,
    none without one. Nothing is shared with the training.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    slots: dict[str, Any]
    statistics: dict[str, Any]

    @classmethod
    def of(cls, algorithm: "TrustRegionAlgorithm", policy: nn.Module | None = None) -> "Learned":
        """What ``algorithm`` has learned so far; with the weights of ``policy`` in place of its own."""
        policy = algorithm.policy if policy is None else policy
        return cls(
            weights=duplicate(dict(policy.state_dict())),
            optimizer=duplicate(algorithm.policy.optimizer.state_dict()),
            slots=copy.deepcopy({name: getattr(algorithm, name) for name in LEARNING}),
            statistics=statistics_of(algorithm.get_vec_normalize_env()),
        )

    def put(self, algorithm: "TrustRegionAlgorithm") -> None:
        """Have ``algorithm`` go on from here; may be interrupted and done again."""
        algorithm.policy.load_state_dict(self.weights)
        algorithm.policy.optimizer.load_state_dict(duplicate(self.optimizer))  # which would change what it is given
        for name, learned in copy.deepcopy(self.slots).items():
            if type(learned) is type(getattr(algorithm, name)):  # else `load` was given another one
                setattr(algorithm, name, learned)
        put_statistics(algorithm.get_vec_normalize_env(), self.statistics)


def statistics_of(normalizer: VecNormalize | None) -> dict[str, Any]:
    """A copy of what ``normalizer`` has seen of observations and rewards."""
    return {name: copy.deepcopy(getattr(normalizer, name)) for name in STATISTICS if hasattr(normalizer, name)}


def put_statistics(normalizer: VecNormalize | None, statistics: dict[str, Any]) -> None:
    """Have ``normalizer`` normalise by ``statistics``."""
    for name, value in copy.deepcopy(statistics).items():
        setattr(normalizer, name, value)
