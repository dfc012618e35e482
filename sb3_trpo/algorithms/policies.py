"""Stable-Baselines3's actor-critic policies, with a features extractor each for actor and critic by default.

A shared extractor belongs to the actor: the critic's gradient must not move it, or the policy would leave the
trust region after the line search has passed it. A critic on a shared extractor therefore trains only its own
layers on features it cannot shape. With an extractor of its own it learns freely and the trust region holds.
``policy_kwargs={"share_features_extractor": True}`` brings the shared one back; `FlattenExtractor`, the extractor
of vector observations, has no parameters and nothing changes for it. Measured in ``benchmarks/shared_extractor.py``.
"""

from typing import Any

from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)


class SeparateExtractorsMixin:
    """Changes one default of the policy it is mixed into: ``share_features_extractor=False``."""

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("share_features_extractor", False)
        super().__init__(*args, **kwargs)


class MlpPolicy(SeparateExtractorsMixin, ActorCriticPolicy):
    """`ActorCriticPolicy` whose critic has a features extractor of its own."""


class CnnPolicy(SeparateExtractorsMixin, ActorCriticCnnPolicy):
    """`ActorCriticCnnPolicy` whose critic has a features extractor of its own."""


class MultiInputPolicy(SeparateExtractorsMixin, MultiInputActorCriticPolicy):
    """`MultiInputActorCriticPolicy` whose critic has a features extractor of its own."""
