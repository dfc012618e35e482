"""Environments in processes of their own, one of which may die or stop.

`SubprocVecEnv` waits for answers with ``recv`` alone. A worker that was killed never answers, and where workers were
forked the others hold copies of its end of the pipe, so that the wait is for ever; ``close`` then waits likewise. Here
each pipe is waited for together with the process at its other end. A vectorised environment that has lost a worker is
lost as a whole: answers of the others would belong to another step, so all are ended at once.
"""

import atexit
import contextlib
import math
import signal
import time
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import MethodType
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_trpo.algorithms.arguments import check_number

CLOSE_SECONDS = 10.0
"""How long environments may take to close themselves."""
FAILURE_SECONDS = 3.0
"""How long, when one of them has been lost."""
TERMINATE_SECONDS = 1.0
"""How long a process may take to end by SIGTERM, before it is killed."""

LOOK_SECONDS = 1.0
"""How often the other workers are looked after while one is waited for."""

_watched_envs: "weakref.WeakSet[SubprocVecEnv]" = weakref.WeakSet()


class WorkerError(ConnectionError):
    """The process of an environment has ended or does not answer; those of the other environments have been ended."""


class WatchedSubprocVecEnv(SubprocVecEnv):
    """A `SubprocVecEnv` that tells of dead workers, and whose ``close`` returns whatever has become of them.

    :param env_fns: makers of the environments
    :param start_method: of the processes: ``"forkserver"``, ``"spawn"`` or ``"fork"``, the first of them that there is
        by default
    :param step_timeout: seconds that a worker may take to answer, be it to a step or to a reset; None for no limit
    :raises WorkerError: here and from every method, for a worker that has ended or takes too long to answer
    :raises ValueError: for a ``step_timeout`` that is no number of seconds
    """

    _remotes: "tuple[_Watched, ...]" = ()

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        start_method: str | None = None,
        step_timeout: float | None = None,
    ):
        _check_timeout(step_timeout)
        self.processes: list[BaseProcess] = []
        try:
            super().__init__(list(env_fns), start_method)
            self.has_attr("reset")  # asked of all: environments that cannot be made are noticed now
        except BaseException:
            _end(self, FAILURE_SECONDS)
            raise
        for remote in self._remotes:
            remote.timeout = step_timeout

    @property
    def remotes(self) -> "tuple[_Watched, ...]":
        """Our ends of the pipes."""
        return self._remotes

    @remotes.setter
    def remotes(self, connections: Sequence[Connection]) -> None:
        self._remotes = _watched(self, connections)

    def close(self) -> None:
        """Close the environments and end their processes, by force those that take more than ten seconds."""
        _close(self)


def watch_workers(env: VecEnv, step_timeout: float | None = None) -> None:
    """Have the `SubprocVecEnv` at the bottom of ``env``, if there is one, do as `WatchedSubprocVecEnv` does.

    Unlike there, a worker that dies while it sends an observation of more than some 200 kB is noticed only when it
    was not forked.

    :param step_timeout: seconds that a worker may take to answer; None for no limit, or the one that it has
    :raises ValueError: for a ``step_timeout`` that is no number of seconds
    """
    _check_timeout(step_timeout)
    inner = env.unwrapped
    if not isinstance(inner, SubprocVecEnv) or inner.closed:
        return
    if not all(isinstance(remote, _Watched) for remote in inner.remotes):
        inner.remotes = _watched(inner, inner.remotes)
        if type(inner).close is SubprocVecEnv.close:
            inner.close = MethodType(_close, inner)  # type: ignore[method-assign]
    if step_timeout is not None:
        for remote in inner.remotes:
            remote.timeout = step_timeout


