"""Benchmarks make every run once, whatever stops them, and keep a sound table."""

import errno
import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch as th
import yaml
from rich.console import Console

from sb3_trpo.evaluation.scores import group_runs, read_scores
from sb3_trpo.zoo.benchmark_display import LiveProgress, make_progress
from sb3_trpo.zoo.benchmark_worker import Ended, work
from sb3_trpo.zoo.benchmarking import benchmark
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.evaluations import Evaluation
from sb3_trpo.zoo.grid import read_grid
from sb3_trpo.zoo.processes import ONE_THREAD
from sb3_trpo.zoo.score_table import ScoreTable
from sb3_trpo.zoo.scored_run import scored_run, to_scores
from tests.zoo.fakes import fake_run

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENTS, SEEDS = ["CartPole-v1", "Pendulum-v1"], 2
CONTESTANTS = {
    "sb3_trpo": {"algo": "trpo", "overrides": {"n_envs": 2, "n_steps": 128}},
    "sb3-contrib": {"algo": "sb3_contrib:TRPO", "hyperparams": "contrib.yml"},
    "PPO": {"algo": "ppo", "hyperparams": "ppo.yml", "overrides": {"n_steps": 256}},
}
ENTRIES = {
    "contrib.yml": {"default": {"n_envs": 1, "n_steps": 256, "normalize": True}},
    "ppo.yml": {"default": {"n_envs": 1, "n_steps": 1024, "n_epochs": 2}},
}


def write_grid(folder, **changes):
    for name, entries in ENTRIES.items():
        (folder / name).write_text(yaml.safe_dump(entries))
    grid = {
        "environments": ENVIRONMENTS,
        "seeds": SEEDS,
        "n_timesteps": 1024,
        "eval_freq": 512,
        "n_eval_episodes": 3,
        "contestants": CONTESTANTS,
        **changes,
    }
    path = folder / "grid.yml"
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    return path


class Bench:
    """A grid, the folder of its benchmark, and what has happened there."""

    def __init__(self, folder):
        self.folder, self.output, self.fakes = folder, folder / "out", folder / "fakes"
        self.fakes.mkdir()
        self.grid = write_grid(folder)
        self.processes = []

    @property
    def table(self):
        return self.output / "scores.csv"

    def run(self, jobs=2, make_run=fake_run):
        """Work in this process; what was said."""
        said = io.StringIO()
        try:
            benchmark(self.grid, self.output, jobs, console=Console(file=said, width=500), make_run=make_run)
        finally:
            self.said = said.getvalue()
        return self.said

    def start(self, jobs=2):
        """Work in a process of its own, the leader of a group as it would be in a terminal."""
        command = [sys.executable, "-m", "tests.zoo.fakes", str(self.grid), str(self.output), str(jobs)]
        environment = {**os.environ, "COLUMNS": "500"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        return process

    def starts(self):
        """How often each run was begun."""
        return Counter(run for run, _ in self._attempts())

    def workers(self):
        """Processes of workers that live."""
        return [pid for _, pid in self._attempts() if is_alive(pid)]

    def _attempts(self):
        text = "".join(path.read_text() for path in sorted(self.output.glob("logs/*.log")))
        return [(run, int(pid)) for run, pid in re.findall(r"^started [\d: -]+: (.*), process (\d+)$", text, re.M)]

    def done(self):
        """The runs that the table has, as `starts` calls them."""
        rows = read_scores(self.table) if self.table.exists() else []
        return ["{}, {}, seed {}".format(*key) for key in group_runs(rows)]

    def n_done(self):
        return len(self.done())

    def is_sound(self):
        """Every run of the grid has its two rows, in the order of the grid; nothing lies about."""
        rows = read_scores(self.table)
        expected = [key for key in read_grid(self.grid).keys for _ in range(2)]
        assert [(row.env, row.implementation, row.seed) for row in rows] == expected
        assert [row.step for row in rows] == [512, 1024] * (len(rows) // 2)
        assert not list(self.output.glob(".*"))
        return True


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(condition, seconds=60):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.05)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path)
    monkeypatch.setenv("FAKES", str(made.fakes))
    monkeypatch.setenv("TABLE", str(made.table))
    yield made
    for process in made.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def small(bench):
    """Two contestants, one environment, one seed."""
    bench.grid = write_grid(bench.folder, environments=["CartPole-v1"], seeds=1, contestants=two_contestants())
    return bench


