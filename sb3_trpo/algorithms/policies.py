"""The policies of Stable-Baselines3 and sb3-contrib, with a features extractor each for actor and critic by default.

A shared extractor belongs to the actor: the critic's gradient must not move it, or the policy would leave the
trust region after the line search has passed it. A critic on a shared extractor therefore trains only its own
layers on features it cannot shape. With an extractor of its own it learns freely and the trust region holds.
``policy_kwargs={"share_features_extractor": True}`` brings the shared one back. `FlattenExtractor`, which only
reshapes vectors, has no parameters and stays shared. Measured in ``benchmarks.shared_extractor``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch as th
from sb3_contrib.common.maskable.distributions import make_masked_proba_distribution
from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from torch import Tensor


class SeparateExtractorsMixin:
    """Changes one default of the policy it is mixed into: an extractor is shared only when it has no parameters.

    Actor and critic that share an LSTM share what it sees.
    """

    usual_extractor: ClassVar[type[BaseFeaturesExtractor]]

    def __init__(self, *args: Any, **kwargs: Any):
        extractor = kwargs.get("features_extractor_class", self.usual_extractor)
        kwargs.setdefault("share_features_extractor", extractor is FlattenExtractor or kwargs.get("shared_lstm", False))
        super().__init__(*args, **kwargs)

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Of a width that an LSTM takes: for MultiDiscrete observations it is a number of numpy's."""
        extractor: BaseFeaturesExtractor = super().make_features_extractor()  # type: ignore[misc]
        extractor._features_dim = int(extractor.features_dim)
        return extractor


class MlpPolicy(SeparateExtractorsMixin, ActorCriticPolicy):
    """`ActorCriticPolicy` for vectors; a custom extractor is built once for the actor and once for the critic."""

    usual_extractor = FlattenExtractor


class CnnPolicy(SeparateExtractorsMixin, ActorCriticCnnPolicy):
    """`ActorCriticCnnPolicy` for images, with a convolutional network each for actor and critic."""

    usual_extractor = NatureCNN


class MultiInputPolicy(SeparateExtractorsMixin, MultiInputActorCriticPolicy):
    """`MultiInputActorCriticPolicy` for dictionaries, with a combined extractor each for actor and critic."""

    usual_extractor = CombinedExtractor


class MaskableMlpPolicy(SeparateExtractorsMixin, MaskableActorCriticPolicy):
    """`MlpPolicy` with action masks."""

    usual_extractor = FlattenExtractor


class MaskableCnnPolicy(SeparateExtractorsMixin, MaskableActorCriticCnnPolicy):
    """`CnnPolicy` with action masks."""

    usual_extractor = NatureCNN


class MaskableMultiInputPolicy(SeparateExtractorsMixin, MaskableMultiInputActorCriticPolicy):
    """`MultiInputPolicy` with action masks."""

    usual_extractor = CombinedExtractor


class MlpLstmPolicy(SeparateExtractorsMixin, RecurrentActorCriticPolicy):
    """`MlpPolicy` with memory: an LSTM between features and perceptrons."""

    usual_extractor = FlattenExtractor


class CnnLstmPolicy(SeparateExtractorsMixin, RecurrentActorCriticCnnPolicy):
    """`CnnPolicy` with memory."""

    usual_extractor = NatureCNN


class MultiInputLstmPolicy(SeparateExtractorsMixin, RecurrentMultiInputActorCriticPolicy):
    """`MultiInputPolicy` with memory."""

    usual_extractor = CombinedExtractor


class MaskableMemory:
    """Gives action masks to the recurrent policy it is mixed into.

    The distribution is sb3-contrib's maskable one; ``forward``, ``get_distribution``, ``evaluate_actions`` and
    ``predict`` take ``action_masks`` as its maskable policies do.
    """

    action_dist: Any
    _masks: Any = None

    def _build(self, lr_schedule: Any) -> None:
        """As without masks, but with a logit for each option of a coin, too."""
        super()._build(lr_schedule)  # type: ignore[misc]
        self.action_dist = make_masked_proba_distribution(self.action_space)  # type: ignore[attr-defined]
        latent_dim = self.mlp_extractor.latent_dim_pi  # type: ignore[attr-defined]
        self.action_net = self.action_dist.proba_distribution_net(latent_dim=latent_dim)
        if self.ortho_init:  # type: ignore[attr-defined]
            self.action_net.apply(partial(self.init_weights, gain=0.01))  # type: ignore[attr-defined]

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Any:
        """The distribution, masked while one of the methods below runs."""
        distribution = self.action_dist.proba_distribution(action_logits=self.action_net(latent_pi))
        if self._masks is not None:
            distribution.apply_masking(self._masks)
        return distribution

    def forward(self, *args: Any, action_masks: Any = None, **kwargs: Any) -> Any:
        """As without masks."""
        with self._masked(action_masks):
            return super().forward(*args, **kwargs)  # type: ignore[misc]

    def get_distribution(self, *args: Any, action_masks: Any = None, **kwargs: Any) -> Any:
        """As without masks."""
        with self._masked(action_masks):
            return super().get_distribution(*args, **kwargs)  # type: ignore[misc]

    def evaluate_actions(self, *args: Any, action_masks: Any = None, **kwargs: Any) -> Any:
        """As without masks."""
        with self._masked(action_masks):
            return super().evaluate_actions(*args, **kwargs)  # type: ignore[misc]

    @th.no_grad()
    def predict(self, *args: Any, action_masks: Any = None, **kwargs: Any) -> Any:
        """As without masks."""
        with self._masked(action_masks):
            return super().predict(*args, **kwargs)  # type: ignore[misc]

    @contextmanager
    def _masked(self, masks: Any) -> Iterator[None]:
        before = self._masks
        if masks is not None:  # else those of the method that calls this one hold
            self._masks = masks
        try:
            yield
        finally:
            self._masks = before


class MaskableMlpLstmPolicy(MaskableMemory, MlpLstmPolicy):
    """`MlpLstmPolicy` with action masks."""


class MaskableCnnLstmPolicy(MaskableMemory, CnnLstmPolicy):
    """`CnnLstmPolicy` with action masks."""


class MaskableMultiInputLstmPolicy(MaskableMemory, MultiInputLstmPolicy):
    """`MultiInputLstmPolicy` with action masks."""


class Kind(NamedTuple):
    """Whether a policy takes action masks, and whether it has memory."""

    masks: bool
    memory: bool


ALGORITHM_FOR = {
    Kind(masks=False, memory=False): "TRPO",
    Kind(masks=True, memory=False): "MaskableTRPO",
    Kind(masks=False, memory=True): "RecurrentTRPO",
    Kind(masks=True, memory=True): "MaskableRecurrentTRPO",
}
"""The class of this package that trains policies of a kind."""


def kind_of(policy: type) -> Kind:
    """The kind of a policy class."""
    return Kind(
        masks=issubclass(policy, (MaskableActorCriticPolicy, MaskableMemory)),
        memory=issubclass(policy, RecurrentActorCriticPolicy),
    )
