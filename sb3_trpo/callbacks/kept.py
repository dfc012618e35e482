"""What callbacks keep of a training: copies of its policy, and files."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from torch import nn

from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm
from sb3_trpo.saving.normalizer import save_normalizer


def copied(policy: Any) -> nn.Module:
    """A copy of a policy; what its action distribution remembers of the last graph has none, and is left out."""
    distribution = copy.copy(policy.action_dist)
    for name, value in vars(distribution).items():
        parts = value if isinstance(value, list) else [value]
        if isinstance(value, th.Tensor):
            setattr(distribution, name, value.detach())
        elif any(isinstance(part, th.distributions.Distribution) for part in parts):
            setattr(distribution, name, None)
    made: nn.Module = copy.deepcopy(policy, {id(policy.action_dist): distribution})
    return made


def save_with_statistics(model: TrustRegionAlgorithm, folder: Path, name: str) -> None:
    """Write ``name_model.zip``, and the statistics of `VecNormalize` as ``name_vecnormalize.pkl``, each whole or not at
    all.

    :raises OSError: naming the file, when it cannot be written
    """
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        save_normalizer(normalizer, folder / f"{name}_vecnormalize.pkl")
    model.save(folder / f"{name}_model.zip")


def check_algorithm(callback: BaseCallback) -> None:
    """Refuse an algorithm that knows nothing of what callbacks remember.

    :raises TypeError: for one of another package
    """
    if not isinstance(callback.model, TrustRegionAlgorithm):
        raise TypeError(
            f"{type(callback).__name__} is for algorithms of sb3_trpo, and this is {type(callback.model).__name__}"
        )


def others_beside(callback: BaseCallback, kind: type[BaseCallback]) -> list[BaseCallback]:
    """All other callbacks of the training that begins.

    :raises ValueError: when another is of the same ``kind``: they would remember in one place
    """
    others = [other for other in _all_of(callback.locals["callback"]) if other is not callback]
    if any(isinstance(other, kind) for other in others):
        raise ValueError(f"two {kind.__name__} callbacks in one training would remember in one place: leave one out")
    return others


def _all_of(callback: BaseCallback) -> Iterator[BaseCallback]:
    if isinstance(callback, CallbackList):
        for part in callback.callbacks:
            yield from _all_of(part)
    else:
        yield callback
