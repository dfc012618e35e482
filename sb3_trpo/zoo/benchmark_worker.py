"""The process that makes one run of a benchmark, and what it tells the process that started it."""

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from filelock import Timeout

from sb3_trpo.evaluation import scores
from sb3_trpo.evaluation.scores import Score
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.grid import Run
from sb3_trpo.zoo.score_table import ScoreTable

Report: TypeAlias = Callable[[int, float | None], None]
"""Told of the step that training has come to, and of the mean of the last evaluation, None before the first."""

MakeRun: TypeAlias = Callable[[Run, Report], list[Score]]
"""What makes a run and returns its rows."""


class Seen(NamedTuple):
    """What a `Report` was told."""

    step: int
    eval_mean: float | None


class Ended(NamedTuple):
    """The last word of a worker.

    done: the rows are in the table. busy: another process is making the run. failed: training did, the log has the
    traceback. unsaved: the table could not be read or written.
    """

    outcome: Literal["done", "busy", "failed", "unsaved"]
    reason: str = ""


def work(
    run: Run,
    folder: Path,
    order: Sequence[scores.Run],
    channel: Connection,
    make: MakeRun | None = None,
    packages: Sequence[str] = (),
) -> None:
    """Make a run and put its rows into the table, unless another process is doing so or has done it.

    :param folder: of the benchmark
    :param order: of the table, see `ScoreTable`
    :param channel: takes `Seen` now and then, and `Ended` as the last
    :param make: `scored_run` by default
    :param packages: modules to import first
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _end_with_parent()
    table = ScoreTable(folder, order)
    try:
        with table.lock(run).acquire(timeout=1):
            # Somebody may have made it between the parent's look at the table and this lock.
            ended = Ended("done") if table.final_row(run) is not None else _make(run, table, channel, make, packages)
            _tell(channel, ended)
    except Timeout:
        _tell(channel, Ended("busy"))
    except UsageError as error:
        _tell(channel, Ended("unsaved", str(error)))
    except OSError as error:  # of the lock or the log
        _tell(channel, Ended("failed", f"{error.filename or folder}: {error.strerror or error}"))


def _make(run: Run, table: ScoreTable, channel: Connection, make: MakeRun | None, packages: Sequence[str]) -> Ended:
    def report(step: int, eval_mean: float | None) -> None:
        _tell(channel, Seen(step, eval_mean))

    report(0, None)
    with table.log(run).open("a", encoding="utf-8", buffering=1) as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
        print(f"started {time.strftime('%Y-%m-%d %H:%M:%S')}: {run}, process {os.getpid()}", file=log)
        try:
            for package in packages:
                importlib.import_module(package)
            rows = (_scored_run if make is None else make)(run, report)
        except Exception as error:  # whatever an algorithm or an environment raises
            traceback.print_exc(file=log)
            kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
            return Ended("failed", kind + " ".join(str(error).split()))
        table.replace(run, rows)
        print(f"finished {time.strftime('%Y-%m-%d %H:%M:%S')}", file=log)
    return Ended("done")


def _scored_run(run: Run, report: Report) -> list[Score]:
    from sb3_trpo.zoo.scored_run import scored_run  # loads torch, which a worker that finds the run taken does not need

    return scored_run(run, report)


def _tell(channel: Connection, message: Seen | Ended) -> None:
    """Send to the parent; if that is gone, this process ends anyway."""
    with contextlib.suppress(OSError):
        channel.send(message)


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended, be it killed: nobody is left to stop it."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
