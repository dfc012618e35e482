"""A worker process of the tests: ``python -m tests.zoo.tuning_worker toy|stuck|search STORAGE N_TRIALS [SECONDS]``.

Prints ``begin N`` when trial N of the toy has its parameters, and ``end N`` after each trial. The toy's last trial
takes SECONDS, every trial of one that is stuck for ever. Heartbeats come every second, and a worker is taken for dead
after two seconds without one; or as the variable ``HEARTBEAT`` says.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import optuna

from sb3_trpo.zoo.databases import open_storage
from sb3_trpo.zoo.samplers import make_sampler
from sb3_trpo.zoo.studies import run_again, run_trials

ROOT = Path(__file__).parents[2]
INTERVAL, GRACE = map(int, os.environ.get("HEARTBEAT", "1 2").split())
NAME = "study"
FOREVER = 600
TINY = {"n_timesteps": 512, "n_seeds": 1, "n_evaluations": 2, "n_eval_episodes": 1, "n_startup": 5}


def memory_folder():
    """A parent for temporary folders: SQLite waits for the disk at every transaction, in memory it does not."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def toy_study(url):
    database = open_storage(url, INTERVAL, GRACE, on_stale=run_again)
    sampler = make_sampler("random", 0, 0)
    study = optuna.create_study(storage=database, study_name=NAME, sampler=sampler, load_if_exists=True)
    return study, database


def toy_objective(n_trials, seconds):
    def objective(trial):
        value = trial.suggest_float("x", -1, 1) ** 2
        print("begin", trial.number, flush=True)
        time.sleep(seconds if trial.number == n_trials - 1 else 0.1)
        return value

    return objective


def stuck_objective(trial):
    trial.suggest_float("x", -1, 1)
    print("begin", trial.number, flush=True)
    time.sleep(FOREVER)


def tiny_search(**settings):
    from sb3_trpo.zoo.searches import make_search

    return make_search("CartPole-v1", **{**TINY, **settings})


def start(kind, url, n_trials, seconds=0.1):
    command = [sys.executable, "-W", "ignore", "-m", "tests.zoo.tuning_worker", kind, url, str(n_trials), str(seconds)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


def wait_for(process, line):
    """Read what a worker prints until it prints ``line``."""
    for text in process.stdout:
        if text.strip() == line:
            return
    raise AssertionError(f"the worker ended before it printed {line!r}")


def finish(*processes):
    for process in processes:
        process.communicate(timeout=300)
        assert process.returncode == 0


def main():
    kind, url, n_trials, seconds = sys.argv[1:]

    def told(study, trial):
        print("end", trial.number, flush=True)

    if kind in ("toy", "stuck"):
        study, database = toy_study(url)
        objective = stuck_objective if kind == "stuck" else toy_objective(int(n_trials), float(seconds))
        run_trials(study, database, objective, int(n_trials), on_trial=told)
    else:
        from sb3_trpo.zoo.trials import work  # loads torch, which the toy does not need

        work(tiny_search(), url, NAME, int(n_trials), None, told, INTERVAL, GRACE)


if __name__ == "__main__":
    main()
