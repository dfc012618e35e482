"""Algorithms that go on where they were saved (see `training_state`)."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from sb3_trpo.algorithms.saved import SavedAlgorithm
from sb3_trpo.algorithms.training_state import TrainingState, pending_log
from sb3_trpo.algorithms.watch import watched
from sb3_trpo.saving.model import ModelFile

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="ResumableAlgorithm")


class ResumableAlgorithm(SavedAlgorithm):
    """An algorithm that goes on, where it was saved, as if it had not been interrupted."""

    while_learning: ExitStack
    """Closed when `learn` ends, in whatever way: for callbacks that have something to undo then."""
    keeps_boundaries: bool = False
    """Whether the state at the start of every rollout is kept, from which an interrupted training goes on exactly."""
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

    def save(self, path: ModelFile, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Save the model, and with it all that `load` with ``force_reset=False`` needs to go on exactly.

        That is the state between two updates. Saved during a rollout, it is that of its start if a callback keeps it
        (`sb3_trpo.callbacks.Checkpoints`), else the present one: the steps of the rollout so far are then not learned
        from. A file is written whole or not at all, an open one as it comes.

        :param path: ``.zip`` is added to a path without suffix, folders are made
        :param exclude: attributes that are not to be saved, such as ``"_training_state"``
        :param include: attributes that usually are not, and are to be
        :raises OSError: naming the file, when it cannot be written; the old one is as it was
        :raises ValueError: for an attribute that cannot be saved
        """
        waiting = self._training_state  # loaded, and not yet gone on from
        if waiting is None:
            self._training_state = self._state_between_updates()._asdict()
        try:
            super().save(path, exclude, include)
        finally:
            self._training_state = waiting

    def _note_boundary(self) -> None:
        """A rollout begins: note the state if it is to be kept."""
        if self.keeps_boundaries:
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

    @classmethod
    def load(
        cls: type[SelfAlgorithm],
        path: ModelFile,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust: bool = False,
        **kwargs: Any,
    ) -> SelfAlgorithm:
        """Load a model saved by this class; `TRPO` also loads those of `sb3_contrib.TRPO`.

        A model of sb3-contrib keeps its behaviour: its radius and damping, which are averages over action
        dimensions, are translated to those of the joint action, with a warning that tells the numbers. Arguments
        given here are taken as they are.

        No code of the file is run. Classes of your own and lambdas, which are code, are loaded with ``trust=True``
        only: pass it for files that you made yourself.

        :param env: environment to go on training in, or its id; not needed to predict
        :param custom_objects: values in place of those of the file
        :param trust: run the code that is in the file
        :param force_reset: False to go on exactly: environments, random generators, statistics and counters are then as
            they were when the model was saved, once `learn` is called with ``reset_num_timesteps=False``:

            .. code-block:: python

                model = TRPO.load("cheetah", env=env, force_reset=False)
                model.learn(model.timesteps_left, reset_num_timesteps=False)

        :param kwargs: constructor arguments to change
        :raises ValueError: for the file of another algorithm, saying which class loads it, or of another environment;
            for a damaged file, or one that needs to be trusted; and for an argument that cannot be used
        """
        if force_reset:
            custom_objects = {**(custom_objects or {}), "_training_state": None}  # not even read
        model = super().load(path, env, device, custom_objects, print_system_info, force_reset, trust, **kwargs)
        if model._training_state is not None:
            TrainingState.read(model._training_state).rewind(model)
        return model

    def _excluded_save_params(self) -> list[str]:
        """Also what belongs to the running `learn`."""
        return [*super()._excluded_save_params(), "_boundary", "keeps_boundaries", "while_learning"]
