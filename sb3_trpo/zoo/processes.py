"""Processes of training runs: what they inherit, and how they end."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""For numpy and torch, which read them when they are loaded."""


@contextlib.contextmanager
def environment_of_workers() -> Iterator[None]:
    """A process started here has one thread, and is deaf to Ctrl-C from its first moment: the terminal sends it to all
    processes, and the parent ends them in order.
    """
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # would clear the mask if it were started below
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # a Ctrl-C that came meanwhile arrives now


TOGETHER_SECONDS = 0.5
"""Signals that come so soon after another are the same request: `timeout` and schedulers send two at once."""


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """End by SIGTERM, as schedulers send it, like by Ctrl-C; in the main thread only, others get no signals.

    A second one that comes at once does not interrupt the tidying up.
    """
    last = -TOGETHER_SECONDS

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)  # once: what follows is the tidying up
        now = time.monotonic()
        if now - last >= TOGETHER_SECONDS:
            last = now
            raise KeyboardInterrupt

    heard = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as in the background
        heard.append(signal.SIGINT)
    try:
        before = {number: signal.signal(number, interrupt) for number in heard}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Deaf to Ctrl-C, for the moments of tidying up after the first; in the main thread, others never hear it."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
