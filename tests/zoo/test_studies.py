"""Trials that many processes share, without training: samplers, pruners, surplus, death, interruption."""

import os
import signal
import tempfile
import threading

import optuna
import pytest
from optuna.trial import TrialState

from sb3_trpo.zoo import UsageError, sample_environment, sample_trpo_params, samplers, studies
from sb3_trpo.zoo.databases import open_storage
from sb3_trpo.zoo.processes import sigterm_interrupts
from sb3_trpo.zoo.samplers import BY_CURVE, PRUNERS, SAMPLERS, make_pruner, make_sampler
from sb3_trpo.zoo.studies import (
    FAILURE,
    FINISHED,
    INTERRUPTED,
    MAX_RETRIES,
    SURPLUS,
    WORKER,
    DeadTrials,
    ask,
    count,
    frozen,
    heartbeat,
    is_surplus,
    return_trials_of,
    run_again,
    run_next,
    run_trials,
    worker_name,
)
from tests.zoo.tuning_worker import NAME, memory_folder, toy_study


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir=memory_folder()) as name:
        yield name


@pytest.fixture
def url(folder):
    return f"sqlite:///{folder}/study.db"


@pytest.fixture
def toy(url):
    return toy_study(url)


def objective(trial):
    return trial.suggest_float("x", -1, 1) ** 2


def run_real_space(url, sampler, pruner="none", n_trials=14, seed=0, n_seeds=3):
    """A study over the space of TRPO, whose score is a formula."""
    database = open_storage(url, on_stale=run_again)
    study = optuna.create_study(
        storage=database,
        study_name=NAME,
        direction="maximize",
        load_if_exists=True,
        sampler=make_sampler(sampler, seed, 5),
        pruner=make_pruner(pruner, 3, 9, n_seeds),
    )

    def formula(trial):
        environment = sample_environment(trial)
        chosen = sample_trpo_params(trial, 6, environment["n_envs"])
        score = chosen["target_kl"] - chosen["cg_damping"] + (trial.params["net_arch"] == "medium")
        for step in range(1, 10):
            trial.report(score if pruner == "wilcoxon" else score * step, step)
            if trial.should_prune():
                if pruner in BY_CURVE:
                    raise optuna.TrialPruned
                break
        return score

    run_trials(study, database, formula, n_trials)
    return study


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_works_with_the_real_space_and_repeats(sampler, folder):
    n_trials = 8 if sampler == "gp" else 12
    first, again, other = [
        [trial.params for trial in run_real_space(f"sqlite:///{folder}/{name}.db", sampler, "none", n, seed).trials]
        for name, n, seed in [("first", n_trials, 0), ("again", n_trials, 0), ("other", 1, 1)]
    ]
    assert len(first) == n_trials
    assert first == again
    assert len({tuple(params.items()) for params in first}) == n_trials
    assert other[0] != first[0]


@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_pruner_ends_trials_and_only_their_own_kind(pruner, url):
    trials = run_real_space(url, "random", pruner, 12).trials
    n_pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    n_early = sum(len(trial.intermediate_values) < 9 for trial in trials)
    assert all(trial.state in FINISHED for trial in trials)
    assert (n_pruned > 0) == (pruner in BY_CURVE)
    assert (n_early > 0) == (pruner != "none")


def test_seeds_of_trials_do_not_depend_on_who_runs_them(url):
    """Two workers taking turns try the points that one would have tried."""
    database = open_storage(url)
    workers = [
        optuna.create_study(
            storage=database, study_name=NAME, sampler=make_sampler("random", 3, 0), load_if_exists=True
        )
        for _ in range(2)
    ]
    shared = [ask(workers[number % 2]).suggest_float("x", 0, 1) for number in range(6)]
    alone = optuna.create_study(sampler=make_sampler("random", 3, 0))
    assert shared == [alone.ask().suggest_float("x", 0, 1) for _ in range(6)]
    assert len(set(shared)) == 6


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: make_sampler("tpee", 0, 5), "sampler 'tpee' is unknown, did you mean 'tpe'?"),
        (
            lambda: make_pruner("xyz", 5, 10, 3),
            "pruner 'xyz' is unknown: choose from hyperband, median, none, wilcoxon",
        ),
        (lambda: make_pruner("wilcoxon", 5, 10, 2), "n_seeds=2 must be >= 3, or choose median"),
    ],
)
def test_refusals(make, complaint):
    with pytest.raises(UsageError) as refusal:
        make()
    assert complaint in str(refusal.value)


@pytest.mark.parametrize("alias", ["gp", "cmaes", "wilcoxon"])
def test_a_missing_library_is_named(alias, monkeypatch):
    monkeypatch.setattr(samplers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs (scipy|cmaes): pip install 'sb3-trpo\[tune\]'"):
        make_sampler(alias, 0, 5) if alias in SAMPLERS else make_pruner(alias, 5, 10, 3)


def test_the_later_of_two_last_trials_is_surplus(toy):
    study, database = toy
    for _ in range(3):
        run_next(study, database, objective, 10)
    mine, theirs = ask(study), ask(study)
    assert not is_surplus(study, mine.number, 4)
    assert is_surplus(study, theirs.number, 4)
    study.tell(mine.number, state=TrialState.FAIL)
    assert not is_surplus(study, theirs.number, 4)  # the earlier one came to nothing


def test_a_trial_that_waits_comes_before_a_later_one_that_runs(toy):
    """It was queued while the other was begun, and will be run: both would be one too many."""
    study, database = toy
    run_next(study, database, objective, 2)
    study.enqueue_trial({"x": 0.5})
    study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING))
    assert not is_surplus(study, 1, 2)
    assert is_surplus(study, 2, 2)


