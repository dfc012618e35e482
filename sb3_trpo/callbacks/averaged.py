r"""An average of the policies of a training, to evaluate and to keep.

.. math:: \bar\theta_k = d \, \bar\theta_{k-1} + (1 - d) \, \theta_k, \qquad \bar\theta_0 = \theta_0

after the k-th update (Polyak, Juditsky 1992, Acceleration of stochastic approximation by averaging; exponentially, as
for the weights of today's networks). About 1 / (1 - d) policies are averaged, whose noise cancels in part.
"""

import copy
from pathlib import Path
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sb3_trpo.algorithms.arguments import check_number
from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm
from sb3_trpo.algorithms.transaction import done_or_undone, duplicate
from sb3_trpo.callbacks.kept import check_algorithm, copied, others_beside, save_with_statistics

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)

STATE = "AveragedPolicy"
"""Its place among the states of callbacks."""


class AveragedPolicy(BaseCallback):
    """Keeps an exponential moving average of the policy's parameters, one step after each update.

    .. code-block:: python

        averaged = AveragedPolicy(decay=0.95, save_path="cheetah")
        TRPO("MlpPolicy", env).learn(1_000_000, averaged)
        averaged.policy.predict(observation, deterministic=True)
        TRPO.load("cheetah/averaged_model")

    Averaged are all parameters, the critic's and those of shared extractors among them, each once; frozen ones stay
    what they are. Buffers are those of the present policy: an update leaves batch statistics alone. The average is
    saved with the model, and goes on with it; where the model was trained without it for a while, it begins anew.

    :param decay: d in [0, 1); with 0 the average is the present policy
    :param save_path: folder of ``averaged_model.zip`` at the end of `learn`, with ``averaged_vecnormalize.pkl`` beside
        it where observations or rewards are normalised; None to save none
    :raises ValueError: for a decay out of range
    """

    def __init__(self, decay: float = 0.95, save_path: str | Path | None = None, verbose: int = 0):
        super().__init__(verbose)
        check_number("decay", decay, "in [0, 1)", lambda x: 0 <= x < 1)
        self.decay = decay
        self.save_path = None if save_path is None else Path(save_path)
        self._average: AveragedModel | None = None

    model: TrustRegionAlgorithm

    @property
    def policy(self) -> Any:
        """The averaged policy: itself, not a copy.

        :raises RuntimeError: before a training has begun
        """
        if self._average is None:
            raise RuntimeError("there is no averaged policy before learn: list AveragedPolicy before what uses it")
        return self._average.module

    @property
    def averaged_model(self) -> TrustRegionAlgorithm:
        """The algorithm with the averaged policy in place of its own, to predict with and to save."""
        policy = self.policy
        averaged = copy.copy(self.model)
        averaged.policy = policy
        return averaged

    def save(self, path: str | Path) -> None:
        """Save the algorithm with the averaged policy; its class loads it."""
        self.averaged_model.save(path)

    def catch_up(self) -> None:
        """Take the policy of the last update into the average, unless that has been done."""
        average, model = self._average, self.model
        assert average is not None
        if model.callback_states[STATE]["updates"] == model._n_updates:
            return
        states, before = model.callback_states, duplicate(dict(average.state_dict()))

        def take_in() -> None:
            average.update_parameters(model.policy)
            self._note(model._n_updates)

        def undo() -> None:
            average.load_state_dict(before)
            model.callback_states = states

        done_or_undone(take_in, undo)

    def _init_callback(self) -> None:
        check_algorithm(self)

    def _on_training_start(self) -> None:
        others_beside(self, AveragedPolicy)
        model = self.model
        state = model.callback_states.get(STATE) if model.num_timesteps else None
        if state is not None and model._n_updates > state["updates"] + 1:
            state = None  # the policies in between are not known
        average_of = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]
        average = AveragedModel(copied(model.policy), multi_avg_fn=average_of)
        average.module.optimizer = model.policy.optimizer  # the critic's, which is saved with the average
        if state is None:
            average.update_parameters(model.policy)
        else:
            average.load_state_dict(state["average"])
        self._average = average
        self._note(model._n_updates if state is None else state["updates"])

    def _on_rollout_start(self) -> None:
        self.catch_up()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.catch_up()
        if self.save_path is not None:
            save_with_statistics(self.averaged_model, self.save_path, "averaged")
            if self.verbose:
                print(f"averaged policy {self.save_path / 'averaged_model.zip'}")

    def _note(self, updates: int) -> None:
        """Have the model save the average, the tensors themselves, and how many updates it is of."""
        assert self._average is not None
        state = {"average": dict(self._average.state_dict()), "updates": updates}
        self.model.callback_states = {**self.model.callback_states, STATE: state}


def evaluated(model: Algorithm, averaged: AveragedPolicy | None) -> Algorithm | TrustRegionAlgorithm:
    """What is evaluated and kept of ``model``: with the average that ``averaged`` keeps in place of its own policy."""
    return model if averaged is None else averaged.averaged_model