class _Watched:
    """Our end of the pipe to the worker of environment ``index``: what `SubprocVecEnv` uses of a connection."""

    timeout: float | None = None

    def __init__(self, env: SubprocVecEnv, index: int, connection: Connection):
        self.env, self.index, self.connection = env, index, connection

    def send(self, message: Any) -> None:
        self._check_open()
        try:
            self.connection.send(message)
        except ConnectionError as error:
            raise self._lost() from error

    def recv(self) -> Any:
        self._check_open()
        ready = self._wait()
        try:
            if self.connection in ready or self.connection.poll():  # it may have answered before its end
                return self.connection.recv()
        except (EOFError, OSError) as error:  # also in the middle of an answer
            raise self._lost() from error
        raise self._lost()

    def close(self) -> None:
        """All our ends, and what a forked worker, which calls this first, has inherited of the others' ends."""
        ours = [remote.connection for remote in self.env.remotes]
        for connection in (*ours, *self.env.work_remotes[self.index + 1 :]):
            connection.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.connection,)  # for a worker that is not forked, which has nothing to watch

    @property
    def _process(self) -> Any:
        return self.env.processes[self.index]

    def _wait(self) -> list[Any]:
        """Until there is an answer, or nobody to give it; now and then the other workers are looked after."""
        ends = time.monotonic() + (math.inf if self.timeout is None else self.timeout)
        while True:
            ready = wait([self.connection, self._process.sentinel], min(LOOK_SECONDS, ends - time.monotonic()))
            if ready:
                return ready
            for other in self.env.remotes:
                if not other._process.is_alive():
                    raise other._lost()
            if time.monotonic() >= ends:
                raise self._failure(f"has not answered for {self.timeout:g} seconds")

    def _check_open(self) -> None:
        if self.connection.closed:
            raise WorkerError("the processes of the environments have been ended: make the vectorised environment anew")

    def _lost(self) -> WorkerError:
        self._process.join(TERMINATE_SECONDS)  # the pipe breaks a moment before the process is gone
        code = self._process.exitcode
        if code is None:
            return self._failure("has closed its pipe")
        if code >= 0:
            return self._failure(f"ended with exit code {code}, what it printed tells why")
        name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
        return self._failure(f"was killed by {name} (exit code {code})")

    def _failure(self, what: str) -> WorkerError:
        _end(self.env, FAILURE_SECONDS)
        return WorkerError(f"the process of environment {self.index} (pid {self._process.pid}) {what}")


def _watched(env: SubprocVecEnv, connections: Sequence[Any]) -> tuple[_Watched, ...]:
    _watched_envs.add(env)
    return tuple(_Watched(env, index, connection) for index, connection in enumerate(connections))


def _itself(connection: Connection) -> Connection:
    return connection


def _close(env: SubprocVecEnv) -> None:
    """What ``close`` of a watched environment does."""
    if not env.closed:
        _end(env, CLOSE_SECONDS)


def _end(env: SubprocVecEnv, patience: float) -> None:
    """Have the environments close themselves; processes that take more than ``patience`` seconds end by force."""
    env.waiting, env.closed = False, True
    _ask_to_close(env, patience)
    for end in ("terminate", "kill"):
        alive = [process for process in env.processes if process.is_alive()]
        for process in alive:
            getattr(process, end)()
        ends = time.monotonic() + TERMINATE_SECONDS
        for process in alive:
            process.join(max(ends - time.monotonic(), 0.0))
    for remote in env.remotes:
        remote.close()


@atexit.register  # after that of multiprocessing, and so called before it, which would wait for stopped workers
def _end_all() -> None:
    """At exit, end what nobody has closed."""
    for env in [env for env in _watched_envs if not env.closed]:
        _end(env, FAILURE_SECONDS)


def _ask_to_close(env: SubprocVecEnv, patience: float) -> None:
    """Wait until all have ended, for ``patience`` seconds; what they still have to say, and can be long, is heard."""
    alive: set[Any] = set()
    pipes: list[Any] = []
    for remote, process in zip(env.remotes, env.processes, strict=False):  # some may not have been started
        if process.is_alive():
            alive.add(process.sentinel)
            pipes.append(remote.connection)
            with contextlib.suppress(OSError):
                remote.connection.send(("close", None))
    ends = time.monotonic() + patience
    while alive and time.monotonic() < ends:
        for ready in wait([*alive, *pipes], ends - time.monotonic()):
            if ready in alive:
                alive.remove(ready)
                continue
            try:
                ready.recv_bytes()  # type: ignore[union-attr]
            except (EOFError, OSError):
                pipes.remove(ready)


def _check_timeout(step_timeout: float | None) -> None:
    if step_timeout is not None:
        check_number("step_timeout", step_timeout, "of seconds > 0, or None for no limit", lambda seconds: seconds > 0)
