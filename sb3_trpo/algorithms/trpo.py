"""TRPO: the trust-region algorithm for every policy of Stable-Baselines3 without masks or memory."""

from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from sb3_trpo.algorithms.contrib import ModelFile, current_observation_space, read_settings, translation
from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm
from sb3_trpo.algorithms.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

SelfTRPO = TypeVar("SelfTRPO", bound="TRPO")


class TRPO(TrustRegionAlgorithm):
    """Trust Region Policy Optimization (Schulman et al. 2015, arXiv 1502.05477).

    .. code-block:: python

        model = TRPO("MlpPolicy", "HalfCheetah-v5", verbose=1).learn(1e6)
        model.save("cheetah")
        model = TRPO.load("cheetah")

    The arguments are those of `TrustRegionAlgorithm`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

    @classmethod
    def load(
        cls: type[SelfTRPO],
        path: ModelFile,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfTRPO:
        """Load a model saved by this package or by `sb3_contrib.TRPO`.

        A model of sb3-contrib keeps its behaviour: its radius and damping, which are averages over action
        dimensions, are translated to those of the joint action, with a warning that tells the numbers. Arguments
        given here are taken as they are.

        :param env: environment to go on training in, or its id; not needed to predict
        :param kwargs: constructor arguments to change
        :raises ValueError: for the file of another algorithm, or an argument that cannot be used
        """
        if isinstance(env, str):
            env = maybe_make_env(env, verbose=0)
        custom_objects = dict(custom_objects or {})
        given = custom_objects.keys() | kwargs.keys()
        for slot, built in (("radius", "radius_controller"), ("critic", "critic_regression")):
            if {slot, f"{slot}_kwargs"} & given:
                kwargs.setdefault(built, None)  # build the new one instead of restoring the saved one
        contrib_settings = read_settings(path, cls.__name__, custom_objects)
        if contrib_settings is not None:
            kwargs = {**translation(contrib_settings, cls.__name__, given), **kwargs}
            if env is not None:
                env = cls._wrap_env(env)
                custom_objects = {**current_observation_space(contrib_settings, env), **custom_objects}
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
