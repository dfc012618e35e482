"""Markdown tables say what the numbers are."""

import numpy as np
import pytest

from sb3_trpo.evaluation import captions
from sb3_trpo.evaluation.report import markdown_report
from sb3_trpo.evaluation.statistics import Interval
from sb3_trpo.evaluation.summary import summarize
from tests.evaluation.table import campaign, score


def cells(text, heading):
    """Rows of the table under a heading."""
    part = text.split(f"### {heading}\n")[1].split("###")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]


def test_tables_hold_the_numbers_of_the_summary():
    text, summary = markdown_report(campaign()), summarize(campaign())
    header, _, *rows = cells(text, "Final scores")
    assert header == ["environment", "contestant", "mean ± std", "IQM [95% interval]", "seeds", "steps", "wall-clock"]
    assert len(rows) == 6
    final = summary.finals["Hopper-v5"]["theirs"]
    assert rows[1][:3] == ["Hopper-v5", "theirs", f"{final.mean:,.0f} ± {final.std:.0f}"]
    assert rows[1][3] == f"{final.iqm.value:,.0f} [{final.iqm.low:,.0f}, {final.iqm.high:,.0f}]"
    assert rows[1][4:] == ["5", "4,000", "6.70 min"]
    rows = cells(text, "Aggregates")[2:]
    assert [row[0] for row in rows] == ["ours", "theirs", "other"]
    for row, aggregate in zip(rows, summary.aggregates.values(), strict=True):
        assert row[1:] == [f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]" for value in aggregate]
    assert [row[0] for row in cells(text, "Probability of improvement")[2:]] == ["ours over theirs", "ours over other"]


def test_the_text_says_what_is_normalised_by_what():
    assert "0 is the lowest first evaluation of any run, 1 the final score of the best run" in markdown_report(
        campaign()
    )
    text = markdown_report([score()], references={"Hopper-v5": (0.5, 1500)})
    assert "0 and 1 are the given reference scores (Hopper-v5: 0.50 to 1,500)" in text


def test_the_text_says_what_is_not_there():
    one = markdown_report([score()])
    assert "one seed only there is no interval" in one
    assert cells(one, "Final scores")[2] == ["Hopper-v5", "sb3_trpo", "1.00 ± –", "1.00", "1", "100", "2.00 s"]
    assert "Probability" not in one
    apart = markdown_report([score("a", "x"), score("b", "y")])
    assert "### Aggregates" not in apart
    assert "there are no aggregates" in apart
    rows = [row for row in campaign() if (row.env, row.implementation) != ("Walker-v5", "other")]
    assert "Over Hopper-v5; without Walker-v5, where a contestant has no scores." in markdown_report(rows)
    assert "one seed only" not in markdown_report(campaign())


def test_lengths_that_differ_and_bars_in_names():
    rows = [
        score(implementation="a|b", seed=0),
        score(implementation="a|b", seed=1),
        score(implementation="a|b", seed=1, step=5000),
    ]
    text = markdown_report(rows)
    assert "| a\\|b |" in text
    assert "| 100–5,000 |" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.50"), (-12.34, "-12.3"), (99.96, "100"), (12345.6, "12,346"), (np.nan, "–")],
)
def test_digits(value, text):
    assert captions.number(value) == text


def test_units():
    assert [captions.duration(s) for s in (42, 204, 43200)] == ["42.0 s", "3.40 min", "12.0 h"]
    assert captions.duration(30, scale=600) == "0.50 min"
    assert captions.interval(Interval(*map(np.array, (0.5, 0.25, 0.75)))) == "0.50 [0.25, 0.75]"
    assert captions.interval(Interval(*map(np.array, (0.5, np.nan, np.nan)))) == "0.50"
