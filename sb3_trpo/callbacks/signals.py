"""Ending a training by a signal: noticed at once, acted upon where nothing is lost."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from types import FrameType

from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo.algorithms.resumable import ResumableAlgorithm

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""What schedulers send to a job that has to go: at its time limit, or when somebody else needs the machine."""

TOGETHER_SECONDS = 0.5
"""Signals that come so soon after the first are the same request: schedulers send it to a process and to its group."""


class Interrupted(KeyboardInterrupt):
    """The signal ``number`` asks the training to end."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """Of a process that ends for it: 130 after Ctrl-C, 143 otherwise, as a shell reports the end by SIGTERM."""
        return 130 if self.number == signal.SIGINT else 143


def end_at_once(number: int) -> None:
    """Have the signal do what it does to a process that is deaf to it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class SignalWatch:
    """In the ``with`` block the first of ``signals`` is noted, and `poll` raises; what ``again`` does to a second is
    to end the process at once.

    Where ``raises_at_once`` is True the first one raises by itself: for work that is all or nothing and does not poll.
    Earlier handlers are restored afterwards. Only the main thread hears signals; in another the block does nothing.
    """

    def __init__(
        self,
        signals: Iterable[int] = SIGNALS,
        raises_at_once: bool = False,
        again: Callable[[int], None] = end_at_once,
    ):
        self.signals, self.raises_at_once, self.again = tuple(signals), raises_at_once, again
        self.received: int | None = None
        self._when = 0.0
        self._before: dict[int, object] = {}

    def poll(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.received is not None:
            raise Interrupted(self.received)

    def __enter__(self) -> "SignalWatch":
        self.received = None  # what an earlier block was ended by is over
        try:
            for number in self.signals:
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not in the main thread
            self._before.clear()
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the handlers of before."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._when = number, now
            if self.raises_at_once:
                raise Interrupted(number)
        elif now - self._when > TOGETHER_SECONDS:
            self._when = now
            self.again(number)


class EndedBySignals(BaseCallback):
    """Has a training end by what ``watch`` notes: between two steps of a rollout, or anywhere else.

    An update is all or nothing, and may take long: it does not go on to its end. Algorithms of ours keep the state at
    the start of the rollout, from which a model that is saved then goes on.
    """

    def __init__(self, watch: SignalWatch, verbose: int = 0):
        super().__init__(verbose)
        self.watch = watch

    def _on_training_start(self) -> None:
        self.watch.raises_at_once = True
        if isinstance(self.model, ResumableAlgorithm):
            self.model.keep_boundaries()

    def _on_rollout_start(self) -> None:
        self.watch.poll()
        self.watch.raises_at_once = False

    def _on_step(self) -> bool:
        self.watch.poll()
        return True

    def _on_rollout_end(self) -> None:
        self.watch.raises_at_once = True
        self.watch.poll()

    def _on_training_end(self) -> None:
        self.watch.raises_at_once = False
