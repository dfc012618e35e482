"""Checkpoints from which a training goes on bit for bit, also when a signal ends it."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sb3_trpo.algorithms.arguments import check_integer
from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm
from sb3_trpo.callbacks.multiples import has_passed_multiple
from sb3_trpo.callbacks.signals import SIGNALS, EndedBySignals, Interrupted, SignalWatch


class Checkpoints(EndedBySignals):
    """Saves the model between two updates, every ``save_freq`` environment steps and when a signal ends the training.

    .. code-block:: python

        checkpoints = Checkpoints("checkpoints", save_freq=50_000)
        TRPO("MlpPolicy", env).learn(1_000_000, checkpoints)

        # in another process
        model = TRPO.load(checkpoints.latest("checkpoints"), env=env, force_reset=False)
        model.learn(model.timesteps_left, checkpoints, reset_num_timesteps=False)

    The training that goes on is the one that was not interrupted: the same weights, the same log. SIGTERM and SIGUSR1
    are noticed in rollouts, updates and at the start of evaluations; one checkpoint is written, of the state before the
    rollout that they end, and the process exits with code 143. A second signal ends it at once. Files are there whole
    or not at all.

    :param save_path: folder of the checkpoints, made if it does not exist
    :param save_freq: environment steps between two, counted over all environments; 0 for signals only
    :param name_prefix: of the files, ``rl_model_50000_steps.zip``, as in Stable-Baselines3
    :param keep: how many of the newest stay, None for all
    :param signals: that end the training, () for none
    :raises ValueError: for a number out of range
    """

    def __init__(
        self,
        save_path: str | Path,
        save_freq: int = 0,
        name_prefix: str = "rl_model",
        keep: int | None = None,
        signals: Iterable[int] = SIGNALS,
        verbose: int = 0,
    ):
        super().__init__(SignalWatch(signals), verbose)
        check_integer("save_freq", save_freq, 0)
        if keep is not None:
            check_integer("keep", keep, 1)
        self.save_path, self.save_freq, self.name_prefix, self.keep = Path(save_path), save_freq, name_prefix, keep

    model: TrustRegionAlgorithm

    @classmethod
    def latest(cls, save_path: str | Path, name_prefix: str = "rl_model") -> Path:
        """The newest checkpoint in a folder.

        :raises FileNotFoundError: when there is none
        """
        found = _checkpoints(Path(save_path), name_prefix)
        if not found:
            raise FileNotFoundError(f"{save_path} holds no checkpoint named {name_prefix}_N_steps.zip")
        return found[-1]

    def _init_callback(self) -> None:
        if not isinstance(self.model, TrustRegionAlgorithm):
            raise TypeError(
                f"Checkpoints are of algorithms of sb3_trpo, and this is {type(self.model).__name__}: use "
                "CheckpointCallback of stable_baselines3"
            )

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.save_path.mkdir(parents=True, exist_ok=True)  # now, and not at the end, if it cannot be made
        self.model.while_learning.enter_context(self._ended_by_signals())
        self._last = self.num_timesteps

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        if has_passed_multiple(self.save_freq, self._last, self.num_timesteps):
            self._last = self.num_timesteps
            self._save()

    @contextmanager
    def _ended_by_signals(self) -> Iterator[None]:
        """While `learn` runs."""
        with self.watch:
            try:
                yield
            except Interrupted as interrupted:
                self.watch.raises_at_once = False
                self._save()
                raise SystemExit(interrupted.exit_code) from None

    def _save(self) -> None:
        step = self.model.resumes_at
        path = self.save_path / f"{self.name_prefix}_{step}_steps.zip"
        self.model.save(path)
        if self.verbose:
            print(f"checkpoint {path}")
        if self.keep is not None:
            for old in _checkpoints(self.save_path, self.name_prefix)[: -self.keep]:
                old.unlink(missing_ok=True)


def _checkpoints(folder: Path, name_prefix: str) -> list[Path]:
    """By step."""
    pattern = re.compile(re.escape(name_prefix) + r"_(\d+)_steps\.zip")
    found: list[tuple[int, Any]] = [
        (int(match[1]), path) for path in folder.glob("*.zip") if (match := pattern.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]
