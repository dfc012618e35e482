"""Databases: what they refuse and how they say it, SQLite without races, a real PostgreSQL server."""

import shutil
import signal
import sqlite3
import tempfile
import threading

import optuna
import pytest
from optuna.trial import TrialState

from sb3_trpo.zoo import UsageError, databases
from sb3_trpo.zoo.databases import hide_password, open_storage, plain_errors
from sb3_trpo.zoo.studies import FAILURE, FINISHED, SURPLUS, ask, count
from tests.zoo import postgresql
from tests.zoo.tuning_worker import FOREVER, NAME, finish, memory_folder, start, tiny_search, toy_study, wait_for


@pytest.fixture(scope="session")
def server():
    running = postgresql.Server(postgresql.binaries())
    running.start()
    yield running
    running.stop()
    shutil.rmtree(running.folder)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("study.db", "'study.db' must be a database URL, such as sqlite:///study.db or postgresql://user@host/name"),
        ("foo://user:secret@host/x", r"'foo://user:\*\*\*@host/x' must be a database URL"),
        ("postgresql://user:secret@host:port/x", r"'postgresql://\*\*\*@host:port/x' must be a database URL"),
        ("post gres://user:secret@host/x", r"'post gres://\*\*\*@host/x' must be"),
        ("sqlite://", "'sqlite://' is gone when the process ends: name a file, such as sqlite:///study.db"),
        ("sqlite:///:memory:", "is gone when the process ends"),
        ("oracle://user:secret@host/x", r"'oracle://user:\*\*\*@host/x' needs a driver: pip install 'sb3-trpo"),
    ],
)
def test_refusals_of_urls(url, complaint):
    with pytest.raises(UsageError, match=complaint) as refusal:
        open_storage(url)
    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_hide_password():
    assert hide_password("sqlite:///runs/study.db") == "sqlite:///runs/study.db"
    assert hide_password("mysql+pymysql://me:a%40b@host:3306/x") == "mysql+pymysql://me:***@host:3306/x"
    assert hide_password("mysql://me:a@b@host:what/x") == "mysql://***@host:what/x"


def test_a_server_that_is_not_there_does_not_answer():
    pytest.importorskip("psycopg2")
    with pytest.raises(UsageError, match=r"storage 'postgresql://me:\*\*\*@127.0.0.1:1/x' does not answer: .*refused"):
        open_storage("postgresql://me:secret@127.0.0.1:1/x")


def test_a_folder_that_cannot_be_made_and_a_file_that_is_no_database(tmp_path):
    (tmp_path / "file").write_text("no database, only words, and more of them than the header of one has " * 5)
    with pytest.raises(UsageError, match=r"file/below cannot be made \(Not a directory\)"):
        open_storage(f"sqlite:///{tmp_path}/file/below/study.db")
    with pytest.raises(UsageError, match="cannot be used: file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/file")
    with pytest.raises(UsageError, match="does not answer: unable to open database file"):
        open_storage(f"sqlite:///{tmp_path}")


def test_a_file_that_another_process_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(databases, "LOCK_SECONDS", 0.2)
    url = f"sqlite:///{tmp_path}/study.db"
    study, _ = toy_study(url)
    holder = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UsageError, match=r"has been locked by another process for 0.2 seconds: end it, or choose"):
        open_storage(url)
    with pytest.raises(UsageError, match="has been locked"), plain_errors(url):
        ask(study)
    holder.execute("ROLLBACK")
    holder.close()
    assert ask(study).number == 0