def two_contestants(**changes):
    return {"sb3_trpo": CONTESTANTS["sb3_trpo"], "PPO": {**CONTESTANTS["PPO"], **changes}}


def test_every_run_is_made_once_and_then_no_more(bench):
    threads = [os.environ.get(name) for name in ONE_THREAD]
    said = bench.run(jobs=3)
    assert bench.is_sound()
    assert len(bench.starts()) == 12
    assert set(bench.starts().values()) == {1}
    assert "[12/12]" in said
    assert "all 12 runs are done" in said
    assert {row.versions for row in read_scores(bench.table)} == {"threads 1; torch False"}
    log = next(bench.output.glob("logs/*")).read_text()
    assert "hello from the run" in log
    assert [os.environ.get(name) for name in ONE_THREAD] == threads

    before = bench.table.stat().st_mtime_ns
    assert "12 runs, 12 done before" in bench.run()
    assert sum(bench.starts().values()) == 12
    assert bench.table.stat().st_mtime_ns == before


@pytest.mark.parametrize("jobs", [0, -1, 1.5])
def test_a_number_of_jobs_that_makes_no_sense_is_refused(bench, jobs):
    with pytest.raises(UsageError, match=f"jobs={jobs}"):
        bench.run(jobs)


def test_the_folder_is_named_after_the_grid_by_default(small, monkeypatch):
    monkeypatch.chdir(small.folder)
    path = benchmark(small.grid, console=Console(file=io.StringIO()), make_run=fake_run)
    assert path == Path("runs/benchmark/grid/scores.csv")
    assert len(read_scores(path)) == 4


def test_killed_half_way_and_resumed(bench):
    (bench.fakes / "slow").write_text("0.3")
    kept = []
    for kill in (os.killpg, os.kill):  # all at once, as a machine goes down, and the parent alone
        n_done = bench.n_done()
        command = bench.start()
        until(lambda: bench.n_done() >= n_done + 3 and bench.workers())  # noqa: B023
        kill(command.pid, signal.SIGKILL)
        command.wait()
        until(lambda: not bench.workers(), seconds=20)
        kept.append((bench.done(), bench.starts()))
        (bench.output / ".sb3-trpo-0.tmp.csv").write_text("half written")
    assert len(kept[-1][0]) < 12
    assert bench.start().wait(60) == 0
    assert_nothing_was_repeated(bench, kept)


def assert_nothing_was_repeated(bench, kept):
    """``kept``: after each kill, the runs that were done and how often each had been started."""
    assert bench.is_sound()
    starts = bench.starts()
    assert len(starts) == 12
    for done, before in kept:
        assert [starts[run] for run in done] == [before[run] for run in done]
    assert sum(starts.values()) <= 12 + 2 * len(kept), "only those that were under way are made again"


def test_workers_end_when_their_parent_is_killed(small):
    (small.fakes / "slow").write_text("60")
    command = small.start()
    until(lambda: len(small.workers()) == 2)
    command.kill()
    until(lambda: not small.workers(), seconds=20)


def test_two_commands_at_once_share_the_runs(bench):
    (bench.fakes / "slow").write_text("0.4")
    commands = [bench.start(), bench.start()]
    assert [command.wait(90) for command in commands] == [0, 0]
    assert bench.is_sound()
    assert set(bench.starts().values()) == {1}
    said = [command.stderr.read() for command in commands]
    assert all("all 12 runs are done" in text for text in said)


def test_ctrl_c_stops_the_workers_and_keeps_what_is_done(bench):
    (bench.fakes / "slow").write_text("0.3")
    command = bench.start()
    until(lambda: bench.n_done() >= 1 and bench.workers())
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    assert command.wait(20) == 130
    said = command.stderr.read()
    n_done = bench.n_done()
    assert 1 <= n_done < 12
    assert f"interrupted: {n_done} of 12 runs are done and kept; the same command goes on" in said
    assert "Traceback" not in said
    assert not bench.workers()
    (bench.fakes / "slow").unlink()
    bench.run()
    assert bench.is_sound()


