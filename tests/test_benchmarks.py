"""`benchmarks.speed`: the arithmetic of its tables, and the whole command on a small scale."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.readme import PLACE, compared, with_scores
from benchmarks.speed_plot import Measurement, Table, learn_table, main_table, read, read_conditions, replace_row
from sb3_trpo.evaluation.scores import read_scores
from sb3_trpo.evaluation.summary import summarize

ROOT = Path(__file__).parent.parent


def test_the_scores_in_the_readme_are_those_of_the_committed_results():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert PLACE.search(readme)
    assert with_scores(readme) == readme, "make readme"
    assert with_scores(readme.replace("| 500 ± 0.00 |", "| 501 ± 0.00 |")) == readme


def seconds(row, contestant, values, metric="update_s", size=0):
    return [Measurement(row, contestant, k, metric, value, size) for k, value in enumerate(values)]


def test_a_ratio_is_the_median_of_the_ratios_within_repetitions():
    table = Table([*seconds("train64", "sb3_trpo", [1, 2, 10]), *seconds("train64", "sb3_contrib", [5, 4, 30])])
    assert table.median("train64", "sb3_trpo", "update_s") == 2
    assert table.ratio("train64", ("sb3_contrib", "update_s"), ("sb3_trpo", "update_s")) == 3  # of 5, 2, 3


def test_the_slope_is_the_exponent_of_a_power_law():
    sizes = (1024, 4096, 65536)
    table = Table([m for n in sizes for m in seconds("scaling", "sb3_trpo", [3e-5 * n**1.5], "update_s by rows", n)])
    assert table.slope("sb3_trpo", "rows") == pytest.approx(1.5)


def test_measuring_a_row_again_replaces_this_row_only(tmp_path):
    first, other = seconds("train64", "sb3_trpo", [1.0, 2.0]), seconds("memory", "sb3_trpo", [3.0])
    replace_row(tmp_path, "memory", other, {"runs": 1})
    replace_row(tmp_path, "train64", first, {"runs": 2})
    assert read(tmp_path) == [*first, *other]
    again = seconds("train64", "sb3_trpo", [4.0])
    replace_row(tmp_path, "train64", again, {"runs": 1})
    assert read(tmp_path) == [*again, *other]
    assert read_conditions(tmp_path) == {"train64": {"runs": 1}, "memory": {"runs": 1}}


@pytest.mark.slow
def test_the_speed_benchmark_leaves_figures_tables_and_what_they_are_made_of(tmp_path):
    command = [sys.executable, "-m", "benchmarks.speed", "--output", str(tmp_path)]
    options = ["--quick", "--only", "cartpole", "train64"]
    measured = subprocess.run([*command, *options], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "warning" not in measured.stderr, "the replayed actions did not visit the same states"
    assert {path.name for path in tmp_path.iterdir()} == {"measurements.csv", "conditions.json", "learn.png"}
    with (tmp_path / "measurements.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    found = {(row["row"], row["contestant"], row["metric"]) for row in rows}
    for contestant in ("sb3_trpo", "sb3_contrib"):
        parts = ("learn_us", "environment_us", "rollout_us", "actor_us", "critic_us")
        assert {("cartpole", contestant, part) for part in parts} <= found
        assert {("train64", contestant, part) for part in ("update_s", "actor_s", "critic_s", "cg_steps")} <= found
    assert ("cartpole", "ppo", "learn_us") in found
    assert json.loads((tmp_path / "conditions.json").read_text())["cartpole"]["quick"]
    assert "| work | sb3_trpo | sb3-contrib | ratio | reach |" in measured.stdout

    (tmp_path / "learn.png").unlink()
    drawn = subprocess.run([*command, "--plot-only"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert drawn.stdout == measured.stdout
    assert (tmp_path / "learn.png").exists()


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def test_every_benchmark_can_be_imported(name):
    subprocess.run([sys.executable, "-W", "ignore", "-c", f"import benchmarks.{name}"], check=True, cwd=ROOT)


def test_contestants_are_compared_with_the_first():
    """Half of the ties count as better, so that two probabilities are one together."""
    lines = compared("benchmarks/tuned").splitlines()
    scores = summarize(read_scores(ROOT / "benchmarks" / "tuned" / "scores.csv"))
    assert len(lines) == 2 + len(scores.contestants)
    first, second = (line.strip("| ").split(" | ") for line in lines[2:4])
    assert (first[0], second[0]) == tuple(scores.contestants[:2])
    assert len(second) == len(scores.compared) + 3
    value, low, high = map(float, re.findall(r"[\d.]+", second[-1]))
    over = scores.improvement[second[0]]
    assert (value, low, high) == pytest.approx((1 - over.value, 1 - over.high, 1 - over.low), abs=0.006)


def test_the_readme_has_the_tables_of_the_last_measurement():
    table, readme = Table(read(ROOT / "benchmarks" / "speed")), (ROOT / "README.md").read_text()
    assert main_table(table) in readme, "put in what `python -m benchmarks.speed --plot-only` prints"
    assert learn_table(table) in readme
