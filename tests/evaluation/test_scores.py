"""The table of scores: what was written is read, and what is wrong is refused with its place."""

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_trpo.evaluation.scores import COLUMNS, Score, final_scores, group_runs, read_scores, write_scores
from tests.evaluation.table import score

HEADER = ",".join(COLUMNS)
ROW = "Hopper-v5,TRPO,ours,0,100,1.5,0.5,1.25,10,,2.5,abc,torch 2"
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1)
number = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(0, allow_infinity=False)
row = st.builds(
    Score, text, text, text, st.integers(), st.integers(0), number, positive, number, st.integers(1),
    st.none().map(lambda _: math.nan) | number, positive, text | st.just(""), text | st.just(""),
)  # fmt: skip


def same(one, other):
    return all(a == b or (a != a and b != b) for a, b in zip(one, other, strict=True))


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(row, max_size=5, unique_by=lambda r: (r.env, r.implementation, r.seed, r.step)))
def test_what_was_written_is_read(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("scores") / "scores.csv"
    write_scores(file, rows)
    back = read_scores(file)
    assert len(back) == len(rows)
    assert all(map(same, back, rows))
    assert [type(value) for r in back for value in r] == [type(value) for r in rows for value in r]


def test_a_row_by_hand_and_columns_in_another_order(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text(f"{HEADER}\n{ROW}\n")
    (one,) = read_scores(file)
    assert one[:9] == ("Hopper-v5", "TRPO", "ours", 0, 100, 1.5, 0.5, 1.25, 10)
    assert math.isnan(one.train_return)
    assert one[10:] == (2.5, "abc", "torch 2")
    file.write_text("\n".join(",".join(reversed(line.split(","))) for line in (HEADER, ROW)))
    assert same(read_scores(file)[0], one)


def test_numbers_of_numpy_are_written_as_numbers(tmp_path):
    write_scores(tmp_path / "s.csv", [score(seed=np.int64(3), mean=np.float64(0.1), wall_s=np.float32(0.5))])
    (one,) = read_scores(tmp_path / "s.csv")
    assert (one.seed, one.eval_mean, one.wall_s) == (3, 0.1, 0.5)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", r"scores.csv is empty; its first line should be env,algo"),
        (HEADER.replace("seed,", ""), r"line 1: column 'seed' is missing"),
        (f"{HEADER},seed", r"line 1: column 'seed' appears twice"),
        (f"{HEADER},colour", r"line 1: column 'colour' is unknown"),
        (f"{HEADER}\n{ROW}\n{ROW[:-8]}", r"line 3: 12 fields instead of 13"),
        (f"{HEADER}\n{ROW.replace('1.25', 'high')}", r"line 2, column 'eval_iqm': 'high' is not a number"),
        (f"{HEADER}\n{ROW.replace('1.25', '')}", r"line 2, column 'eval_iqm': '' is not a number"),
        (f"{HEADER}\n{ROW.replace('1.25', 'nan')}", r"line 2, column 'eval_iqm': 'nan' is not finite"),
        (f"{HEADER}\n{ROW.replace(',,', ',inf,')}", r"column 'train_return': 'inf' is not finite.*field empty"),
        (f"{HEADER}\n{ROW.replace(',100,', ',1e2,')}", r"line 2, column 'step': '1e2' is not a whole number"),
        (f"{HEADER}\n{ROW.replace(',100,', ',-1,')}", r"line 2, column 'step': '-1' is not at least 0"),
        (f"{HEADER}\n{ROW.replace(',10,', ',0,')}", r"line 2, column 'n_episodes': '0' is not at least 1"),
        (f"{HEADER}\n{ROW.replace('ours', '')}", r"line 2, column 'implementation': '' is not a name"),
        (f"{HEADER}\n{ROW}\n{ROW}", r"line 3: env='Hopper-v5', .*, seed=0, step=100 stands in .*line 2 already"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path, content, complaint):
    file = tmp_path / "scores.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=complaint):
        read_scores(file)


def test_a_refused_table_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    file = tmp_path / "scores.csv"
    write_scores(file, [score()])
    before = file.read_bytes()
    for wrong, complaint in [
        ([score(), score()], r"scores\[1\]: .* stands in scores\[0\]"),
        ([score(mean=math.nan)], r"scores\[0\], column 'eval_mean': '' is not a number"),
        ([score(mean=math.inf)], r"scores\[0\], column 'eval_mean': 'inf' is not finite"),
        ([score(versions="a\rb")], r"scores\[0\], column 'versions': 'a\\rb' is not on one line"),
        ([score(implementation="")], r"scores\[0\], column 'implementation'"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            write_scores(file, wrong)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_scores(file, [score(seed=7)])
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_the_mode_of_the_file_stays(tmp_path):
    file = tmp_path / "scores.csv"
    write_scores(file, [score()])
    assert file.stat().st_mode & 0o777 == 0o644
    file.chmod(0o640)
    write_scores(file, [score()])
    assert file.stat().st_mode & 0o777 == 0o640


def test_runs_and_their_final_scores():
    rows = [
        score("B", "x", 1, 200, 4.0),
        score("B", "x", 1, 100, 3.0),
        score("B", "x", 0, 50, 9.0),
        score("A", "y", 0, 100, 5.0),
    ]
    runs = group_runs(rows)
    assert list(runs) == [("B", "x", 1), ("B", "x", 0), ("A", "y", 0)]
    assert [row.step for row in runs["B", "x", 1]] == [100, 200]
    finals = final_scores(rows)
    assert list(finals) == ["B", "A"]
    np.testing.assert_array_equal(finals["B"]["x"], [9, 4])
    np.testing.assert_array_equal(finals["A"]["y"], [5])
