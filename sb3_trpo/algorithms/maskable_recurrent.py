"""MaskableRecurrentTRPO: action masks and memory at once."""

from typing import Any, ClassVar

import numpy as np
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from stable_baselines3.common.policies import BasePolicy

from sb3_trpo.algorithms.maskable import MaskableAlgorithm
from sb3_trpo.algorithms.masks import option_counts
from sb3_trpo.algorithms.policies import (
    Kind,
    MaskableCnnLstmPolicy,
    MaskableMlpLstmPolicy,
    MaskableMultiInputLstmPolicy,
)
from sb3_trpo.algorithms.recurrent import RecurrentAlgorithm


class WithMasks:
    """Gives the rollout buffer it is mixed into room for action masks (T, E, M)."""

    def reset(self) -> None:
        """All actions are allowed until masks are written."""
        super().reset()  # type: ignore[misc]
        buffer: Any = self
        n_options = sum(option_counts(buffer.action_space))
        buffer.action_masks = np.ones((buffer.buffer_size, buffer.n_envs, n_options), dtype=np.float32)


class MaskableRecurrentRolloutBuffer(WithMasks, RecurrentRolloutBuffer):
    """A recurrent buffer with action masks."""


class MaskableRecurrentDictRolloutBuffer(WithMasks, RecurrentDictRolloutBuffer):
    """The same for dictionaries of observations."""


class MaskableRecurrentTRPO(MaskableAlgorithm, RecurrentAlgorithm):
    """TRPO for policies with an LSTM whose actions are masked.

    .. code-block:: python

        model = MaskableRecurrentTRPO("MlpLstmPolicy", ActionMasker(env, valid_actions)).learn(1e5)
        action, state = model.predict(observation, state, episode_start, action_masks=get_action_masks(env))

    Masks are those of `MaskableTRPO`, memory is that of `RecurrentTRPO`. sb3-contrib's ``evaluate_policy`` and
    ``MaskableEvalCallback`` pass masks but no memory from step to step; Stable-Baselines3's ``evaluate_policy`` of
    ``sb3_trpo.callbacks.episodes.predictor(model, env)`` has both.
    """

    kind: ClassVar[Kind] = Kind(masks=True, memory=True)
    rollout_buffers = (MaskableRecurrentRolloutBuffer, MaskableRecurrentDictRolloutBuffer)
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpLstmPolicy": MaskableMlpLstmPolicy,
        "CnnLstmPolicy": MaskableCnnLstmPolicy,
        "MultiInputLstmPolicy": MaskableMultiInputLstmPolicy,
    }
