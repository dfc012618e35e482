"""Search for hyperparameters: a study that can be stopped, resumed, and joined by other processes and machines.

.. code-block:: python

    from sb3_trpo.zoo.tuning import tune

    if __name__ == "__main__":  # worker processes import this file
        result = tune("Pendulum-v1", n_trials=50, n_jobs=2)
        print(result.hyperparams)
"""

import contextlib
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import URL

from sb3_trpo.zoo.confirmation import confirm as confirm_trials
from sb3_trpo.zoo.confirmation import confirm_runs, runs_to_confirm
from sb3_trpo.zoo.console import console, stderr
from sb3_trpo.zoo.databases import plain_errors
from sb3_trpo.zoo.errors import UsageError, whole
from sb3_trpo.zoo.hyperparams import Hyperparams
from sb3_trpo.zoo.processes import sigterm_interrupts
from sb3_trpo.zoo.searches import SCORES, Search, Space, make_search, moved
from sb3_trpo.zoo.studies import FINISHED, count, return_trials_of
from sb3_trpo.zoo.trials import best_trial, open_study, run_trial, tried, work
from sb3_trpo.zoo.tuning_display import TuningDisplay
from sb3_trpo.zoo.tuning_report import dashboard, write_report
from sb3_trpo.zoo.workers import Job, one_thread, run_workers

__all__ = [
    "SCORES",
    "Search",
    "Space",
    "TuningResult",
    "best_trial",
    "make_search",
    "open_study",
    "run_trial",
    "tune",
    "work",
]

CONFIRMATION_SEEDS = 5
"""Fresh seeds on which the best trials are run again."""


@dataclass(frozen=True)
class TuningResult:
    """What a search has found so far.

    :param n_finished: trials of the study that have finished, whoever ran them
    :param interrupted: whether it was ended by Ctrl-C or SIGTERM; the same call goes on
    :param trial: number of the trial that was chosen; None, as what follows, where none ran to its end
    :param value: its score, and ``baseline`` that of the entry that the search started from
    :param hyperparams: its entry, as in ``best.yml``
    :param files: what was written, in ``folder``
    """

    study_name: str
    folder: Path
    n_finished: int
    interrupted: bool
    trial: int | None = None
    value: float | None = None
    baseline: float | None = None
    hyperparams: Hyperparams | None = None
    files: list[Path] = field(default_factory=list)


def tune(
    env_id: str,
    algo: str = "trpo",
    *,
    n_trials: int = 50,
    storage: str | None = None,
    study_name: str | None = None,
    n_jobs: int = 1,
    timeout: float | None = None,
    folder: str | Path | None = None,
    confirm: int = 0,
    packages: Sequence[str] = (),
    **settings: Any,
) -> TuningResult:
    """Search until ``n_trials`` of the study have finished, and write what was found into ``folder``.

    Called again, here or on another machine with the same storage, it goes on where the study is. Ctrl-C ends it: what
    has been run is kept, and written too.

    :param n_trials: trials of the study in all, whoever runs them
    :param storage: database URL, by default an SQLite file ``study.db`` in the folder
    :param study_name: ``ALGO-ENV`` by default
    :param n_jobs: worker processes; one is this process
    :param timeout: seconds after which no trial is begun
    :param folder: ``runs/tune/ALGO-ENV`` by default
    :param confirm: how many of the best trials are run again on `CONFIRMATION_SEEDS` fresh seeds before one is chosen
    :param packages: modules for worker processes to import first, such as those that register environments
    :param settings: further arguments of `make_search`
    :raises UsageError: for an argument that cannot be used, a storage that fails, or a study with another purpose
    """
    for name, value, least in (("n_trials", n_trials, 1), ("n_jobs", n_jobs, 1), ("confirm", confirm, 0)):
        whole(name, value, least)
    if timeout is not None and not 0 <= timeout < math.inf:
        raise UsageError(f"timeout={timeout!r} must be a number of seconds >= 0")
    search = make_search(env_id, algo, **settings)
    name = f"{algo}-{env_id}".replace("/", "-").replace(":", "-")
    place = Path(folder) if folder is not None else Path("runs") / "tune" / name
    url = storage or URL.create("sqlite", database=str(place / "study.db")).render_as_string()
    if storage is None:
        _make_folder(place)
    session = _Session(search, url, study_name or name, place, n_jobs, tuple(packages))
    for sentence in moved(search):
        stderr.print(sentence, markup=False)
    _make_folder(place)  # a storage that does not answer leaves none behind
    interrupted = False
    with plain_errors(url), sigterm_interrupts():
        try:
            session.search(n_trials, timeout)
            if confirm > 0:
                session.confirm(confirm)
        except KeyboardInterrupt:
            interrupted = True
    with plain_errors(url):
        return session.report(interrupted, n_trials)


