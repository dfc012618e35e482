"""Algorithms that go on where they were saved (see `training_state`)."""

from contextlib import ExitStack
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_trpo.algorithms.saved import SavedAlgorithm
from sb3_trpo.algorithms.training_state import TrainingState, pending_log
from sb3_trpo.algorithms.watch import watched
from sb3_trpo.saving.model import SavedModel

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="ResumableAlgorithm")


class ResumableAlgorithm(SavedAlgorithm):
    """An algorithm that goes on, where it was saved, as if it had not been interrupted."""

    read_to_go_on: ClassVar[tuple[str, ...]] = ("_training_state",)
    while_learning: ExitStack
    """Closed when `learn` ends, in whatever way: for callbacks that have something to undo then."""
    _keeps_boundaries: bool = False
    callback_states: dict[str, dict[str, Any]]
    """What callbacks remember from rollout to rollout, by their names; saved with the model."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._training_state: dict[str, Any] | None = None  # set in a file, and from `load` to `learn`
        self._boundary: TrainingState | None = None  # of the last rollout's start, where it is kept
        self._n_updates_at_start = 0
        self.callback_states: dict[str, dict[str, Any]] = {}

    def learn(self: SelfAlgorithm, *args: Any, **kwargs: Any) -> SelfAlgorithm:
        """As in Stable-Baselines3."""
        with ExitStack() as self.while_learning:
            return super().learn(*args, **kwargs)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """Also go on from the state of training that was loaded, unless the counting or the environment starts anew.

        :raises ExperienceError: for first observations that nothing can be learned from
        """
        state = None if reset_num_timesteps or self._last_obs is None else self._training_state
        self._training_state = self._boundary = None
        assert self.env is not None
        with watched(self.env):
            prepared = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
            self._n_updates_at_start = self._n_updates
            if state is not None:
                restored = TrainingState.read(state)
                restored.restore(self)
                self._n_updates_at_start -= restored.iterations
        return prepared

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log; iterations are counted through where a training goes on."""
        super().dump_logs(iteration and self._n_updates - self._n_updates_at_start + 1)

    def keep_boundaries(self) -> None:
        """Until `learn` ends, keep the state at the start of every rollout: a model saved later goes on from there."""
        self._keeps_boundaries = True
        self.while_learning.callback(setattr, self, "_keeps_boundaries", False)

    @property
    def timesteps_left(self) -> int:
        """Environment steps that were asked of the last `learn` and not made: with which a loaded model goes on."""
        return max(self._total_timesteps - self.num_timesteps, 0)

    @property
    def resumes_at(self) -> int:
        """The environment step at which a model goes on that is saved now."""
        between = self._last_boundary
        return self.num_timesteps if between is None else int(between.attributes["num_timesteps"])

    @property
    def monitor_sizes(self) -> list[int | None]:
        """How long each environment's file of episodes was, in bytes, when a model that goes on was saved."""
        environment = (self._training_state or {}).get("environment") or {"envs": []}
        return [
            next((file["size"] for layer in layers for file in layer.get("files", {}).values()), None)
            for layers in environment["envs"]
        ]

    def _note_boundary(self) -> None:
        """A rollout begins: note the state if it is to be kept."""
        if self._keeps_boundaries:
            self._boundary = TrainingState.of(self)

    @property
    def _last_boundary(self) -> TrainingState | None:
        """The state at the start of the rollout, where it is kept and no update followed."""
        boundary = self._boundary
        return None if boundary is None or boundary.updates != self._n_updates else boundary

    def _state_between_updates(self) -> TrainingState:
        """The last boundary, with what was logged since but by an update that did not end; else the present state."""
        boundary = self._last_boundary
        if boundary is None:
            return TrainingState.of(self)
        since = {name: entry for name, entry in pending_log(self).items() if not name.startswith("train/")}
        return boundary._replace(log={**since, **boundary.log})

    def _attributes(self) -> dict[str, Any]:
        """Also the state of training, be it one that was loaded and not yet gone on from."""
        state = self._training_state or self._state_between_updates()._asdict()
        return {**super()._attributes(), "_training_state": state}

    def _excluded_save_params(self) -> list[str]:
        """Also what belongs to the running `learn`."""
        return [*super()._excluded_save_params(), "_boundary", "_keeps_boundaries", "while_learning"]

    def _restore(self, file: SavedModel, device: th.device | str) -> None:
        """Also count as the state of training does that was in the file.

        :raises ValueError: also when it is none
        """
        super()._restore(file, device)
        if self._training_state is not None:
            TrainingState.read(self._training_state).rewind(self)
