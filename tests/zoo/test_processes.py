"""How the processes of searches end."""

import os
import signal

import pytest

from sb3_trpo.zoo.processes import sigterm_interrupts


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_and_ctrl_c_interrupts_the_tidying_up(first, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    now = 0.0
    with sigterm_interrupts():
        monkeypatch.setattr("time.monotonic", lambda: now)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), first)
        os.kill(os.getpid(), first)  # at once, as `timeout` does
        now = 1.0
        os.kill(os.getpid(), signal.SIGTERM)
        now = 2.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_who_is_deaf_to_ctrl_c_stays_so():
    """As what runs in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with sigterm_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)
