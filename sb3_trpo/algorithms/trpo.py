"""TRPO: the trust-region algorithm for every policy of Stable-Baselines3 without masks or memory."""

from typing import ClassVar

from stable_baselines3.common.policies import BasePolicy

from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm
from sb3_trpo.algorithms.policies import CnnPolicy, MlpPolicy, MultiInputPolicy


class TRPO(TrustRegionAlgorithm):
    """Trust Region Policy Optimization (Schulman et al. 2015, arXiv 1502.05477).

    .. code-block:: python

        model = TRPO("MlpPolicy", "HalfCheetah-v5", verbose=1).learn(1e6)
        model.save("cheetah")
        model = TRPO.load("cheetah")

    The arguments are those of `ConfiguredAlgorithm`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
