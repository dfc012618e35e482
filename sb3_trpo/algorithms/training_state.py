"""All that decides how a training goes on, beside parameters and settings: captured between two updates.

A training that goes on from it repeats what the uninterrupted one would have done, bit for bit, if the state of the
environments can be captured (see `environment_state`); otherwise they begin new episodes, with a warning.
"""

import random
import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch as th

from sb3_trpo.algorithms import environment_state

if TYPE_CHECKING:
    from sb3_trpo.algorithms.resumable import ResumableAlgorithm

CHANGED_BY_ROLLOUTS = (
    "num_timesteps", "_episode_num", "ep_info_buffer", "ep_success_buffer", "_last_obs", "_last_episode_starts",
    "_last_original_obs", "_last_lstm_states", "_current_progress_remaining", "past_rollouts", "noise_process",
)  # fmt: skip
"""Attributes of an algorithm that are others after a rollout and its update, and that no other part of a file has."""


class TrainingState(NamedTuple):
    """The state between two updates.

    ``attributes`` that a rollout changes, ``generators`` of random numbers, the state of the ``environment`` (None if
    it cannot be captured, for the ``reason``), what is waiting to be written to the ``log``, how many ``iterations`` of
    rollout and update the present `learn` has made, and the algorithm all ``updates`` so far.
    """

    attributes: dict[str, Any]
    generators: dict[str, Any]
    environment: dict[str, Any] | None
    reason: str
    log: dict[str, Any]
    iterations: int
    updates: int

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> "TrainingState":
        """What ``_asdict`` made a dictionary of.

        :raises ValueError: when it is not that
        """
        if not (isinstance(fields, Mapping) and set(fields) == set(cls._fields)):
            raise ValueError(f"the saved state of training must have the fields {', '.join(cls._fields)}")
        return cls(**fields)

    @classmethod
    def of(cls, algorithm: "ResumableAlgorithm") -> "TrainingState":
        """That of ``algorithm`` now."""
        env = algorithm.get_env()
        if env is None:
            captured = environment_state.Captured(None, "there is none")
        elif algorithm._last_obs is None:  # at the beginning, and after a rollout that was refused
            captured = environment_state.Captured(None, "there is no observation to go on from")
        else:
            captured = environment_state.capture(env)
        names = [name for name in CHANGED_BY_ROLLOUTS if hasattr(algorithm, name)]
        return cls(
            attributes={name: deepcopy(getattr(algorithm, name)) for name in names},
            generators=generator_states(),
            environment=captured.state,
            reason=captured.reason,
            log=pending_log(algorithm),
            iterations=algorithm._n_updates - algorithm._n_updates_at_start,
            updates=algorithm._n_updates,
        )

    def rewind(self, algorithm: "ResumableAlgorithm") -> None:
        """Have ``algorithm`` count as if the rollout that followed had not begun. Its environments are left alone."""
        for name in CHANGED_BY_ROLLOUTS:
            if name in self.attributes:
                setattr(algorithm, name, deepcopy(self.attributes[name]))

    def restore(self, algorithm: "ResumableAlgorithm") -> None:
        """Have ``algorithm``, its environments and all random generators go on from here.

        :raises ValueError: when its environments are not like those that were captured
        """
        self.rewind(algorithm)
        env = algorithm.get_env()
        assert env is not None
        if self.environment is None:
            warnings.warn(
                f"the environments begin new episodes, for their state was not saved: {self.reason}", stacklevel=2
            )
            if algorithm.seed is not None:
                env.seed(algorithm.seed + algorithm.num_timesteps)  # not the episodes of the beginning again
        observations = env.reset()  # makes what environments make on their first reset
        if self.environment is not None:
            environment_state.restore(env, self.environment)
        else:
            algorithm._last_obs = observations  # type: ignore[assignment]
            algorithm._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        for name, (value, count, excluded) in self.log.items():
            algorithm.logger.name_to_value[name] = value
            algorithm.logger.name_to_count[name] = count
            algorithm.logger.name_to_excluded[name] = excluded
        set_generators(self.generators)


def generator_states() -> dict[str, Any]:
    """States of the global generators of Python, numpy and torch."""
    states = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "torch": th.get_rng_state(),
    }
    if th.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = th.cuda.get_rng_state_all()
    return states


def set_generators(states: Mapping[str, Any]) -> None:
    """Have the global generators go on from ``states``."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    th.set_rng_state(states["torch"])
    if "cuda" in states and th.cuda.is_available():
        th.cuda.set_rng_state_all(states["cuda"])


def pending_log(algorithm: "ResumableAlgorithm") -> dict[str, Any]:
    """Recorded since the log was last written: name -> value, how many it is the mean of, where it is left out.

    A signal may come while something is being recorded, which has then not been.
    """
    logger = getattr(algorithm, "_logger", None)
    if logger is None:
        return {}
    return {
        name: (value, logger.name_to_count[name], logger.name_to_excluded[name])
        for name, value in list(logger.name_to_value.items())
        if isinstance(value, int | float | str | np.number) and name in logger.name_to_excluded
    }