def test_a_run_that_raises_is_reported_and_tried_again(bench):
    (bench.fakes / "raise-PPO").touch()
    with pytest.raises(UsageError, match=r"4 of 12 runs failed, see .*logs: the same command tries them again"):
        bench.run()
    (line,) = [line for line in bench.said.splitlines() if line.startswith("failed: CartPole-v1, PPO, seed 1")]
    assert "ArithmeticError: this one fails (log: " in line
    assert "Traceback" in Path(line.split("log: ")[1].removesuffix(")")).read_text()
    assert bench.n_done() == 8
    (bench.fakes / "raise-PPO").unlink()
    assert "8 done before" in bench.run()
    assert bench.is_sound()
    assert sum(bench.starts().values()) == 12 + 4


def test_a_worker_that_is_killed_is_reported_and_tried_again(small):
    (small.fakes / "die-PPO").touch()
    with pytest.raises(UsageError, match="1 of 2 runs failed"):
        small.run()
    assert "failed: CartPole-v1, PPO, seed 0: its process ended with signal SIGKILL" in small.said
    (small.fakes / "die-PPO").unlink()
    small.run()
    assert small.is_sound()


def test_other_hyperparameters_make_the_runs_of_one_contestant_again(bench):
    bench.run(jobs=3)
    before = read_scores(bench.table)
    contestants = {**CONTESTANTS, "PPO": {**CONTESTANTS["PPO"], "overrides": {"n_steps": 128}}}
    bench.grid = write_grid(bench.folder, contestants=contestants)
    said = bench.run(jobs=3)
    assert "12 runs, 8 done before" in said
    for env in ENVIRONMENTS:
        assert f"{env}, PPO, seeds 0, 1: scores of other settings, made again and replaced" in said
    assert bench.is_sound()
    assert Counter(run.split(", ")[1] for run in bench.starts().elements()) == {
        "sb3_trpo": 4,
        "sb3-contrib": 4,
        "PPO": 8,
    }
    after = read_scores(bench.table)
    assert [row for row in after if row.implementation != "PPO"] == [
        row for row in before if row.implementation != "PPO"
    ]
    assert not {row.config_hash for row in after if row.implementation == "PPO"} & {row.config_hash for row in before}


def test_rows_of_what_is_no_longer_in_the_grid_stay(small):
    small.run()
    kept = read_scores(small.table)
    small.grid = write_grid(small.folder, environments=["CartPole-v1"], seeds=[5], contestants=two_contestants())
    small.run()
    rows = read_scores(small.table)
    assert [row.seed for row in rows] == [5] * 4 + [0] * 4
    assert rows[4:] == kept


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda text: "", "is empty", id="empty"),
        pytest.param(lambda text: "garbage\n", "line 1", id="garbage"),
        pytest.param(lambda text: text[: len(text) // 2], "ends within a line", id="half"),
        pytest.param(lambda text: text[:-1], "ends within a line", id="no last sign"),
        pytest.param(lambda text: text + text.splitlines()[-1] + "\n", "stands in", id="a row twice"),
        pytest.param(lambda text: text.replace(",512,", ",many,", 1), "'many' is not a whole number", id="words"),
        pytest.param(lambda text: text.replace("CartPole", "\udcff", 1), "can't decode", id="bytes"),
    ],
)
def test_a_spoilt_table_is_refused_and_left_alone(small, spoil, words):
    table = ScoreTable(small.output)
    table.open()
    for run in read_grid(small.grid).runs:
        table.replace(run, fake_run(run, lambda *seen: None))
    small.table.write_text(spoil(small.table.read_text()), errors="surrogateescape")
    before = small.table.read_bytes()
    with pytest.raises(UsageError) as refusal:
        small.run()
    text = str(refusal.value)
    assert text.startswith(str(small.table))
    assert words in text
    assert text.endswith("mend it, or move it away to begin anew")
    assert "\n" not in text
    assert small.table.read_bytes() == before


