"""Processes that share this one's modules, so that many can be started and killed."""

import contextlib
import os
import signal
import traceback


@contextlib.contextmanager
def forked(work):
    """The id of a process that does ``work()``; waited for at the end, and then it was killed or went well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        yield child
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"a process ended with status {status}"
