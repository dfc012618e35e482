"""What happens beside a training: checkpoints, the best model, the table of evaluations, a progress bar."""

import time
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo.callbacks.averaged import AveragedPolicy, evaluated
from sb3_trpo.callbacks.multiples import has_passed_multiple
from sb3_trpo.evaluation.scores import Score, read_scores, write_scores
from sb3_trpo.zoo.console import progress_bar
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.evaluations import Evaluation
from sb3_trpo.zoo.files import replacing
from sb3_trpo.zoo.runs import SCORES, Run, save_checkpoint


class Saver(BaseCallback):
    """Checkpoints between two updates, the best model, and the evaluations: ``evaluations.npz`` as RL Zoo's plots read
    it, ``scores.csv`` for ours.

    :param run: whose folder they are saved in
    :param row: an evaluation as a row of the table of scores
    :param save_freq: steps between checkpoints, 0 for none
    :param say: told of each evaluation in a line
    :param averaged: the average of the policies that is evaluated, to be saved as the best model and at the end
    """

    def __init__(
        self,
        run: Run,
        row: Callable[[Evaluation], Score],
        save_freq: int,
        say: Callable[[str], None] | None = None,
        averaged: AveragedPolicy | None = None,
    ):
        super().__init__()
        self.run, self.row, self.save_freq, self.say, self.averaged = run, row, save_freq, say, averaged
        self.evaluations: list[tuple[int, Any, Any]] = []
        self.scores: list[Score] = []
        self.best = -np.inf
        self.seconds_before = 0.0

    @property
    def last_evaluated(self) -> int:
        """Step of the last evaluation, 0 if there is none."""
        return self.evaluations[-1][0] if self.evaluations else 0

    def _on_training_start(self) -> None:
        self.last_saved = self.num_timesteps

    def _on_rollout_start(self) -> None:
        if has_passed_multiple(self.save_freq, self.last_saved, self.num_timesteps):
            self.last_saved = self.num_timesteps
            save_checkpoint(self.model, self.run.checkpoint(self.num_timesteps))

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self.averaged is not None:
            save_checkpoint(self.averaged.averaged_model, self.run.averaged)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Keep an evaluation, and the model if it is the best so far."""
        # A run that goes on and is stopped before its first step is evaluated where it was evaluated before.
        self.scores = [score for score in self.scores if score.step != evaluation.step]
        self.evaluations = [row for row in self.evaluations if row[0] != evaluation.step]
        self.scores.append(self.row(evaluation._replace(wall_s=self.seconds_before + evaluation.wall_s)))
        write_scores(self.run.folder / SCORES, self.scores)
        self.evaluations.append((evaluation.step, evaluation.returns, evaluation.lengths))
        timesteps, results, lengths = map(np.array, zip(*self.evaluations, strict=True))
        with replacing(self.run.folder / "evaluations.npz") as temporary:
            np.savez(temporary, timesteps=timesteps, results=results, ep_lengths=lengths)
        if self.say is not None:
            self.say(f"{evaluation.step:,} steps: return {evaluation.mean:.1f} ± {evaluation.returns.std():.1f}")
        if evaluation.mean > self.best:
            self.best = evaluation.mean
            save_checkpoint(evaluated(self.model, self.averaged), self.run.best)

    def go_on_from(self, step: int) -> None:
        """Read the evaluations up to the checkpoint that the run goes on from; those after it are made again."""
        evaluations, scores = read_evaluations(self.run)
        # of the model that is there, be it from after the checkpoint
        self.best = max((float(returns.mean()) for _, returns, _ in evaluations), default=-np.inf)
        self.evaluations = [row for row in evaluations if row[0] <= step]
        self.scores = [score for score in scores if score.step <= step]
        self.seconds_before = max((score.wall_s for score in self.scores), default=0.0)


def read_evaluations(run: Run) -> tuple[list[tuple[int, Any, Any]], list[Score]]:
    """What a `Saver` wrote: step, returns and lengths of each evaluation, and the table of scores.

    :raises UsageError: when they are there and cannot be read
    """
    try:
        with np.load(run.folder / "evaluations.npz") as saved:
            columns = (saved["timesteps"].tolist(), saved["results"], saved["ep_lengths"])
        return [*zip(*columns, strict=True)], read_scores(run.folder / SCORES)
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"evaluations of {run.folder} cannot be read: {error}") from error


class TrainingBar(BaseCallback):
    """A progress bar with the returns of training and evaluation."""

    def __init__(self, title: str, total: int, disable: bool = False):
        super().__init__()
        self.progress = progress_bar("returns", disable=disable)
        self.task = self.progress.add_task(title, total=total, returns="")
        self.total = total
        self.shown = 0.0

    def _on_training_start(self) -> None:
        self.progress.start()

    def _on_step(self) -> bool:
        if time.monotonic() - self.shown > 0.2:
            self.shown = time.monotonic()
            episodes = self.model.ep_info_buffer
            returns = f"return {np.mean([episode['r'] for episode in episodes]):.1f}" if episodes else ""
            self.progress.update(self.task, completed=min(self.num_timesteps, self.total), returns=returns)
        return True

    def __enter__(self) -> "TrainingBar":
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar as it is."""
        self.progress.update(self.task, completed=min(self.num_timesteps, self.total))
        self.progress.stop()