def test_a_table_that_is_spoilt_on_the_way_ends_the_benchmark_and_is_left_alone(bench):
    (bench.fakes / "garble").touch()
    with pytest.raises(UsageError, match=r"scores.csv ends within a line: mend it"):
        bench.run(jobs=1)
    assert bench.table.read_text() == "spoilt"
    assert sum(bench.starts().values()) == 1


def test_a_full_disk_leaves_the_table_as_it_was(small, monkeypatch):
    small.run()
    before = small.table.read_bytes()
    run = read_grid(small.grid).runs[0]
    rows = [row._replace(config_hash="new") for row in read_scores(small.table) if row.implementation == "sb3_trpo"]

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"scores.csv cannot be written: No space left on device"):
        ScoreTable(small.output).replace(run, rows)
    assert small.table.read_bytes() == before
    assert small.is_sound()


def test_a_folder_that_cannot_be_made_is_refused(small):
    small.output.write_text("a file")
    with pytest.raises(UsageError, match="out cannot be written to"):
        small.run()


def test_a_run_that_another_process_holds_is_waited_for(small):
    """Its owner finishes one run and gives up the other."""
    grid, table = read_grid(small.grid), ScoreTable(small.output)
    table.open()
    made, given_up = grid.runs
    has_them = threading.Event()

    def owner():
        with table.lock(made), table.lock(given_up):
            has_them.set()
            time.sleep(2.5)
            table.replace(made, fake_run(made, lambda *seen: None))

    thread = threading.Thread(target=owner)
    thread.start()
    has_them.wait()
    said = small.run()
    thread.join()
    assert f"{made}: under way in another process" in said
    assert small.is_sound()
    assert list(small.starts()) == [str(given_up)]


def talk(run, folder):
    ours, theirs = multiprocessing.Pipe(duplex=False)
    arguments = (run, folder, [run.key], theirs, fake_run)
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    theirs.close()
    said = []
    try:
        while True:
            said.append(ours.recv())
    except EOFError:
        process.join()
        return said


def test_a_worker_looks_again_when_it_has_the_lock(small):
    run, table = read_grid(small.grid).runs[0], ScoreTable(small.output)
    table.open()
    with table.lock(run):
        assert talk(run, small.output) == [Ended("busy")]
    table.replace(run, fake_run(run, lambda *seen: None))
    assert talk(run, small.output) == [Ended("done")]
    assert not small.starts()


def test_packages_are_imported_by_workers(small):
    said = io.StringIO()
    with pytest.raises(UsageError, match="2 of 2 runs failed"):
        benchmark(
            small.grid, small.output, console=Console(file=said, width=500), make_run=fake_run, packages=["no_module"]
        )
    assert "ModuleNotFoundError: No module named 'no_module'" in said.getvalue()


def test_names_of_files_are_harmless_and_differ(small):
    contestants = {"../a b": CONTESTANTS["sb3_trpo"], "../a_b": CONTESTANTS["sb3_trpo"]}
    small.grid = write_grid(small.folder, environments=["CartPole-v1"], seeds=1, contestants=contestants)
    small.run()
    assert small.is_sound()
    assert len(list(small.output.glob("logs/*.log"))) == 2


def test_the_live_table_shows_what_is_going_on(tmp_path):
    runs = read_grid(write_grid(tmp_path)).runs
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=120, height=40, color_system=None)
    last = last_row(runs[0])
    with make_progress(runs, 2, tmp_path / "scores.csv", console) as progress:
        assert isinstance(progress, LiveProgress)
        progress.begin([(runs[0], last)], [])
        progress.seen(runs[1], 512, 321.5)
        progress.failed(runs[2], "ValueError: [no] markup", tmp_path / "grid.yml")
        progress.elsewhere(runs[3])
        console.print(progress.table())
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said.getvalue())
    for words in (
        "1 of 12 runs done, 1 failed, 10 left, about",
        "seed 0 50% 322",
        "seed 0 failed",
        "seed 0 elsewhere",
        "1/2",
        "ValueError: [no] markup",
    ):
        assert words in text


def last_row(run):
    return ScoreRow(run, step=run.n_timesteps, wall_s=100.0)


def ScoreRow(run, **values):
    (row, *_) = to_scores(run, [evaluation(values.pop("step"), [1.0])])
    return row._replace(**values)