def test_workers_on_sqlite_never_take_the_same_waiting_trial(tmp_path):
    """Reading that a trial waits and taking it is one step, though SQLite has no row locks."""
    url, n_trials, taken = f"sqlite:///{tmp_path}/study.db", 40, []
    study, _ = toy_study(url)
    for x in range(n_trials):
        study.enqueue_trial({"x": x / n_trials})
    gate = threading.Barrier(4)

    def take(mine):
        gate.wait()
        taken.extend(mine._pop_waiting_trial_id() for _ in range(n_trials // 4))

    threads = [threading.Thread(target=take, args=(toy_study(url)[0],)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == n_trials


def run_by_two(url, n_trials, kind):
    """Two processes that begin at once, on a database without tables."""
    finish(*[start(kind, url, n_trials) for _ in range(2)])
    study = optuna.load_study(study_name=NAME, storage=open_storage(url))
    finished = study.get_trials(states=FINISHED)
    assert len(finished) == n_trials
    assert count(study, TrialState.RUNNING, TrialState.WAITING) == 0
    assert all(trial.user_attrs[FAILURE] == SURPLUS for trial in study.get_trials(states=(TrialState.FAIL,)))
    assert len({trial.number for trial in finished}) == n_trials
    assert len({tuple(trial.params.items()) for trial in finished}) == n_trials
    return {trial.user_attrs["worker"] for trial in finished}


def kill_and_resume(url):
    """A worker is killed in the middle of trial 2; another runs that trial again, with its parameters."""
    victim = start("toy", url, 3, seconds=FOREVER)
    wait_for(victim, "begin 2")
    study, _ = toy_study(url)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert study.trials[2].state == TrialState.RUNNING
    finish(start("toy", url, 5))
    assert count(study, *FINISHED) == 5
    assert count(study, TrialState.RUNNING) == 0
    again = [trial for trial in study.get_trials(states=FINISHED) if trial.params == study.trials[2].params]
    assert [trial.system_attrs["retry_history"] for trial in again] == [[2]]


def kill_many(url, n_workers, n_more=3):
    """As many workers are killed at once, each in the middle of a trial; two others do all that is left."""
    victims = []
    for number in range(n_workers):
        victims.append(start("stuck", url, n_workers + n_more))
        wait_for(victims[-1], f"begin {number}")
    study, _ = toy_study(url)
    assert count(study, TrialState.RUNNING) == n_workers
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    for victim in victims:
        victim.communicate()
    assert count(study, TrialState.RUNNING) == n_workers
    finish(*[start("toy", url, n_workers + n_more) for _ in range(2)])
    assert count(study, *FINISHED) == n_workers + n_more
    assert count(study, TrialState.RUNNING, TrialState.WAITING) == 0
    finished = study.get_trials(states=FINISHED)
    assert len({tuple(trial.params.items()) for trial in finished}) == n_workers + n_more
    retried = {trial.system_attrs["retry_history"][-1]: trial for trial in finished if trial.system_attrs}
    assert {number: trial.params for number, trial in retried.items()} == {
        number: study.trials[number].params for number in range(n_workers)
    }
    failed = study.get_trials(states=(TrialState.FAIL,))
    assert all(trial.number < n_workers or trial.user_attrs[FAILURE] == SURPLUS for trial in failed)


def test_two_processes_share_a_sqlite_file(tmp_path):
    assert len(run_by_two(f"sqlite:///{tmp_path}/study.db", 12, "toy")) == 2


def test_a_killed_worker_on_sqlite(tmp_path):
    kill_and_resume(f"sqlite:///{tmp_path}/study.db")


def test_killed_workers_on_sqlite(tmp_path):
    kill_many(f"sqlite:///{tmp_path}/study.db", 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_twenty_killed_workers(kind, request, monkeypatch):
    monkeypatch.setenv("HEARTBEAT", "3 20")  # twenty at once, on a busy machine, may be late
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        is_file = kind == "sqlite"
        kill_many(f"sqlite:///{folder}/study.db" if is_file else request.getfixturevalue("server").new_database(), 20)


def test_two_processes_share_a_postgresql_database(server):
    assert len(run_by_two(server.new_database(), 12, "toy")) == 2


def test_a_killed_worker_on_postgresql(server):
    kill_and_resume(server.new_database())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_processes_search_together(kind, tmp_path, request):
    is_file = kind == "sqlite"
    url = f"sqlite:///{tmp_path}/study.db" if is_file else request.getfixturevalue("server").new_database()
    run_by_two(url, 12, "search")
    trials = optuna.load_study(study_name=NAME, storage=open_storage(url)).get_trials(states=FINISHED)
    assert trials[0].params["target_kl"] == tiny_search().hyperparams["target_kl"]


def test_refusals_of_postgresql_hide_the_password(server):
    for url, complaint in [
        (server.url("postgres", "wr0ng"), 'does not answer: .*password authentication failed for user "tester"'),
        (server.url("nowhere"), 'does not answer: .*database "nowhere" does not exist'),
    ]:
        with pytest.raises(UsageError, match=complaint) as refusal:
            open_storage(url)
        assert "tester:***@" in str(refusal.value)
        assert not any(word in str(refusal.value) for word in ("wr0ng", postgresql.PASSWORD, postgresql.QUOTED))


@pytest.mark.slow
def test_a_worker_outlives_a_server_that_is_away_for_a_while(server):
    """Optuna's own heartbeat ends with the first error; then others would run a trial that is running."""
    url = server.new_database()
    worker = start("toy", url, 1, seconds=12)
    wait_for(worker, "begin 0")
    study, _ = toy_study(url)
    server.stop()
    server.start()
    finish(worker, start("toy", url, 1))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]
