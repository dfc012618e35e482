"""What is seen of a search while it runs: a line for each finished trial, and how far the study has come."""

import contextlib
import threading
import time
from collections.abc import Iterable
from types import TracebackType

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from sb3_trpo.zoo.console import stderr
from sb3_trpo.zoo.studies import FAILURE, FINISHED, SURPLUS
from sb3_trpo.zoo.trials import best_trial

NAMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class TuningDisplay:
    """Watches a study from a thread of its own, so that trials of other processes and machines are seen too.

    Where the terminal is not interactive, only the lines are printed.

    :param study: opened for this object alone
    """

    def __init__(self, study: optuna.Study, n_trials: int, console: Console | None = None, every: float = 1.0):
        self._study, self._n_trials, self._every = study, n_trials, every
        self._console = console or stderr
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task(study.study_name, total=n_trials, state="", left="")
        self._seen: set[int] = set()
        self._before = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="display", daemon=True)

    def __enter__(self) -> "TuningDisplay":
        trials = self._study.get_trials(deepcopy=False)
        self._seen = {trial.number for trial in trials if trial.state.is_finished()}
        self._before = sum(trial.state in FINISHED for trial in trials)
        self._began = time.monotonic()
        if self._before:
            self.say(f"{self._study.study_name}: {self._before} of {self._n_trials} trials were finished before")
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # a database that failed is told of by who works with it
            self.update()
        self._bar.stop()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, markup=False)

    def update(self) -> None:
        """Show what the study holds now."""
        trials = self._study.get_trials(deepcopy=False)
        best = _best(self._study)
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._seen:
                self._seen.add(trial.number)
                if trial.user_attrs.get(FAILURE) != SURPLUS:
                    self.say(trial_line(trial, best))
        finished = sum(trial.state in FINISHED for trial in trials)
        here, seconds = finished - self._before, time.monotonic() - self._began
        left = (
            f"about {_duration(seconds / here * (self._n_trials - finished))} to go"
            if here > 0 and finished < self._n_trials
            else ""
        )
        self._bar.update(self._task, completed=min(finished, self._n_trials), state=state_line(trials, best), left=left)

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            with contextlib.suppress(Exception):  # it may answer the next time
                self.update()
        self._study._storage.remove_session()


def trial_line(trial: FrozenTrial, best: FrozenTrial | None = None) -> str:
    """``trial 7   complete   -163.2  3 runs, 12 s``, and what is special about it."""
    n_runs = trial.user_attrs.get("n_runs", 0)
    value = "" if trial.value is None else f"{trial.value:.4g}"
    seconds = "" if trial.duration is None else f", {_duration(trial.duration.total_seconds())}"
    remark = trial.user_attrs.get(FAILURE, "its worker died" if trial.state == TrialState.FAIL else "")
    if best is not None and trial.number == best.number:
        remark = "best so far"
    elif best is not None and trial.state == TrialState.COMPLETE and n_runs < best.user_attrs.get("n_runs", 0):
        remark = "ended early"
    runs = f"{n_runs} run{'s' * (n_runs != 1)}{seconds}"
    return f"trial {trial.number:<4} {NAMES.get(trial.state, ''):<9}{value:>10}  {runs:<16}{remark}".rstrip()


def state_line(trials: Iterable[FrozenTrial], best: FrozenTrial | None) -> str:
    """``best -163.2 (trial 7) · 2 running · 3 pruned · 1 failed``."""
    words = [] if best is None or best.value is None else [f"best {best.value:.4g} (trial {best.number})"]
    states = [trial.state for trial in trials if trial.user_attrs.get(FAILURE) != SURPLUS]
    for state, name in ((TrialState.RUNNING, "running"), (TrialState.PRUNED, "pruned"), (TrialState.FAIL, "failed")):
        if state in states:
            words.append(f"{states.count(state)} {name}")
    return " · ".join(words)


def _best(study: optuna.Study) -> FrozenTrial | None:
    with contextlib.suppress(ValueError):
        return best_trial(study)
    return None


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
