"""The table of scores: a CSV file with one row per evaluation of a training run.

A run is one seed of one implementation in one environment; its rows differ in ``step``, and the row with the largest
step is its final score. Reading and writing check the same things, so what was written can be read.
"""

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sb3_trpo.files import replacing


class Score(NamedTuple):
    """One evaluation: ``n_episodes`` episodes, played by the policy after ``step`` environment steps of training.

    ``eval_mean``, ``eval_std`` and ``eval_iqm`` are mean, standard deviation and interquartile mean of the returns of
    these episodes; ``train_return`` is that of recent training episodes, NaN (an empty field) where none has ended;
    ``wall_s`` are seconds spent on training so far.
    """

    env: str
    algo: str
    implementation: str
    seed: int
    step: int
    eval_mean: float
    eval_std: float
    eval_iqm: float
    n_episodes: int
    train_return: float
    wall_s: float
    config_hash: str
    versions: str


Run: TypeAlias = tuple[str, str, int]
"""Environment, implementation, seed."""

COLUMNS = Score._fields
MAY_BE_MISSING = ("train_return",)
MAY_BE_EMPTY = ("config_hash", "versions")
SMALLEST = {"step": 0, "eval_std": 0, "n_episodes": 1, "wall_s": 0}


def read_scores(path: str | os.PathLike[str]) -> list[Score]:
    """Read the table, in the order of the file.

    :raises ValueError: for an empty file, a column that is missing or unknown, a field that does not hold what its
        column should, or a second row of the same run and step; it names file, line, column and value
    """
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        header = next(reader, None)
        if header is None:
            raise ValueError(f"{path} is empty; its first line should be {','.join(COLUMNS)}")
        _check_header(path, header)
        scores, lines = [], []
        for row in reader:
            lines.append(reader.line_num)
            if len(row) != len(header):
                raise ValueError(f"{path}, line {lines[-1]}: {len(row)} fields instead of {len(header)}")
            fields = dict(zip(header, row, strict=True))
            scores.append(_parse(fields, f"{path}, line {lines[-1]}"))
    _refuse_duplicates(scores, [f"{path}, line {line}" for line in lines])
    return scores


def write_scores(path: str | os.PathLike[str], scores: Iterable[Score]) -> None:
    """Write the table whole or not at all.

    :raises ValueError: for what `read_scores` would refuse; the old file stays
    :raises OSError: naming the file, when it cannot be written; the old one stays
    """
    rows = list(scores)
    texts = [{name: _text(value) for name, value in row._asdict().items()} for row in rows]
    places = [f"scores[{index}]" for index in range(len(rows))]
    for fields, place in zip(texts, places, strict=True):
        _parse(fields, place)
    _refuse_duplicates(rows, places)
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(fields.values() for fields in texts)


def group_runs(scores: Iterable[Score]) -> dict[Run, list[Score]]:
    """The rows of every run by ascending step; runs in the order in which they first appear."""
    runs: dict[Run, list[Score]] = {}
    for score in scores:
        runs.setdefault((score.env, score.implementation, score.seed), []).append(score)
    return {run: sorted(rows, key=lambda row: row.step) for run, rows in runs.items()}


def final_scores(scores: Iterable[Score]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Environment -> implementation -> ``eval_mean`` of the last row of every run (seeds,), by ascending seed."""
    runs = group_runs(scores)
    finals: dict[str, dict[str, list[float]]] = {}
    for env, implementation, _ in runs:
        finals.setdefault(env, {})[implementation] = []
    for env, implementation, seed in sorted(runs):
        finals[env][implementation].append(runs[env, implementation, seed][-1].eval_mean)
    return {env: {name: np.array(values) for name, values in group.items()} for env, group in finals.items()}


def _check_header(path: str | os.PathLike[str], header: Sequence[str]) -> None:
    for name in COLUMNS:
        if header.count(name) != 1:
            problem = "is missing" if name not in header else "appears twice"
            raise ValueError(f"{path}, line 1: column {name!r} {problem}; expected {','.join(COLUMNS)}")
    for name in header:
        if name not in COLUMNS:
            raise ValueError(f"{path}, line 1: column {name!r} is unknown; expected {','.join(COLUMNS)}")


def _parse(fields: Mapping[str, str], place: str) -> Score:
    values: dict[str, Any] = {name: _value(name, fields[name], place) for name in COLUMNS}
    return Score(**values)


def _value(name: str, text: str, place: str) -> str | int | float:
    """The field as the type of its column."""

    def refuse(expected: str) -> ValueError:
        return ValueError(f"{place}, column {name!r}: {text!r} is not {expected}")

    kind = Score.__annotations__[name]
    if kind is str:
        if not text and name not in MAY_BE_EMPTY:
            raise refuse("a name; write one")
        if "\r" in text or "\n" in text:
            raise refuse("on one line; leave line breaks out")
        return text
    if not text and name in MAY_BE_MISSING:
        return math.nan
    try:
        value = int(text) if kind is int else float(text)
    except ValueError:
        raise refuse("a whole number" if kind is int else "a number") from None
    if not math.isfinite(value):
        raise refuse("finite; leave such a run out" + (", or the field empty" if name in MAY_BE_MISSING else ""))
    if value < SMALLEST.get(name, -math.inf):
        raise refuse(f"at least {SMALLEST[name]}")
    return value


def _text(value: str | int | float) -> str:
    """Digits enough to read the same number again; NaN is an empty field, which only ``train_return`` may have."""
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else str(value)


def _refuse_duplicates(scores: Sequence[Score], places: Sequence[str]) -> None:
    first: dict[tuple[str, str, int, int], str] = {}
    for score, place in zip(scores, places, strict=True):
        key = (score.env, score.implementation, score.seed, score.step)
        if key in first:
            what = ", ".join(f"{name}={getattr(score, name)!r}" for name in ("env", "implementation", "seed", "step"))
            raise ValueError(f"{place}: {what} stands in {first[key]} already; keep one of the two")
        first[key] = place