def evaluation(step, returns):
    returns = np.array(returns)
    return Evaluation(step, returns, np.full(len(returns), 7), 12.3456789, 1.23456)


def test_the_time_left_is_that_of_runs_alike(tmp_path):
    runs = read_grid(write_grid(tmp_path)).runs
    progress = make_progress(runs, 2, tmp_path, Console(file=io.StringIO()))
    assert progress.time_left() == "an unknown time"
    progress.begin([(runs[0], last_row(runs[0]))], [])
    assert progress.time_left() == "about 9.17 min"  # 11 x 100 s / 2


def test_a_run_becomes_rows(tmp_path):
    run = read_grid(write_grid(tmp_path)).runs[1]
    rows = to_scores(run, [evaluation(512, [1.0, 2.0, 4.0, 9.0]), evaluation(1024, [1.0, 2.0, 3.0, 4.0])])
    assert [row.step for row in rows] == [512, 1024]
    row = rows[0]
    assert (row.env, row.algo, row.implementation, row.seed) == ("CartPole-v1", "TRPO", "sb3-contrib", 0)
    assert (row.eval_mean, row.eval_iqm, row.n_episodes, row.train_return, row.wall_s) == (
        4.0,
        3.0,
        4,
        12.345679,
        1.235,
    )
    assert row.eval_std == pytest.approx(np.std([1.0, 2.0, 4.0, 9.0]), abs=1e-6)
    assert row.config_hash == run.config_hash
    for name in ("sb3_trpo 0", "torch 2", "stable_baselines3 2", "gymnasium 1", "sb3_contrib 2", "python 3"):
        assert name in row.versions


@pytest.mark.parametrize(
    ("evaluations", "words"),
    [
        ([], "ended after 0 of 1,024 steps"),
        ([(512, [1.0])], "ended after 512 of 1,024 steps"),
        ([(512, [np.nan]), (1024, [1.0])], "after 512 steps: returns"),
        ([(1024, [np.inf, 1.0])], "after 1,024 steps: returns"),
    ],
)
def test_half_a_run_has_no_rows(tmp_path, evaluations, words):
    run = read_grid(write_grid(tmp_path)).runs[0]
    with pytest.raises(UsageError, match=words):
        to_scores(run, [evaluation(*seen) for seen in evaluations])


def test_a_run_is_trained_and_reports_how_far_it_is(tmp_path):
    run = read_grid(write_grid(tmp_path)).runs[0]
    seen, threads = [], th.get_num_threads()
    rows = scored_run(run, lambda step, mean: seen.append((step, mean)))
    th.set_num_threads(threads)
    assert [row.step for row in rows] == [512, 1024]
    assert [(row.step, row.eval_mean) for row in rows] == [(s, round(m, 6)) for s, m in seen if s in (512, 1024)]
    assert seen[0][1] is None
    assert 0 < rows[0].wall_s < rows[1].wall_s


@pytest.mark.slow
def test_real_runs_killed_and_resumed_give_the_scores_of_an_undisturbed_benchmark(bench):
    code = "import sys; from sb3_trpo.zoo.cli import main\nif __name__ == '__main__': sys.exit(main())"

    def start(output):
        command = [sys.executable, "-c", code, "benchmark", str(bench.grid), "-o", str(output)]
        bench.processes.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True))
        return bench.processes[-1]

    undisturbed = bench.folder / "undisturbed"
    assert start(undisturbed).wait(600) == 0
    kept = []
    for kill in (os.killpg, os.kill):
        n_done = bench.n_done()
        command = start(bench.output)
        until(lambda: bench.n_done() >= n_done + 3, seconds=300)  # noqa: B023
        time.sleep(1)
        kill(command.pid, signal.SIGKILL)
        command.wait()
        until(lambda: not bench.workers(), seconds=20)
        kept.append((bench.done(), bench.starts()))
    assert start(bench.output).wait(600) == 0
    assert_nothing_was_repeated(bench, kept)
    runs = [read_scores(path) for path in (undisturbed / "scores.csv", bench.table)]
    one, other = ([row._replace(wall_s=0.0) for row in rows] for rows in runs)
    assert str(one) == str(other)  # NaN is not equal to itself
