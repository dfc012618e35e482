"""Benchmarks: every run of a grid made once, each in a process of its own, whatever stops in between.

What is done is what the table of scores says, and who makes a run holds its lock: nothing else is remembered. So a
command that was stopped in any way is resumed by giving it again, and several that work on one folder share the runs.
"""

import multiprocessing
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.console import Console

from sb3_trpo.evaluation.scores import Score
from sb3_trpo.zoo.benchmark_display import Progress, make_progress
from sb3_trpo.zoo.benchmark_worker import Ended, MakeRun, Seen, work
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.grid import Grid, Run, read_grid
from sb3_trpo.zoo.processes import environment_of_workers
from sb3_trpo.zoo.score_table import ScoreTable

POLL = 1.0
"""Seconds between two looks at what other commands have done."""


def benchmark(
    grid_file: str | Path,
    output_folder: str | Path | None = None,
    jobs: int = 2,
    *,
    packages: Sequence[str] = (),
    console: Console | None = None,
    make_run: MakeRun | None = None,
) -> Path:
    """Make all runs of a grid that are not done yet; Ctrl-C stops, and the same call goes on.

    A script should call it under ``if __name__ == "__main__":``, because every run's process imports the script.

    :param grid_file: see `sb3_trpo.zoo.grid`
    :param output_folder: where scores and logs go, ``runs/benchmark/NAME_OF_THE_FILE`` by default
    :param jobs: runs at a time, each in a process of its own on one thread
    :param packages: modules to import in those processes first, such as those that register environments
    :param console: where progress is shown, by default the standard error: a table, or lines where that is no terminal
    :param make_run: function of a module that makes one run, `scored_run` by default
    :return: the table of scores
    :raises UsageError: for a grid that cannot be used, before any run; for a table that cannot be read or written; and
        when all is done, if runs have failed
    """
    if jobs < 1 or jobs != int(jobs):
        raise UsageError(f"jobs={jobs!r} must be a whole number >= 1")
    grid = read_grid(grid_file)
    folder = Path("runs", "benchmark", Path(grid_file).stem) if output_folder is None else Path(output_folder)
    table = ScoreTable(folder, grid.keys)
    table.open()
    with make_progress(grid.runs, jobs, table.path, console) as progress:
        _Benchmark(grid, table, progress, jobs, make_run, tuple(packages)).work()
    return table.path


class _Benchmark:
    """Runs that wait, run, and have failed."""

    def __init__(
        self,
        grid: Grid,
        table: ScoreTable,
        progress: Progress,
        jobs: int,
        make_run: MakeRun | None,
        packages: tuple[str, ...],
    ):
        self.grid, self.table, self.progress = grid, table, progress
        self.jobs, self.make_run, self.packages = jobs, make_run, packages
        self.waiting = list(grid.runs)
        self.running: dict[Connection, tuple[Run, BaseProcess]] = {}
        self.failed: list[Run] = []
        self.unsaved = ""

    def work(self) -> None:
        """Until every run is done, here or elsewhere, or has failed."""
        self.progress.begin(self._leave_out_what_is_done(), [run for run in self.waiting if self.table.last_row(run)])
        try:
            while self.running or (self.waiting and not self.unsaved):
                if not self.unsaved:
                    self._start()
                for channel in wait(list(self.running), timeout=POLL):
                    self._listen(channel)  # type: ignore[arg-type]  # they are the keys of `running`
        except KeyboardInterrupt:
            self._stop()
            self.progress.interrupted(sum(self.table.final_row(run) is not None for run in self.grid.runs))
            raise
        finally:
            self._stop()
        if self.unsaved:
            raise UsageError(self.unsaved)
        if self.failed:
            raise UsageError(
                f"{len(self.failed)} of {len(self.grid.runs)} runs failed, see {self.table.folder / 'logs'}: "
                "the same command tries them again"
            )

    def _leave_out_what_is_done(self) -> list[tuple[Run, Score]]:
        """The runs that need not wait any longer, and their final rows."""
        found = [(run, self.table.final_row(run)) for run in self.waiting]
        done = [(run, last) for run, last in found if last is not None]
        for run, _ in done:
            self.waiting.remove(run)
        return done

    def _start(self) -> None:
        """Begin runs that nobody is at, as long as there is room."""
        if len(self.running) >= self.jobs or not self.waiting:
            return
        for run, last in self._leave_out_what_is_done():
            self.progress.done(run, last)
        for run in list(self.waiting):
            if len(self.running) >= self.jobs:
                return
            if self.table.is_locked(run):
                self.progress.elsewhere(run)
                continue
            ours, theirs = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context("spawn").Process(
                target=work,
                args=(run, self.table.folder, self.grid.keys, theirs, self.make_run, self.packages),
                name=f"benchmark {run}",
            )
            with environment_of_workers():
                process.start()
                self.running[ours] = (run, process)  # here, so that Ctrl-C cannot come between
            self.waiting.remove(run)
            theirs.close()

    def _listen(self, channel: Connection) -> None:
        """Take one message of a worker."""
        run, process = self.running[channel]
        try:
            message = channel.recv()
        except (EOFError, OSError):
            _end(process, patience=10)
            message = Ended("failed", f"its process ended with {_ending(process.exitcode)}")
        if isinstance(message, Seen):
            self.progress.seen(run, message.step, message.eval_mean)
            return
        del self.running[channel]
        channel.close()
        _end(process, patience=10)
        if message.outcome == "done":
            last = self.table.final_row(run)
            if last is not None:
                self.progress.done(run, last)
        elif message.outcome == "busy":
            self.waiting.append(run)
            self.progress.elsewhere(run)
        else:
            self.failed.append(run)
            self.unsaved = self.unsaved or (message.reason if message.outcome == "unsaved" else "")
            self.progress.failed(run, message.reason, self.table.log(run))

    def _stop(self) -> None:
        for _, process in self.running.values():
            process.terminate()
        for channel, (_, process) in self.running.items():
            _end(process, patience=5)
            channel.close()
        self.running.clear()


def _end(process: BaseProcess, patience: float) -> None:
    """Wait for the end of a process that is about to end."""
    process.join(patience)
    if process.is_alive():
        process.kill()
        process.join()


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"signal {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"
