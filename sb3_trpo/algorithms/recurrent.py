"""RecurrentTRPO: trust-region updates for policies with memory."""

from typing import Any, ClassVar

import numpy as np
import torch as th
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.algorithms.acting import Acting
from sb3_trpo.algorithms.experience import Experience, sequential_experience
from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm
from sb3_trpo.algorithms.perceptrons import has_hooks, is_of_a_library
from sb3_trpo.algorithms.policies import CnnLstmPolicy, Kind, MlpLstmPolicy, MultiInputLstmPolicy
from sb3_trpo.algorithms.recurrent_acting import RecurrentActing, without_memory
from sb3_trpo.algorithms.steps import Steps

OWN_METHODS = (
    "forward",
    "get_distribution",
    "predict_values",
    "evaluate_actions",
    "extract_features",
    "_process_sequence",
)
"""Methods of sb3-contrib's recurrent policies whose work is done for whole sequences here."""


class RecurrentAlgorithm(TrustRegionAlgorithm):
    """What the algorithms with memory have in common: sequences instead of steps.

    ``sub_sampling_factor`` and a critic's ``holdout`` choose among whole sequences, and ``cg_preconditioner`` has no
    factors of an LSTM to work with: conjugate gradient goes on without.
    """

    _last_lstm_states: RNNStates

    def _setup_model(self) -> None:
        """Also check that the policy can be evaluated by whole sequences."""
        super()._setup_model()
        for name in OWN_METHODS:
            if not is_of_a_library(self.policy, name):
                raise ValueError(
                    f"policy={self.policy_class.__name__} has a {name} of its own, which {type(self).__name__} would "
                    "not call: it evaluates whole sequences by the features extractor, lstm_actor, lstm_critic, "
                    "mlp_extractor, action_net and value_net; put what is special into one of these"
                )

    def _make_policy(self) -> BasePolicy:
        """It has nothing to remember yet."""
        policy = super()._make_policy()
        assert isinstance(policy, RecurrentActorCriticPolicy)
        lstm = policy.lstm_actor
        unfit = [name for name in ("batch_first", "bidirectional", "proj_size") if getattr(lstm, name)]
        if unfit:
            raise ValueError(
                f"lstm_kwargs={policy.lstm_kwargs!r} cannot be used with {' and '.join(unfit)}: leave it out"
            )
        nothing = th.zeros(lstm.num_layers, self.n_envs, lstm.hidden_size, device=self.device)
        self._last_lstm_states = RNNStates((nothing, nothing), (nothing, nothing))
        return policy

    def _make_rollout_buffer(self, **more: Any) -> RolloutBuffer:
        """With room for the memories of every step, of which the fast rollout keeps the first."""
        lstm = self.policy.lstm_actor
        shape = (self.n_steps, lstm.num_layers, self.n_envs, lstm.hidden_size)
        return super()._make_rollout_buffer(hidden_state_shape=shape, **more)

    def _steps(self, observations: Any) -> Steps:
        return without_memory(self.policy, observations)

    def _experience(self) -> Experience:
        return sequential_experience(self.rollout_buffer, self.device)

    def _acts_as_it_is_evaluated(self) -> bool:
        return not has_hooks(self.policy)  # what else could matter was refused

    def _acting(self, rollout_buffer: RolloutBuffer, n_steps: int) -> Acting:
        return RecurrentActing(self, rollout_buffer, n_steps)

    def _collect_plainly(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """The loop of RecurrentPPO.

        :raises ValueError: for squashed actions, which that loop does not scale to the bounds of the action space
        """
        if self.policy.squash_output:
            raise ValueError(
                "squash_output=True needs the fast rollout, and RecurrentPPO's loop would be used instead: leave "
                "fast_rollout and rollout_buffer_class at their defaults"
            )
        return RecurrentPPO.collect_rollouts(self, env, callback, rollout_buffer, n_rollout_steps)  # type: ignore[arg-type]

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions and memory for observations and memory.

        :param state: what the policy remembers, as the last call gave it; None at the start
        :param episode_start: (E,), True for the environments whose episode begins: they forget
        """
        return super().predict(observation, state, episode_start, deterministic)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_last_lstm_states"]


class RecurrentTRPO(RecurrentAlgorithm):
    """TRPO for policies with an LSTM, in the interface of sb3-contrib's RecurrentPPO.

    .. code-block:: python

        model = RecurrentTRPO("MlpLstmPolicy", env).learn(1e5)
        state, start = None, np.ones(env.num_envs, dtype=bool)
        action, state = model.predict(observation, state, start)

    Surrogate, KL divergence and Fisher matrix are means over the steps of whole sequences, from the start of an episode
    or of the rollout to the end of either, and differentiated through all of them: what the policy remembers changes
    with its parameters. The arguments are those of `ConfiguredAlgorithm`; ``policy_kwargs`` takes sb3-contrib's
    ``lstm_hidden_size``, ``n_lstm_layers``, ``enable_critic_lstm`` and ``shared_lstm``. ``sub_sampling_factor`` thins
    the Fisher estimate by whole sequences.
    """

    kind: ClassVar[Kind] = Kind(masks=False, memory=True)
    rollout_buffers = (RecurrentRolloutBuffer, RecurrentDictRolloutBuffer)
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpLstmPolicy": MlpLstmPolicy,
        "CnnLstmPolicy": CnnLstmPolicy,
        "MultiInputLstmPolicy": MultiInputLstmPolicy,
    }
