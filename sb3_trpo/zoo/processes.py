"""Processes of training runs: what they inherit, and how they end."""

import contextlib
import os
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker

from sb3_trpo.callbacks.signals import Interrupted, SignalWatch

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


def sigterm_interrupts() -> SignalWatch:
    """In the ``with`` block SIGTERM, as schedulers send it, raises like Ctrl-C; what follows is the tidying up, which
    another Ctrl-C interrupts, and another SIGTERM does not.
    """
    heard = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as in the background
        heard.append(signal.SIGINT)
    return SignalWatch(heard, raises_at_once=True, again=_interrupt_by_ctrl_c)


def _interrupt_by_ctrl_c(number: int) -> None:
    if number == signal.SIGINT:
        raise Interrupted(number)


def postponing_signals() -> SignalWatch:
    """In the ``with`` block the first Ctrl-C or SIGTERM is noted only, for `let_arrive`; a second ends the process."""
    return SignalWatch((signal.SIGINT, signal.SIGTERM))


def let_arrive(watch: SignalWatch) -> None:
    """Have the signal that was noted do now what it does outside the block."""
    if watch.received is not None:
        signal.raise_signal(watch.received)


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
