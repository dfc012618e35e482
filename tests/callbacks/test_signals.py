"""A signal is noted, acted upon once, and the handlers of before come back."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from sb3_trpo.callbacks import Interrupted, SignalWatch


def handler(number, frame):
    raise AssertionError("the earlier handler was called")


@pytest.fixture
def earlier_handler():
    before = signal.signal(signal.SIGUSR1, handler)
    yield handler
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_is_noted_and_raised_by_the_next_poll(earlier_handler):
    with SignalWatch([signal.SIGUSR1]) as watch:
        watch.poll()
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted, match="SIGUSR1") as raised:
            watch.poll()
    assert raised.value.exit_code == 143
    assert signal.getsignal(signal.SIGUSR1) is earlier_handler


def test_it_raises_by_itself_where_it_may(earlier_handler):
    with SignalWatch([signal.SIGUSR1]) as watch:
        watch.raises_at_once = True
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is earlier_handler


def test_the_same_request_may_come_twice(earlier_handler):
    with SignalWatch([signal.SIGUSR1]) as watch:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert watch.received == signal.SIGUSR1


def test_what_ended_one_block_does_not_end_the_next(earlier_handler):
    watch = SignalWatch([signal.SIGUSR1])
    for _ in range(2):
        with watch:
            watch.poll()
            os.kill(os.getpid(), signal.SIGUSR1)
            with pytest.raises(Interrupted):
                watch.poll()


def test_a_second_signal_does_what_is_asked_for(earlier_handler, monkeypatch):
    again = []
    seconds = iter([0.0, 0.1, 0.6, 0.7, 1.2])
    with SignalWatch([signal.SIGUSR1], again=again.append) as watch:
        monkeypatch.setattr("time.monotonic", lambda: next(seconds))
        for n_requests in (0, 0, 1, 1, 2):
            os.kill(os.getpid(), signal.SIGUSR1)
            assert again == n_requests * [signal.SIGUSR1]
        assert watch.received == signal.SIGUSR1


def test_ctrl_c_ends_with_130():
    assert Interrupted(signal.SIGINT).exit_code == 130


def test_a_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal, time\n"
        "from sb3_trpo.callbacks import SignalWatch\n"
        "with SignalWatch([signal.SIGTERM]):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.6)\n"
        "    print('still there', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('never printed')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "still there\n")


def test_another_thread_hears_no_signals():
    outcome = []

    def watch():
        with SignalWatch([signal.SIGUSR1]) as watched:
            watched.poll()
            outcome.append(watched.received)

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert outcome == [None]
