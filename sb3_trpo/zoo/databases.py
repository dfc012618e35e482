"""Databases in which studies are kept: opened with patience, and their errors told in one sentence without passwords.

SQLite knows no row locks, so that two workers that read "this trial waits" may both run it. Here each of its
transactions begins with the lock that others take at their first write: a worker waits its turn before it reads.
"""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from sb3_trpo.zoo.errors import UsageError

LOCK_SECONDS = 60
"""How long SQLite waits for another process to let go of the file."""
CONNECT_SECONDS = 10
"""How long a server may take to answer."""

DRIVERS = {"postgresql": ("psycopg2", "psycopg"), "mysql": ("pymysql", "MySQLdb")}
"""Drivers of a database, the first that is installed is used where the URL names none."""
DRIVER_NAMES = {"MySQLdb": "mysqldb"}  # in URLs, where it differs from the module's

OnStale = Callable[[optuna.Study, FrozenTrial], None]


def open_storage(
    url: str, heartbeat_interval: int = 10, grace_period: int = 60, on_stale: OnStale | None = None
) -> RDBStorage:
    """The database at ``url``, its tables made if they are not there.

    :param url: ``sqlite:///study.db``, ``postgresql://user@host/name``, ``mysql://user@host/name``
    :param heartbeat_interval: seconds between two signs of life of a running trial
    :param grace_period: seconds without one after which its worker is taken for dead
    :param on_stale: told of each trial of a dead worker
    :raises UsageError: when it is no database URL, its driver is missing, or it does not answer
    """
    parsed = _with_driver(_parse(url))
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        _make_parent(parsed)
        connect = {"timeout": LOCK_SECONDS}
    else:
        connect = {"connect_timeout": CONNECT_SECONDS} if backend in DRIVERS else {}

    def build() -> RDBStorage:
        with warnings.catch_warnings():
            # Heartbeats have been called experimental for years.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return RDBStorage(
                # Optuna formats the text: braces of a password are doubled.
                parsed.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}"),
                engine_kwargs={"connect_args": connect, "pool_pre_ping": True},
                heartbeat_interval=heartbeat_interval,
                grace_period=grace_period,
                heartbeat_stale_trial_callback=on_stale,
            )

    with plain_errors(url):
        try:
            storage = _patiently(build)
        except ImportError as error:
            raise UsageError(
                f"storage {hide_password(url)!r} needs a driver: pip install 'sb3-trpo[databases]' ({error.__cause__})"
            ) from error
        except RuntimeError as error:  # Optuna's, for tables of another version
            raise UsageError(f"storage {hide_password(url)!r} {_reason(error, url)}") from error
    if backend == "sqlite":
        event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def hide_password(url: str) -> str:
    """The URL as it may be shown."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        # What cannot be parsed may still hold a password, before the last @.
        scheme, separator, rest = url.partition("://")
        return f"{scheme}{separator}***@{rest.rpartition('@')[2]}" if "@" in rest else url


@contextlib.contextmanager
def plain_errors(url: str) -> Iterator[None]:
    """Tell what the database at ``url`` complains of in one sentence.

    :raises UsageError: in place of any error of SQLAlchemy, a driver, or Optuna's storage
    """
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        # Optuna hides the words of the driver behind its own.
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        raise UsageError(f"storage {hide_password(url)!r} {_reason(cause, url)}") from error


def _parse(url: str) -> URL:
    try:
        if "://" not in url:
            raise ValueError
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, ValueError, NoSuchModuleError):
        raise UsageError(
            f"storage {hide_password(url)!r} must be a database URL, such as sqlite:///study.db or "
            "postgresql://user@host/name"
        ) from None
    except ImportError:
        pass  # the driver is looked for when it is opened
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UsageError(f"storage {url!r} is gone when the process ends: name a file, such as sqlite:///study.db")
    return parsed


def _with_driver(url: URL) -> URL:
    if "+" in url.drivername or url.drivername not in DRIVERS:
        return url
    installed = [name for name in DRIVERS[url.drivername] if find_spec(name) is not None]
    driver = (installed or DRIVERS[url.drivername])[0]
    return url.set(drivername=f"{url.drivername}+{DRIVER_NAMES.get(driver, driver)}")


def _make_parent(url: URL) -> None:
    folder = Path(url.database or "").absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"storage {str(url)!r}: {folder} cannot be made ({error.strerror or error})") from error


def _patiently(build: Callable[[], RDBStorage], attempts: int = 5) -> RDBStorage:
    """Two processes that make the tables of a new database at once get in each other's way: the loser tries again."""
    for attempt in range(attempts):
        try:
            return build()
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:  # noqa: PERF203  # five rounds
            words = f"{error} {error.__cause__}".lower()
            if attempt == attempts - 1 or not any(w in words for w in ("already exists", "unique", "duplicate key")):
                raise
            time.sleep(0.5 * (attempt + 1))
    raise AssertionError("unreachable")


def _reason(error: Any, url: str) -> str:
    words = " ".join(str(getattr(error, "orig", None) or error).split("\n")[0].split())
    password = _password(url)
    if password:
        words = words.replace(password, "***")
    if "locked" in words:
        return f"has been locked by another process for {LOCK_SECONDS} seconds: end it, or choose another file"
    if isinstance(error, OperationalError):
        return f"does not answer: {words}"
    return f"cannot be used: {words or type(error).__name__}"


def _password(url: str) -> str | None:
    with contextlib.suppress(ArgumentError, ValueError):
        password = make_url(url).password
        return None if password is None else str(password)
    return None
