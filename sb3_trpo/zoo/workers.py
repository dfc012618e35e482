"""Worker processes: started afresh with one thread each, ended without leaving half a trial behind, replaced when
something kills them.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from sb3_trpo.zoo.processes import environment_of_workers, sigterm_interrupts
from sb3_trpo.zoo.training import hush_mujoco

END_SECONDS = 20
"""How long an interrupted worker may take to hand back its trial."""
REPLACEMENTS = 3
"""How many workers are started for one that was killed: what kills every worker does not do so for ever."""


class Job(NamedTuple):
    """What a worker process does."""

    function: Callable[..., None]
    arguments: tuple[Any, ...]


def run_workers(
    jobs: Sequence[Job],
    say: Callable[[str], None],
    on_death: Callable[[str], None],
    log_folder: Path,
    packages: Sequence[str] = (),
) -> bool:
    """Run each job in a process of its own until all have ended; whether none of them failed.

    :param say: told of workers that failed or were killed, in a sentence
    :param on_death: told the ``host:pid`` of each worker that was killed, before it is replaced
    :param log_folder: what a worker prints goes to ``worker_N.log`` there
    :param packages: modules to import first, such as those that register environments
    """
    workers = [_Worker(number, job, log_folder, packages) for number, job in enumerate(jobs, 1)]
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive for worker in workers):
            time.sleep(0.1)
            for worker in workers:
                worker.look_after(say, on_death)
    except KeyboardInterrupt:
        say("ending the workers; their trials are kept")
        _end(workers)
        raise
    finally:
        for worker in workers:
            worker.close()
    return not any(worker.failed for worker in workers)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and for numpy's linear algebra: fastest for the small networks of control tasks."""
    import torch as th
    from threadpoolctl import threadpool_limits

    before = th.get_num_threads()
    th.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        th.set_num_threads(before)


class _Worker:
    """A process that does one job, and its successors."""

    def __init__(self, number: int, job: Job, log_folder: Path, packages: Sequence[str]):
        self.number, self.job, self.packages = number, job, packages
        self.log = log_folder / f"worker_{number}.log"
        self.failed = self.is_alive = False
        self._context = multiprocessing.get_context("spawn")
        self._replaced = 0

    def start(self) -> None:
        self._reasons, theirs = self._context.Pipe(duplex=False)
        self.process: BaseProcess = self._context.Process(
            target=_main, args=(self.job, theirs, self.log, tuple(self.packages)), daemon=True
        )
        with environment_of_workers():
            self.process.start()
        theirs.close()
        self.is_alive = True

    def look_after(self, say: Callable[[str], None], on_death: Callable[[str], None]) -> None:
        """Note how it ended, and replace it when it was killed."""
        if not self.is_alive or self.process.is_alive():
            return
        self.is_alive = False
        code = self.process.exitcode or 0
        if code < 0:
            name = signal.Signals(-code).name
            on_death(f"{socket.gethostname()}:{self.process.pid}")
            self._replaced += 1
            if self._replaced <= REPLACEMENTS:
                say(f"worker {self.number} was killed by {name}: another goes on with its trial")
                self.start()
                return
            say(f"worker {self.number} was killed by {name}, as {REPLACEMENTS} before it: no other is started")
        elif code > 0:
            reason = _received(self._reasons) or f"exit code {code}"
            say(f"worker {self.number} ended: {reason} (see {self.log})")
        self.failed |= code != 0

    def close(self) -> None:
        """Take away the log of a worker that had nothing to say."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size == 0:
                self.log.unlink()


def _main(job: Job, reasons: Connection, log: Path, packages: tuple[str, ...]) -> None:
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    try:
        with sigterm_interrupts():
            for package in packages:
                importlib.import_module(package)
            hush_mujoco()
            with one_thread():
                job.function(*job.arguments)
    except KeyboardInterrupt:
        sys.exit(0)
    except BaseException as error:
        traceback.print_exc()
        reasons.send(str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
        sys.exit(1)


def _end(workers: Sequence[_Worker]) -> None:
    """Interrupt all, wait for them, kill those that do not end; at once when interrupted again."""
    alive = [worker.process for worker in workers if worker.is_alive]
    for process in alive:
        process.terminate()
    began = time.monotonic()
    while any(process.is_alive() for process in alive) and time.monotonic() - began < END_SECONDS:
        try:
            time.sleep(0.05)
        except KeyboardInterrupt:  # noqa: PERF203
            if time.monotonic() - began > 1:  # `timeout` and such send two at once
                break
    for process in alive:
        process.kill()
        process.join()


def _received(reasons: Connection) -> str | None:
    with contextlib.suppress(EOFError, OSError):
        if reasons.poll():
            return str(reasons.recv())
    return None
