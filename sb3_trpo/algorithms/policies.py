"""Stable-Baselines3's actor-critic policies, with a features extractor each for actor and critic by default.

A shared extractor belongs to the actor: the critic's gradient must not move it, or the policy would leave the
trust region after the line search has passed it. A critic on a shared extractor therefore trains only its own
layers on features it cannot shape. With an extractor of its own it learns freely and the trust region holds.
``policy_kwargs={"share_features_extractor": True}`` brings the shared one back. `FlattenExtractor`, which only
reshapes vectors, has no parameters and stays shared. Measured in ``benchmarks.shared_extractor``.
"""

from typing import Any, ClassVar

from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN


class SeparateExtractorsMixin:
    """Changes one default of the policy it is mixed into: an extractor is shared only when it has no parameters."""

    usual_extractor: ClassVar[type[BaseFeaturesExtractor]]

    def __init__(self, *args: Any, **kwargs: Any):
        extractor = kwargs.get("features_extractor_class", self.usual_extractor)
        kwargs.setdefault("share_features_extractor", extractor is FlattenExtractor)
        super().__init__(*args, **kwargs)


class MlpPolicy(SeparateExtractorsMixin, ActorCriticPolicy):
    """`ActorCriticPolicy` for vectors; a custom extractor is built once for the actor and once for the critic."""

    usual_extractor = FlattenExtractor


class CnnPolicy(SeparateExtractorsMixin, ActorCriticCnnPolicy):
    """`ActorCriticCnnPolicy` for images, with a convolutional network each for actor and critic."""

    usual_extractor = NatureCNN


class MultiInputPolicy(SeparateExtractorsMixin, MultiInputActorCriticPolicy):
    """`MultiInputActorCriticPolicy` for dictionaries, with a combined extractor each for actor and critic."""

    usual_extractor = CombinedExtractor
