"""MaskableTRPO: trust-region updates for policies that must not take certain actions in certain states."""

from typing import Any, ClassVar, TypeVar

import numpy as np
from gymnasium import spaces
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.algorithms.action_start import for_environment
from sb3_trpo.algorithms.masks import (
    EnvironmentMasks,
    MaskSource,
    as_masks,
    masks_given,
    option_counts,
    refuse_impossible,
)
from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm
from sb3_trpo.algorithms.policies import Kind, MaskableCnnPolicy, MaskableMlpPolicy, MaskableMultiInputPolicy
from sb3_trpo.algorithms.steps import Steps

SelfMaskable = TypeVar("SelfMaskable", bound="MaskableAlgorithm")


class MaskableAlgorithm(TrustRegionAlgorithm):
    """What the algorithms with action masks have in common: discrete actions, and masks on all ways."""

    action_spaces: ClassVar[tuple[type, ...]] = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

    _use_masking = True

    def learn(  # type: ignore[override]  # the order of the arguments is that of MaskablePPO
        self: SelfMaskable,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        use_masking: bool = True,
        progress_bar: bool = False,
    ) -> SelfMaskable:
        """Train for ``total_timesteps`` environment steps, as `TRPO.learn`.

        :param use_masking: ask the environment for its masks; False to allow every action
        :raises ValueError: for an environment without masks, and for a mask that allows nothing
        """
        self._use_masking = bool(use_masking)
        try:
            return super().learn(
                total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
            )
        finally:
            self._use_masking = True

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions for observations, as in Stable-Baselines3.

        :param action_masks: (E, M) or (M,), True for the options that are allowed; None for all
        :raises ValueError: for masks of another size, or that allow nothing
        """
        if action_masks is not None:
            sizes = option_counts(self.action_space)
            n_rows = len(Steps(self.policy.obs_to_tensor(observation)[0]))
            action_masks = as_masks(action_masks, n_rows, sizes)
            refuse_impossible(action_masks, sizes)
        options, state = self.policy.predict(
            observation, state, episode_start, deterministic, action_masks=action_masks
        )
        return for_environment(options, self.action_space), state

    def _mask_source(self, env: VecEnv, rollout_buffer: Any) -> MaskSource:
        """The environment, unless it is not to be asked."""
        if not self._use_masking:
            return super()._mask_source(env, rollout_buffer)
        return EnvironmentMasks(env, self.action_space, rollout_buffer)

    def _collect_plainly(self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        """The same loop as without masks."""
        with masks_given(self.policy, self._mask_source(env, rollout_buffer), rollout_buffer):
            return super()._collect_plainly(env, callback, rollout_buffer, n_rollout_steps)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_use_masking"]


class MaskableTRPO(MaskableAlgorithm):
    """TRPO with invalid action masking (Huang & Ontañón 2020, arXiv 2006.14171) in the interface of MaskablePPO.

    .. code-block:: python

        env = ActionMasker(env, lambda env: env.valid_actions())  # of sb3_contrib.common.wrappers
        model = MaskableTRPO("MlpPolicy", env).learn(1e5)
        action, _ = model.predict(observation, action_masks=get_action_masks(env))

    KL divergence, Fisher matrix and entropy are those of the masked distributions: an option that is forbidden in a
    state has probability zero there before and after the update, and adds nothing to any of them. Discrete,
    MultiDiscrete and MultiBinary actions. The arguments are those of `ConfiguredAlgorithm` without gSDE.
    """

    kind: ClassVar[Kind] = Kind(masks=True, memory=False)
    rollout_buffers = (MaskableRolloutBuffer, MaskableDictRolloutBuffer)
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MaskableMlpPolicy,
        "CnnPolicy": MaskableCnnPolicy,
        "MultiInputPolicy": MaskableMultiInputPolicy,
    }

    def _make_policy(self) -> BasePolicy:
        """Without an argument for gSDE, which discrete actions do not have."""
        policy: BasePolicy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        )
        return policy
