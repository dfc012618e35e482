"""A PostgreSQL server of the tests' own, from Debian's package, on a free port of this machine."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from filelock import FileLock

PASSWORD = "s3cret/{x}"
QUOTED = "s3cret%2F%7Bx%7D"


class Server:
    """Runs between `start` and `stop`; every `new_database` is empty."""

    def __init__(self, binaries):
        self.folder = Path(tempfile.mkdtemp(prefix="sb3-trpo-postgresql-", dir="/tmp"))  # socket paths must be short
        self.binaries, self.port, self.process = binaries, _free_port(), None
        # PostgreSQL refuses to run as root; the package brings a user.
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        (self.folder / "password").write_text(PASSWORD)
        if self.user:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        options = ["-U", "tester", "--auth=scram-sha-256", "--pwfile", self.folder / "password", "--no-sync"]
        self._run("initdb", "-D", self.folder / "data", *options)

    def _run(self, program, *arguments):
        subprocess.run(
            [self.binaries / program, *arguments], check=True, capture_output=True, cwd=self.folder, **self.user
        )

    def start(self):
        options = ["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-p", str(self.port), "-k", self.folder]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.folder / "data", *options],
                stdout=log, stderr=log, cwd=self.folder, **self.user,
            )  # fmt: skip
        for _ in range(300):
            with contextlib.suppress(subprocess.CalledProcessError):
                return self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port))
            time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self):
        self.process.send_signal(2)  # does not wait for clients
        self.process.wait(30)

    def url(self, database, password=QUOTED):
        return f"postgresql://tester:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self):
        import psycopg2

        name = f"test_{secrets.token_hex(4)}"
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="tester", password=PASSWORD, dbname="postgres"
        )
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        return self.url(name)


def binaries():
    """Where the server's programs are; they are installed where that is possible, else the test is skipped."""
    pytest.importorskip("psycopg2", reason="needs pip install 'sb3-trpo[databases]'")
    with FileLock(Path(tempfile.gettempdir()) / f"sb3-trpo-postgresql-{os.geteuid()}.lock"):
        found = _find()
        if found is None and os.geteuid() == 0 and Path("/etc/debian_version").is_file():
            quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True, "text": True}
            subprocess.run(["apt-get", "update"], check=False, **quiet)
            installed = subprocess.run(["apt-get", "install", "-y", "postgresql"], check=False, **quiet)
            found = _find()
            if found is None:
                pytest.skip(f"PostgreSQL cannot be installed by apt-get: {installed.stderr.strip()[-300:]}")
    if found is None:
        pytest.skip("needs a PostgreSQL server: on Debian, apt-get install postgresql")
    return found


def _find():
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    on_path = shutil.which("initdb")
    folders += [Path(on_path).resolve().parent] if on_path else []
    return next((folder for folder in reversed(folders) if (folder / "postgres").is_file()), None)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
