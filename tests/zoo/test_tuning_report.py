"""What a search writes: tables, the entry, figures, and what it says when there is too little to draw."""

import csv

import matplotlib.image
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from sb3_trpo.zoo import UsageError, load_hyperparams
from sb3_trpo.zoo.hyperparams import plain, read_entries
from sb3_trpo.zoo.searches import Space, make_search
from sb3_trpo.zoo.studies import FAILURE
from sb3_trpo.zoo.trials import best_trial, whole_trials
from sb3_trpo.zoo.tuning_display import state_line, trial_line
from sb3_trpo.zoo.tuning_report import dashboard, write_report

SEARCH = make_search("Pendulum-v1", n_timesteps=10_000, n_seeds=3)
FIGURES = ["learning_curves.png", "history.png", "importances.png", "slice.png"]


def make_study(n_trials):
    """Trials of the real space, each but every fourth on all seeds; the first is the baseline, the last has failed."""
    study = optuna.create_study(study_name="made", direction="maximize")
    sampler = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = Space(1, True)
    for number in range(n_trials):
        trial = sampler.ask(fixed_distributions=None)
        fixed = trial if number else optuna.trial.FixedTrial(space.start(SEARCH.hyperparams))
        hyperparams = plain(space.sample(fixed, SEARCH.hyperparams))
        n_runs = 2 if number % 4 == 3 else 3
        value = -200.0 - 50 * abs(np.log10(hyperparams["target_kl"] / 0.05)) - 900 * (number == 5)
        curves = {
            f"curve_{seed}": [[s, value - 1000 / s - seed] for s in (2048, 6144, 10240)] for seed in range(n_runs)
        }
        attributes = {"hyperparams": hyperparams, "n_runs": n_runs, **curves}
        study.add_trial(
            create_trial(
                value=value, params=fixed.params, distributions=fixed.distributions, user_attrs=attributes
            )
        )  # fmt: skip
    study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs={FAILURE: "mean return nan after 2048 steps"}))
    return study


def rows(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_all_files_of_a_search(tmp_path):
    study = make_study(12)
    files, notes, choice = write_report(SEARCH, study, tmp_path / "new")
    assert notes == []
    assert [path.name for path in files] == ["best.yml", "trials.csv", "curves.csv", *FIGURES, "plots.html"]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {path.name for path in files}  # no temporary left
    assert choice.trial.number == best_trial(study).number

    trials = rows(files[1])
    assert len(trials) == 13
    assert [int(trial["number"]) for trial in trials] == list(range(13))
    assert float(trials[3]["value"]) == study.trials[3].value
    assert float(trials[3]["target_kl"]) == study.trials[3].params["target_kl"]
    assert (trials[3]["n_runs"], trials[3]["state"]) == ("2", "COMPLETE")
    assert trials[12]["failure"] == "mean return nan after 2048 steps"
    curves = rows(files[2])
    assert len(curves) == (12 * 3 - 3) * 3
    assert curves[0] == {
        "trial": "0",
        "seed": "0",
        "step": "2048",
        "mean_return": str(study.trials[0].value - 1000 / 2048),
    }

    for name in FIGURES:
        image = matplotlib.image.imread(tmp_path / "new" / name)
        assert min(image.shape[:2]) > 300
        assert image[..., :3].std() > 0.05
    html = (tmp_path / "new" / "plots.html").read_text()
    assert html.count('class="plotly-graph-div"') >= 4
    assert "<script src=" not in html
    assert "made" in html


def test_the_entry_is_ready_for_a_hyperparameter_file(tmp_path):
    study = make_study(6)
    write_report(SEARCH, study, tmp_path)
    text = (tmp_path / "best.yml").read_text()
    best = best_trial(study)
    assert text.startswith(
        f"# final return {best.value:.4g} (mean of seeds 0 to 2) after 10,000 steps; where the search"
    )
    assert f"began: {study.trials[0].value:.4g}.\n# Trial {best.number} of study made, tpe sampler, wilcoxon" in text
    assert max(map(len, text.splitlines())) <= 120
    entry = read_entries(tmp_path / "best.yml")["Pendulum-v1"]
    assert entry == load_hyperparams("trpo", "Pendulum-v1", tmp_path / "best.yml")
    assert entry["n_timesteps"] == SEARCH.hyperparams["n_timesteps"] != SEARCH.n_timesteps
    assert entry["target_kl"] == best.user_attrs["hyperparams"]["target_kl"]


def test_a_trial_that_met_the_easy_seeds_only_is_not_the_best():
    study = make_study(4)
    lucky = study.trials[3]
    study.add_trial(
        create_trial(value=0.0, params=lucky.params, distributions=lucky.distributions, user_attrs={"n_runs": 1})
    )
    assert study.best_value == 0.0
    assert best_trial(study).user_attrs["n_runs"] == 3
    assert lucky.number not in [trial.number for trial in whole_trials(study)]


def test_one_trial_gives_no_comparison(tmp_path):
    files, notes, choice = write_report(SEARCH, make_study(1), tmp_path)
    assert choice.trial.number == 0
    assert notes == [f"{name} is not drawn: it takes 2 complete trials, there is 1" for name in FIGURES[2:]]
    assert {path.name for path in files} == {"best.yml", "trials.csv", "curves.csv", *FIGURES[:2], "plots.html"}


def test_two_equal_trials_have_no_importances(tmp_path):
    study = make_study(1)
    study.add_trial(study.trials[0])
    _, notes, _ = write_report(SEARCH, study, tmp_path)
    assert notes == ["importances.png is not drawn: all trials have the same value"]


def test_nothing_to_choose_from_is_said_with_the_reason(tmp_path):
    files, notes, choice = write_report(SEARCH, make_study(0), tmp_path)
    assert [path.name for path in files] == ["trials.csv", "curves.csv"]
    assert choice is None
    (note,) = notes
    assert "no trial that ran to its end (the first failed: mean return nan after 2048 steps)" in note
    assert files[1].read_text() == "trial,seed,step,mean_return\n"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    write_report(SEARCH, make_study(2), tmp_path)
    before = (tmp_path / "history.png").read_bytes()
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda self, path, **kwargs: path.write_text("half") and 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        write_report(SEARCH, make_study(6), tmp_path)
    assert (tmp_path / "history.png").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(SEARCH, make_study(2), tmp_path / "file")


def test_the_dashboard_is_told_without_the_password():
    assert dashboard("sqlite:///a/study.db").endswith("optuna-dashboard sqlite:///a/study.db")
    assert dashboard("postgresql://me:secret@host/x").endswith("optuna-dashboard postgresql://me:***@host/x")


def test_lines_of_the_display():
    study = make_study(8)
    best = best_trial(study)
    assert trial_line(best, best).split() == [
        *("trial", str(best.number), "complete", f"{best.value:.4g}", "3", "runs,", "0", "s", "best", "so", "far")
    ]
    assert trial_line(study.trials[7], best).endswith("ended early")
    assert trial_line(study.trials[8], best).endswith("mean return nan after 2048 steps")
    died = create_trial(state=TrialState.FAIL)
    assert trial_line(died, best).endswith("its worker died")
    assert (
        state_line([*study.trials, died], best) == f"best {best.value:.4g} (trial {best.number}) · 1 pruned · 1 failed"
    )