class _Session:
    """One call of `tune`: a search by some processes, and what is said of it."""

    def __init__(self, search: Search, url: str, study_name: str, folder: Path, n_jobs: int, packages: tuple[str, ...]):
        self._search, self._url, self._name, self._folder = search, url, study_name, folder
        self._n_jobs, self._packages = n_jobs, packages
        self._study = self._open()

    def search(self, n_trials: int, timeout: float | None) -> None:
        """Run trials."""
        if count(self._study, *FINISHED) >= n_trials:
            return
        share = (self._search, self._url, self._name, n_trials, timeout)
        with TuningDisplay(self._open(), n_trials) as display:
            if self._n_jobs == 1:
                with one_thread():
                    work(*share)
            elif not self._run([Job(work, share)] * self._n_jobs, display.say) and (
                count(self._study, *FINISHED) < n_trials and timeout is None
            ):
                raise UsageError(f"the workers ended before the search did, see the logs in {self._folder}")

    def confirm(self, top: int) -> None:
        """Run the best trials again."""
        runs = runs_to_confirm(self._search, self._study, top, CONFIRMATION_SEEDS)
        if runs:
            stderr.print(f"confirming: {len(runs)} runs on fresh seeds")
        if self._n_jobs > 1 and runs:
            shares = [runs[first :: self._n_jobs] for first in range(self._n_jobs)]
            jobs = [Job(confirm_runs, (self._search, self._url, self._name, share)) for share in shares if share]
            self._run(jobs, lambda text: stderr.print(text, markup=False))

        def told(number: int, seed: int, score: float) -> None:
            stderr.print(f"trial {number}, seed {seed}: {score:.4g}")

        with one_thread():  # what is left, if anything
            confirm_trials(self._search, self._study, top, CONFIRMATION_SEEDS, on_run=told)

    def report(self, interrupted: bool, n_trials: int) -> TuningResult:
        """Write what was found, and say it."""
        finished = count(self._study, *FINISHED)
        if interrupted:
            stderr.print(f"interrupted after {finished} of {n_trials} trials; the same command goes on", markup=False)
        result = TuningResult(self._name, self._folder, finished, interrupted)
        if finished == 0:
            return result
        files, notes, choice = write_report(self._search, self._study, self._folder)
        for note in notes:
            stderr.print(note, markup=False)
        for file in files:
            console.print(str(file), markup=False)
        console.print(f"look closer: {dashboard(self._url)}", markup=False)
        if choice is None:
            return replace(result, files=files)
        begun = "" if choice.baseline is None else f", where the search began {choice.baseline:.4g}"
        console.print(
            f"best of {finished}: trial {choice.trial.number}, {self._search.score} return {choice.value:.4g}{begun}",
            markup=False,
        )
        entry = tried(self._search, choice.trial)
        return TuningResult(
            self._name, self._folder, finished, interrupted,
            choice.trial.number, choice.value, choice.baseline, entry, files,
        )  # fmt: skip

    def _run(self, jobs: Sequence[Job], say: Callable[[str], None]) -> bool:
        return run_workers(jobs, say, self._bury, self._folder, self._packages)

    def _bury(self, worker: str) -> None:
        with contextlib.suppress(Exception):  # else its heartbeat tells
            return_trials_of(self._study, worker)

    def _open(self) -> optuna.Study:
        return open_study(self._search, self._url, self._name)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"folder {str(folder)!r} cannot be written to: {error.strerror or error}") from error
