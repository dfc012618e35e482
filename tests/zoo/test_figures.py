"""Scores gathered from tables and run folders."""

import pytest

from sb3_trpo.evaluation.scores import Score, write_scores
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.figures import gather, plot


def table(folder, seed=0, config_hash="a", value=1.0):
    folder.mkdir()
    row = Score("CartPole-v1", "TRPO", "trpo", seed, 100, value, 0.0, value, 5, value, 1.0, config_hash, "")
    write_scores(folder / "scores.csv", [row, row._replace(step=200, wall_s=2.0)])
    return folder


def test_a_source_counts_once_however_it_is_named(tmp_path):
    run = table(tmp_path / "run_1")
    rows = gather([run, run / "scores.csv", tmp_path / "." / "run_1"])
    assert len(rows) == 2


def test_runs_of_one_seed_are_told_apart(tmp_path):
    rows = gather([table(tmp_path / "run_1"), table(tmp_path / "run_2")])
    assert [row.implementation for row in rows] == ["trpo"] * 4
    assert len({row.seed for row in rows}) == 2


def test_runs_of_different_settings_are_no_seeds_of_one_contestant(tmp_path):
    rows = gather([table(tmp_path / "run_1"), table(tmp_path / "run_2", seed=1, config_hash="b")])
    assert {row.implementation for row in rows} == {"trpo, run_1", "trpo, run_2"}


def test_what_holds_no_scores_is_refused(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        gather([tmp_path / "nowhere"])
    (tmp_path / "scores.csv").write_text("env,seed\n")
    with pytest.raises(UsageError, match="column"):
        gather([tmp_path / "scores.csv"])


def test_plots_lie_beside_the_first_source(tmp_path):
    run = table(tmp_path / "run_1")
    files = plot([run, table(tmp_path / "run_2", seed=1)])
    assert {file.parent.resolve() for file in files} == {run.resolve()}
    assert {file.suffix for file in files} == {".png", ".html"}
    assert all(file.stat().st_size > 1000 for file in files)
