"""Trials of one study, run by many processes: who is next, who has died, and when it is enough.

Every process asks the study for its next trial and shows, by a heartbeat, that it lives. The others notice when a
heartbeat stops, and the trial is run again: same parameters, and what it has already found out is kept.
"""

import contextlib
import copy
import multiprocessing
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sb3_trpo.zoo.processes import let_arrive, postponing_signals, undisturbed

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
MAX_RETRIES = 3
"""Times that a trial whose worker died is run again: parameters that kill their worker do not do so for ever."""

WORKER = "worker"
"""User attribute of a trial: ``host:pid`` of the process that runs it, set as soon as it begins."""
FAILURE = "failure"
"""User attribute of a trial: why it was pruned or failed, where it was not the pruner's doing."""
SURPLUS = "surplus"
"""Failure of a trial that was one too many."""
INTERRUPTED = "interrupted"
"""Failure of a trial that was given back to the queue."""

Objective = Callable[[optuna.Trial], float]
OnTrial = Callable[[optuna.Study, FrozenTrial], None]


def run_trials(
    study: optuna.Study,
    database: RDBStorage,
    objective: Objective,
    n_trials: int,
    timeout: float | None = None,
    on_trial: OnTrial | None = None,
) -> None:
    """Run trials until ``n_trials`` of the study have finished, by whomever.

    When only trials of other workers are left it waits: one of them may die, and then its trial is run here.

    :param database: the storage of ``study``, with heartbeats
    :param timeout: seconds after which no trial is begun
    :param on_trial: told of each trial that was run here
    """
    dead = DeadTrials(study, database.grace_period or 60)
    interval = database.heartbeat_interval or 10
    ends = time.monotonic() + (np.inf if timeout is None else timeout)
    while count(study, *FINISHED) < n_trials and time.monotonic() < ends:
        end_with_parent()
        dead.take_over()
        if count(study, *FINISHED, TrialState.RUNNING) >= n_trials:
            time.sleep(min(interval, 2))
            continue
        trial = run_next(study, database, objective, n_trials)
        if trial is not None and on_trial is not None:
            on_trial(study, trial)


def run_next(study: optuna.Study, database: RDBStorage, objective: Objective, n_trials: int) -> FrozenTrial | None:
    """Run one trial and return it; None when it was one too many, or was taken over by others in the meantime.

    An interrupted trial waits to be run again. One with an error fails, and the error goes on.
    """
    value, state = None, None
    with postponing_signals() as signals:  # a trial begun and not returned would be nobody's
        trial = ask(study)
    try:
        let_arrive(signals)
        with heartbeat(database, trial._trial_id):
            trial.set_user_attr(WORKER, worker_name())
            if is_surplus(study, trial.number, n_trials):
                trial.set_user_attr(FAILURE, SURPLUS)
                return_to_queue(study, frozen(study, trial.number), by_accident=False)
                return None
            try:
                value = objective(trial)
            except optuna.TrialPruned:
                state = TrialState.PRUNED
        return study.tell(trial, value, state, skip_if_finished=True)
    except UpdateFinishedTrialError:  # we were asleep, others took us for dead: it is theirs now
        return None
    except KeyboardInterrupt:
        # What hinders us here, others make good when they notice that the heart has stopped.
        with undisturbed(), contextlib.suppress(StorageInternalError, SQLAlchemyError, UpdateFinishedTrialError):
            trial.set_user_attr(FAILURE, INTERRUPTED)
            return_to_queue(study, frozen(study, trial.number), by_accident=False)
        raise
    except Exception as error:
        with contextlib.suppress(Exception):  # the reason matters more than the record of it
            trial.set_user_attr(FAILURE, f"{type(error).__name__}: {error}")
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise


def ask(study: optuna.Study) -> optuna.Trial:
    """Begin the next trial: one that waits, else a new one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Heartbeat of storage")  # ours beats without Study.optimize
        return study.ask()


def count(study: optuna.Study, *states: TrialState) -> int:
    """Trials of the study in one of ``states``."""
    return len(study.get_trials(deepcopy=False, states=states))


def frozen(study: optuna.Study, number: int) -> FrozenTrial:
    """What the storage knows of a trial."""
    return study.get_trials(deepcopy=False)[number]


def worker_name() -> str:
    """``host:pid`` of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_surplus(study: optuna.Study, number: int, n_trials: int) -> bool:
    """Whether trial ``number`` is one too many.

    Two workers may both see one trial left and both begin one. Numbers are given out by the storage, so all of them
    agree which came first: trials count in the order of their numbers, those that wait included, failed ones left out.
    """
    counted = study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING, TrialState.WAITING))
    return sum(trial.number < number for trial in counted) >= n_trials


def return_to_queue(study: optuna.Study, trial: FrozenTrial, by_accident: bool = True) -> None:
    """Fail a running trial, and have it run again if anything about it was settled.

    :param by_accident: whether its worker died, which is tried `MAX_RETRIES` times only
    """
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):  # somebody else was faster
        return
    if trial.params or "fixed_params" in trial.system_attrs:
        _run_again(study, trial, MAX_RETRIES if by_accident else None)


def run_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue the trial of a dead worker: told by the storage, which has failed it."""
    _run_again(study, trial, MAX_RETRIES)


def return_trials_of(study: optuna.Study, worker: str) -> None:
    """Have the trials of a worker that is known to be dead run again, without waiting for its heartbeat to stop."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get(WORKER) == worker:
            return_to_queue(study, trial)


class DeadTrials:
    """The trials of dead workers: those whose heartbeat stopped, and those killed before the first."""

    def __init__(self, study: optuna.Study, grace_period: float):
        self._study, self._patience = study, 2 * grace_period
        self._seen: dict[int, float] = {}  # trials that nobody had begun when we saw them, on our own clock

    def take_over(self) -> None:
        """Have them run again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self._study)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if WORKER not in trial.user_attrs:
                since = self._seen.setdefault(trial.number, time.monotonic())
                if time.monotonic() - since > self._patience:
                    return_to_queue(self._study, trial)


@contextlib.contextmanager
def heartbeat(database: RDBStorage, trial_id: int) -> Iterator[None]:
    """Show that a trial is alive; differs from Optuna's in that it survives a database that is away for a while."""
    done = threading.Event()
    database.record_heartbeat(trial_id)

    def beat() -> None:
        while not done.wait(database.heartbeat_interval or 10):
            with contextlib.suppress(StorageInternalError, SQLAlchemyError):
                database.record_heartbeat(trial_id)
        database.remove_session()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def end_with_parent() -> None:
    """Interrupt a worker process whose parent has died; its trial goes to another."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise KeyboardInterrupt


def _run_again(study: optuna.Study, trial: FrozenTrial, max_retry: int | None) -> None:
    again = copy.deepcopy(trial)
    # Whoever runs it next has not begun: it must not look as if the old worker had.
    again.user_attrs = {key: value for key, value in trial.user_attrs.items() if key not in (WORKER, FAILURE)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback(max_retry)(study, again)
