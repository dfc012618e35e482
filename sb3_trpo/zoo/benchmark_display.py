"""What is seen of a benchmark: a live table in a terminal, a line for each event elsewhere."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from sb3_trpo.evaluation import scores
from sb3_trpo.evaluation.captions import duration, number
from sb3_trpo.evaluation.scores import Score
from sb3_trpo.zoo.console import stderr
from sb3_trpo.zoo.grid import Run


class Progress:
    """Lines: what was made again, what is done and what failed, and how long the rest may take.

    :param runs: all of the grid
    :param jobs: runs at a time
    :param path: of the table of scores
    """

    def __init__(self, runs: Sequence[Run], jobs: int, path: Path, console: Console):
        self.runs, self.jobs, self.path, self.console = runs, jobs, path, console
        self.scores: dict[scores.Run, Score] = {}
        self.failures: set[scores.Run] = set()
        self.others: set[scores.Run] = set()
        self.running: dict[scores.Run, tuple[float, int, float | None]] = {}  # since when, step, last evaluation
        self.seconds: dict[scores.Run, float] = {}

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.say(f"all {len(self.runs)} runs are done: {self.path}")

    def begin(self, done: Sequence[tuple[Run, Score]], other_settings: Sequence[Run]) -> None:
        """``done`` before, with their last rows; ``other_settings``: runs whose rows are of other settings."""
        for run, last in done:
            self.scores[run.key], self.seconds[run.key] = last, last.wall_s
        self.say(f"{len(self.runs)} runs, {len(done)} done before; scores in {self.path}")
        by_contestant: dict[tuple[str, str], list[str]] = {}
        for run in other_settings:
            by_contestant.setdefault((run.env, run.implementation), []).append(str(run.seed))
        for (env, label), seeds in by_contestant.items():
            noun = "seed" if len(seeds) == 1 else "seeds"
            self.say(f"{env}, {label}, {noun} {', '.join(seeds)}: scores of other settings, made again and replaced")

    def seen(self, run: Run, step: int, eval_mean: float | None) -> None:
        """A worker has come to ``step``."""
        self.others.discard(run.key)
        began = self.running.get(run.key, (time.monotonic(),))[0]
        self.running[run.key] = (began, step, eval_mean)

    def done(self, run: Run, last: Score) -> None:
        """The rows of a run are in the table, by whomever."""
        began = self.running.pop(run.key, (None,))[0]
        self.others.discard(run.key)
        self.scores[run.key] = last
        self.seconds[run.key] = last.wall_s if began is None else time.monotonic() - began
        left = "" if len(self.scores) + len(self.failures) == len(self.runs) else f"; {self.time_left()} left"
        self.say(
            f"[{len(self.scores)}/{len(self.runs)}] {run}: {number(last.eval_mean)} after {last.step:,} steps, "
            f"{duration(last.wall_s)} of training{left}"
        )

    def elsewhere(self, run: Run) -> None:
        """Another command is at it."""
        self.running.pop(run.key, None)
        if run.key not in self.others:
            self.others.add(run.key)
            self.say(f"{run}: under way in another process")

    def failed(self, run: Run, reason: str, log: Path) -> None:
        """Training raised, or its process was killed."""
        self.running.pop(run.key, None)
        self.others.discard(run.key)
        self.failures.add(run.key)
        self.say(f"failed: {run}: {reason}{f' (log: {log})' if log.exists() else ''}")

    def interrupted(self, n_done: int) -> None:
        """The user has stopped it; the table has ``n_done`` runs."""
        self.say(f"interrupted: {n_done} of {len(self.runs)} runs are done and kept; the same command goes on")

    def time_left(self) -> str:
        """What the rest may take; runs that were alike tell."""
        by_pair: dict[tuple[str, ...], list[float]] = {}
        for (env, label, _), seconds in list(self.seconds.items()):
            for alike in ((env, label), (env,), ()):
                by_pair.setdefault(alike, []).append(seconds)
        left = 0.0
        for run in self.runs:
            if run.key in self.scores or run.key in self.failures:
                continue
            known = (by_pair.get(alike) for alike in ((run.env, run.implementation), (run.env,), ()))
            expected = float(np.mean(next(filter(None, known), np.nan)))
            if run.key in self.running:
                began, step, _ = self.running[run.key]
                elapsed, share = time.monotonic() - began, min(step / run.n_timesteps, 1.0)
                by_rate = elapsed * (1 - share) / share if share > 0.1 else np.nan
                expected = by_rate if np.isnan(expected) else max(expected - elapsed, 0.0)
            left += expected
        return "an unknown time" if np.isnan(left) else f"about {duration(left / self.jobs)}"

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(escape(text))


class LiveProgress(Progress):
    """The same lines above a table that shows what is going on."""

    def __init__(self, runs: Sequence[Run], jobs: int, path: Path, console: Console):
        super().__init__(runs, jobs, path, console)
        self.live = Live(console=console, get_renderable=self.table, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Progress":
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()
        self.console.print(self.table())
        super().__exit__(kind, error, trace)

    def table(self) -> Table:
        """A row for each environment and contestant: how many runs are done, their scores, and what runs now."""
        n_left = len(self.runs) - len(self.scores) - len(self.failures)
        state = [f"{len(self.scores)} of {len(self.runs)} runs done"]
        if self.failures:
            state.append(f"[red]{len(self.failures)} failed[/red]")
        if n_left:
            state.append(f"{n_left} left, {self.time_left()}")
        table = Table(title=", ".join(state), title_justify="left", box=None, pad_edge=False)
        for name, justify in (("environment", "left"), ("contestant", "left"), ("done", "right"), ("return", "right")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        table.add_column("running", justify="left")
        previous = None
        for env, label in dict.fromkeys((run.env, run.implementation) for run in self.runs):
            runs = [run for run in self.runs if (run.env, run.implementation) == (env, label)]
            finals = [self.scores[run.key].eval_mean for run in runs if run.key in self.scores]
            table.add_row(
                "" if env == previous else escape(env),
                escape(label),
                f"{len(finals)}/{len(runs)}",
                number(float(np.mean(finals))) if finals else "",
                ", ".join(filter(None, map(self._state, runs))),
            )
            previous = env
        return table

    def _state(self, run: Run) -> str:
        if run.key in self.failures:
            return f"[red]seed {run.seed} failed[/red]"
        if run.key in self.others:
            return f"seed {run.seed} elsewhere"
        if run.key not in self.running:
            return ""
        _, step, eval_mean = self.running[run.key]
        seen = "" if eval_mean is None else f" [bold]{number(eval_mean)}[/bold]"
        return f"seed {run.seed} {min(step / run.n_timesteps, 1):.0%}{seen}"


def make_progress(runs: Sequence[Run], jobs: int, path: Path, console: Console | None = None) -> Progress:
    """A live table in a terminal, lines elsewhere."""
    console = stderr if console is None else console
    return (LiveProgress if console.is_terminal else Progress)(runs, jobs, path, console)
