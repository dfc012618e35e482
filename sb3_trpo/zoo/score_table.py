"""The folder of a benchmark, shared by all processes that work on it: scores, locks and logs.

scores.csv             rows of the runs that are done; written whole, under ``scores.csv.lock``
locks/RUN.lock         held by the process that makes the run, and released by the system when that process ends
logs/RUN.log           what it printed, every attempt below the last
"""

import csv
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from sb3_trpo.evaluation import scores
from sb3_trpo.evaluation.scores import Score, read_scores, write_scores
from sb3_trpo.files import Unwritable
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.grid import Run


class ScoreTable:
    """``scores.csv`` and what stands beside it.

    :param folder: of the benchmark
    :param order: keys of runs in the order that their rows should have; those of others come after them
    """

    def __init__(self, folder: Path, order: Sequence[scores.Run] = ()):
        self.folder, self.path = folder, folder / "scores.csv"
        self._rank = {key: index for index, key in enumerate(order)}
        self._version: tuple[int, int, int] | None = None
        self._rows: list[Score] = []
        self._last: dict[scores.Run, Score] = {}

    def open(self) -> None:
        """Make the folders.

        :raises UsageError: when they cannot be made, or the scores cannot be read
        """
        try:
            for folder in (self.folder / "locks", self.folder / "logs"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be written to: {error.strerror or error}") from error
        self.rows()

    def rows(self) -> list[Score]:
        """All rows, read anew only if the file has changed.

        :raises UsageError: when they cannot be read
        """
        try:
            state = self.path.stat()
            version = (state.st_ino, state.st_mtime_ns, state.st_size)
            if self._version != version:
                self._version, self._rows = version, self._read()
                self._last = {_key(row): row for row in sorted(self._rows, key=lambda row: row.step)}
        except FileNotFoundError:
            self._version, self._rows, self._last = None, [], {}
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror or error}") from error
        return self._rows

    def last_row(self, run: Run) -> Score | None:
        """The last row of a run, whatever settings it was made with."""
        self.rows()
        return self._last.get(run.key)

    def final_row(self, run: Run) -> Score | None:
        """The last row of a run that is done: made with these very settings, to its end."""
        last = self.last_row(run)
        is_done = last is not None and last.config_hash == run.config_hash and last.step >= run.n_timesteps
        return last if is_done else None

    def replace(self, run: Run, rows: Sequence[Score]) -> None:
        """Put the rows of a run in the place of what it had.

        :raises UsageError: when the table cannot be read or written; it stays as it was
        """
        try:
            with self._lock():
                kept = [row for row in (self._read() if self.path.exists() else []) if _key(row) != run.key]
                everything = [*kept, *rows]
                everything.sort(key=lambda row: self._rank.get(_key(row), len(self._rank)))
                write_scores(self.path, everything)
        except Unwritable as error:
            raise UsageError(str(error)) from error
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def lock(self, run: Run) -> FileLock:
        """What whoever makes this run must hold."""
        return FileLock(self.folder / "locks" / f"{_file_name(run)}.lock")

    def is_locked(self, run: Run) -> bool:
        """Whether some process is at it.

        :raises UsageError: when that cannot be found out
        """
        lock = self.lock(run)
        try:
            with lock.acquire(blocking=False):
                return False
        except Timeout:
            return True
        except OSError as error:
            raise UsageError(f"{lock.lock_file} cannot be locked: {error.strerror or error}") from error

    def log(self, run: Run) -> Path:
        """Where its output goes."""
        return self.folder / "logs" / f"{_file_name(run)}.log"

    def _lock(self) -> FileLock:
        return FileLock(f"{self.path}.lock")

    def _read(self) -> list[Score]:
        try:
            if self.path.read_bytes()[-1:] not in (b"\n", b""):
                raise ValueError(f"{self.path} ends within a line")
            return read_scores(self.path)
        except (ValueError, csv.Error) as error:
            text = " ".join(str(error).split())
            where = "" if text.startswith(str(self.path)) else f"{self.path}: "
            raise UsageError(f"{where}{text}: mend it, or move it away to begin anew") from error


def _key(row: Score) -> scores.Run:
    return row.env, row.implementation, row.seed


def _file_name(run: Run) -> str:
    """Readable, and different for different runs whatever signs their names have."""
    text = "-".join(re.sub(r"[^\w.]+", "_", str(part)) for part in run.key)
    return f"{text}-{hashlib.sha256(repr(run.key).encode()).hexdigest()[:6]}"
