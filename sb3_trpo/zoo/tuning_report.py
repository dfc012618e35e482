"""What a search leaves behind: the entry that it found, tables of its trials and curves, and plots."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial

from sb3_trpo.zoo.confirmation import Choice, choose
from sb3_trpo.zoo.databases import hide_password
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.files import write_text
from sb3_trpo.zoo.hyperparams import format_entry
from sb3_trpo.zoo.searches import Search
from sb3_trpo.zoo.studies import FAILURE
from sb3_trpo.zoo.trials import curves, tried


class Report(NamedTuple):
    """The files, a sentence for each that could not be made, and the trial that was chosen, if any."""

    files: list[Path]
    notes: list[str]
    choice: Choice | None


def write_report(search: Search, study: optuna.Study, folder: str | Path) -> Report:
    """Write ``best.yml``, ``trials.csv``, ``curves.csv`` and the plots of `sb3_trpo.zoo.tuning_plots` into ``folder``.

    :raises UsageError: when the folder cannot be written to
    """
    folder = Path(folder)
    trials = study.get_trials(deepcopy=False)
    files = [folder / "trials.csv", folder / "curves.csv"]
    write_text(files[0], _csv(trial_rows(trials)))
    write_text(files[1], _csv(curve_rows(trials)))
    try:
        choice = choose(search, study)
    except UsageError as error:
        failures = [trial.user_attrs[FAILURE] for trial in trials if FAILURE in trial.user_attrs]
        why = f" (the first failed: {failures[0]})" if failures else ""
        return Report(files, [f"{error}{why}: there is nothing to choose from, and nothing to plot"], None)
    write_text(folder / "best.yml", best_entry(search, study, choice))
    files.insert(0, folder / "best.yml")
    try:
        from sb3_trpo.zoo.tuning_plots import draw
    except ImportError as error:
        return Report(files, [f"no plots: pip install 'sb3-trpo[tune]' ({error})"], choice)
    drawn, left_out = draw(search, study, choice, folder)
    return Report(files + drawn, left_out, choice)


def best_entry(search: Search, study: optuna.Study, choice: Choice) -> str:
    """YAML of the entry that was chosen, ready for a hyperparameter file, with what speaks for it."""
    seeds = sorted(choice.curves)
    span = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {search.seed}"
    error = "" if choice.error is None else f" ± {choice.error:.2g}, fresh"
    value = f"{search.score} return {choice.value:.4g}{error} (mean of {span})"
    baseline = "" if choice.baseline is None else f"; where the search began: {choice.baseline:.4g}"
    about = (
        f"# {value} after {search.n_timesteps:,} steps{baseline}.\n"
        f"# Trial {choice.trial.number} of study {study.study_name}, "
        f"{search.sampler} sampler, {search.pruner} pruner, search seed {search.seed}.\n"
    )
    return about + format_entry(search.env_id, tried(search, choice.trial))


def trial_rows(trials: Iterable[FrozenTrial]) -> list[dict[str, Any]]:
    """Number, state, value, parameters, runs and seconds of each trial, and why it failed."""
    trials = list(trials)
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "value": trial.value,
            **{name: trial.params.get(name) for name in names},
            "n_runs": trial.user_attrs.get("n_runs", 0),
            "seconds": None if trial.duration is None else round(trial.duration.total_seconds(), 2),
            "failure": trial.user_attrs.get(FAILURE),
        }
        for trial in trials
    ]


def curve_rows(trials: Iterable[FrozenTrial]) -> list[dict[str, Any]]:
    """Mean return of each evaluation of each run of each trial."""
    return [
        {"trial": trial.number, "seed": seed, "step": step, "mean_return": mean}
        for trial in trials
        for seed, curve in curves(trial)
        for step, mean in curve
    ] or [dict.fromkeys(("trial", "seed", "step", "mean_return"))]


def dashboard(storage: str) -> str:
    """How to look at a study in a browser."""
    return f"pip install optuna-dashboard; optuna-dashboard {hide_password(storage)}"


def _csv(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else ["number"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for row in rows if any(value is not None for value in row.values()))
    return stream.getvalue()
