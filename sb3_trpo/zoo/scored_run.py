"""One run of a benchmark: trained, evaluated, and turned into rows of the table of scores."""

import importlib
import platform
import time
from collections.abc import Sequence

from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo.evaluation.scores import Score
from sb3_trpo.evaluation.statistics import iqm
from sb3_trpo.zoo.algorithms import algorithm_class
from sb3_trpo.zoo.benchmark_worker import Report
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.evaluations import Evaluation
from sb3_trpo.zoo.grid import Run
from sb3_trpo.zoo.training import hush_mujoco, train_and_evaluate, use_threads

REPORT_EVERY = 0.5
"""Seconds between two reports of the step."""


def scored_run(run: Run, report: Report) -> list[Score]:
    """Make a run on one thread; ``report`` is told how far it is, and of each evaluation.

    :raises UsageError: when it cannot be built, ended early, or has a return that is not finite
    """
    hush_mujoco()
    use_threads(1)
    reports = _Reports(report)
    evaluations = train_and_evaluate(
        run.algo,
        run.env,
        run.hyperparams,
        seed=run.seed,
        n_timesteps=run.n_timesteps,
        eval_freq=run.eval_freq,
        n_eval_episodes=run.n_eval_episodes,
        on_evaluation=reports.on_evaluation,
        callbacks=[reports],
    )
    return to_scores(run, evaluations)


def to_scores(run: Run, evaluations: Sequence[Evaluation]) -> list[Score]:
    """The rows of a run.

    :raises UsageError: when it ended early, or a return is not finite
    """
    if not evaluations or evaluations[-1].step < run.n_timesteps:
        steps = evaluations[-1].step if evaluations else 0
        raise UsageError(f"training ended after {steps:,} of {run.n_timesteps:,} steps: leave out what stops it early")
    return [to_score(run, evaluation) for evaluation in evaluations]


def to_score(run: Run, evaluation: Evaluation) -> Score:
    """The row of one evaluation.

    :raises UsageError: when a return is not finite
    """
    algorithm = algorithm_class(run.algo)
    try:
        interquartile_mean = iqm(evaluation.returns)
    except ValueError:
        raise UsageError(f"evaluation after {evaluation.step:,} steps: returns {evaluation.returns}") from None
    return Score(
        env=run.env,
        algo=algorithm.__name__,
        implementation=run.implementation,
        seed=run.seed,
        step=evaluation.step,
        eval_mean=round(evaluation.mean, 6),
        eval_std=round(float(evaluation.returns.std()), 6),
        eval_iqm=round(interquartile_mean, 6),
        n_episodes=len(evaluation.returns),
        train_return=round(evaluation.train_return, 6),
        wall_s=round(evaluation.wall_s, 3),
        config_hash=run.config_hash,
        versions=versions(algorithm),
    )


def versions(algorithm: type) -> str:
    """Versions of what made a run, the algorithm's own package among them."""
    packages = ["sb3_trpo", "torch", "stable_baselines3", "gymnasium", algorithm.__module__.partition(".")[0]]
    known = {name: getattr(importlib.import_module(name), "__version__", None) for name in packages}
    known["python"] = ".".join(platform.python_version_tuple()[:2])
    return "; ".join(f"{name} {version}" for name, version in known.items() if version is not None)


class _Reports(BaseCallback):
    """Tells of steps now and then, and of evaluations as soon as they are made."""

    def __init__(self, report: Report):
        super().__init__()
        self.report = report
        self.eval_mean: float | None = None
        self.due = 0.0

    def _on_step(self) -> bool:
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + REPORT_EVERY
            self.report(self.num_timesteps, self.eval_mean)
        return True

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Remember it, for the reports of steps that follow."""
        self.eval_mean = evaluation.mean
        self.report(evaluation.step, evaluation.mean)