def test_a_surplus_trial_is_not_run_and_does_not_count(toy):
    study, database = toy
    for _ in range(2):
        run_next(study, database, objective, 2)
    assert run_next(study, database, lambda trial: pytest.fail("it ran"), 2) is None
    assert (study.trials[2].state, study.trials[2].user_attrs[FAILURE]) == (TrialState.FAIL, SURPLUS)
    study.enqueue_trial({"x": 0.5})
    assert run_next(study, database, objective, 2) is None
    assert study.trials[-1].state == TrialState.WAITING  # a point somebody asked for is not lost
    run_trials(study, database, objective, 3)
    assert study.trials[-1].params == {"x": 0.5}
    assert count(study, *FINISHED) == 3


def begin(study, **attributes):
    """A trial that has chosen its parameters, as its worker would have left it."""
    trial = ask(study)
    trial.suggest_float("x", -1, 1)
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    return trial


def test_what_a_dead_worker_found_out_is_kept_but_not_its_name(toy):
    study, database = toy
    begin(study, worker="far:1", curve_0=[[1, 2.0]], n_runs=1)
    return_trials_of(study, "far:2")
    assert count(study, TrialState.RUNNING) == 1
    return_trials_of(study, "far:1")
    seen = {}

    def look(trial):
        seen.update(trial.user_attrs)
        return objective(trial)

    run_trials(study, database, look, 1)
    assert seen == {WORKER: worker_name(), "curve_0": [[1, 2.0]], "n_runs": 1}
    assert study.trials[1].params == study.trials[0].params


def test_a_point_that_kills_every_worker_is_given_up(toy):
    study, _ = toy
    study.enqueue_trial({"x": 0.25})
    for attempt in range(MAX_RETRIES + 1):
        assert begin(study, worker="far:1").params == {"x": 0.25}, attempt
        return_trials_of(study, "far:1")
    assert count(study, TrialState.WAITING) == 0
    assert begin(study).params != {"x": 0.25}


def test_a_worker_that_died_before_its_first_heartbeat_is_noticed_whatever_the_clocks_say(toy):
    study, _ = toy
    ask(study)
    dead = DeadTrials(study, grace_period=0.1)
    dead.take_over()
    assert count(study, TrialState.RUNNING) == 1  # it may be about to begin
    threading.Event().wait(0.3)
    dead.take_over()
    assert count(study, TrialState.RUNNING) == 0


def test_the_result_of_a_worker_that_was_taken_for_dead_is_left_to_others(toy):
    study, database = toy

    def sleep_too_long(trial):
        value = objective(trial)
        study.tell(trial.number, state=TrialState.FAIL)  # what others do
        run_again(study, frozen(study, trial.number))
        return value

    def notice_late(trial):
        study.tell(trial.number, state=TrialState.FAIL)
        trial.set_user_attr("curve_0", [])
        return 0.0

    assert run_next(study, database, sleep_too_long, 5).state == TrialState.FAIL
    assert count(study, TrialState.WAITING) == 1
    assert run_next(study, database, notice_late, 5) is None


def test_an_interrupted_trial_waits_to_be_run_again_with_what_it_has(toy):
    study, database = toy

    def interrupted(trial):
        objective(trial)
        trial.set_user_attr("curve_0", [[1, 2.0]])
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)

    for attempt in range(MAX_RETRIES + 2):  # being interrupted is no sign of bad parameters
        with pytest.raises(KeyboardInterrupt):
            run_next(study, database, interrupted, 5)
        assert study.trials[attempt].user_attrs[FAILURE] == INTERRUPTED
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * (MAX_RETRIES + 2) + [TrialState.WAITING]
    assert study.trials[-1].user_attrs == {"curve_0": [[1, 2.0]]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_trial_interrupted_while_it_begins_is_given_back(toy, monkeypatch, number):
    """The storage has it, and the caller does not know it yet."""
    study, database = toy
    study.enqueue_trial({"x": 0.5})

    def interrupted(study):
        trial = ask(study)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # twice, as `timeout` does
        threading.Event().wait(0.1)
        return trial

    monkeypatch.setattr(studies, "ask", interrupted)
    for attempt in range(2):
        with sigterm_interrupts(), pytest.raises(KeyboardInterrupt):
            run_next(study, database, objective, 5)
        assert study.trials[attempt].user_attrs[FAILURE] == INTERRUPTED
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.FAIL, TrialState.WAITING]
    assert study.trials[-1].system_attrs["fixed_params"] == {"x": 0.5}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_fails_the_trial_with_its_reason_and_goes_on(toy):
    study, database = toy

    def broken(trial):
        raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"):
        run_trials(study, database, broken, 5)
    assert study.trials[0].user_attrs[FAILURE] == "RuntimeError: no disk"
    assert count(study, TrialState.RUNNING) == 0


def test_no_trial_is_begun_after_the_timeout(toy):
    study, database = toy
    run_trials(study, database, objective, 5, timeout=0)
    assert study.trials == []


def test_a_heart_beats_on_when_the_database_is_away():
    beats, again = [], threading.Event()

    class Flaky:
        heartbeat_interval = 0.01

        def record_heartbeat(self, trial_id):
            beats.append(trial_id)
            if len(beats) == 2:
                raise optuna.exceptions.StorageInternalError
            if len(beats) == 4:
                again.set()

        def remove_session(self):
            beats.append("removed")

    with heartbeat(Flaky(), 7):
        assert again.wait(5)
    assert set(beats[:-1]) == {7}
    assert beats[-1] == "removed"
