"""A search for hyperparameters, with real training: killed, resumed, repeated, refused, confirmed."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import optuna
import pytest
import torch as th
from gymnasium import spaces
from optuna.trial import TrialState, create_trial

from sb3_trpo.zoo import UsageError
from sb3_trpo.zoo.confirmation import choose, confirm, confirmed, runs_to_confirm
from sb3_trpo.zoo.hyperparams import read_entries
from sb3_trpo.zoo.searches import SCORES, Search, Space, make_search, moved
from sb3_trpo.zoo.studies import FAILURE, FINISHED, WORKER, ask, count, return_trials_of
from sb3_trpo.zoo.trials import SEARCH, baseline_trial, best_trial, curves, estimate, open_study, work
from sb3_trpo.zoo.tuning import tune
from tests.zoo.tuning_worker import NAME, ROOT, TINY, finish, memory_folder, start, tiny_search, wait_for

TRIALS = "sb3_trpo.zoo.trials"


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir=memory_folder()) as name:
        yield Path(name)


@pytest.fixture
def url(folder):
    return f"sqlite:///{folder}/study.db"


class Bandit(gym.Env):
    """One step, whose reward is what a test asks for; never mind the action."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    error: Exception | None = None
    reward = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        if Bandit.error is not None:
            raise Bandit.error
        return np.zeros(2, np.float32), Bandit.reward, True, False, {}


@pytest.fixture
def bandit(monkeypatch):
    gym.register("Bandit-v0", Bandit)
    yield lambda **attributes: [monkeypatch.setattr(Bandit, name, value) for name, value in attributes.items()]
    del gym.registry["Bandit-v0"]


def test_twenty_trials_whose_worker_is_killed_half_way(url):
    victim = start("search", url, 20)
    wait_for(victim, "end 9")
    study = open_study(tiny_search(), url, NAME)
    while "hyperparams" not in study.trials[-1].user_attrs:  # all parameters are drawn
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert count(study, *FINISHED) < 20
    (running,) = study.get_trials(states=(TrialState.RUNNING,))
    finish(start("search", url, 20))
    assert count(study, *FINISHED) == 20
    assert count(study, TrialState.RUNNING, TrialState.WAITING) == 0
    finished = study.get_trials(states=FINISHED)
    assert len({tuple(trial.params.items()) for trial in finished}) == 20
    again = [trial for trial in finished if trial.system_attrs.get("retry_history") == [running.number]]
    assert [trial.params for trial in again] == [study.trials[running.number].params]


def test_one_worker_with_the_same_seed_repeats_the_study(folder):
    search = tiny_search(n_seeds=2, pruner="hyperband")
    studies = []
    for name in ("first", "again"):
        work(search, f"sqlite:///{folder}/{name}.db", NAME, 3)
        studies.append(open_study(search, f"sqlite:///{folder}/{name}.db", NAME))
    first, again = [
        [(trial.params, trial.values, trial.state, list(curves(trial))) for trial in study.trials] for study in studies
    ]
    assert first == again


def test_the_first_trial_is_the_entry_that_the_search_starts_from(url, bandit, folder):
    file = folder / "own.yml"
    file.write_text("default: {n_timesteps: 5e3, n_envs: 8, target_kl: 0.033, gamma: 0.95, cg_max_steps: 7}\n")
    search = make_search("Bandit-v0", **TINY, hyperparams=file)
    work(search, url, NAME, 1)
    trial = baseline_trial(open_study(search, url, NAME))
    assert (trial.number, trial.value) == (0, 1.0)
    tried = trial.user_attrs["hyperparams"]
    assert {key: tried[key] for key in ("target_kl", "gamma", "cg_max_steps")} == {
        "target_kl": 0.033,
        "gamma": 0.95,
        "cg_max_steps": 7,
    }
    assert tried["n_timesteps"] == search.hyperparams["n_timesteps"] != search.n_timesteps


def test_what_the_space_does_not_hold_stays_as_in_the_entry():
    base = {
        "policy_kwargs": "dict(ortho_init=False, net_arch=[32])",
        "normalize": {"norm_obs": True, "norm_reward": False},
        "sub_sampling_factor": 2,
    }

    def sample(space, normalize):
        params = space.start({}) | {"net_arch": "medium", "normalize": normalize}
        return space.sample(optuna.trial.FixedTrial(params), base)

    chosen = sample(Space(0, True), True)
    assert chosen["policy_kwargs"]["ortho_init"] is False
    assert chosen["policy_kwargs"]["net_arch"] == {"pi": [256, 256], "vf": [256, 256]}
    assert chosen["policy_kwargs"]["activation_fn"] is th.nn.Tanh
    assert chosen["normalize"] == base["normalize"]
    assert chosen["sub_sampling_factor"] == 2
    assert sample(Space(0, True), False)["normalize"] is False
    assert sample(Space(0, False), True)["normalize"] == base["normalize"]  # images: not searched


def test_a_space_is_that_of_the_algorithm():
    base = {"policy_kwargs": "dict(ortho_init=False, lstm_hidden_size=64, shared_lstm=True, enable_critic_lstm=False)"}
    space = Space(0, True, "trpo_lstm")
    params = space.start(base)
    assert (params["lstm_hidden_size"], params["critic_memory"]) == (64, "shared")
    chosen = space.sample(optuna.trial.FixedTrial(params | {"critic_memory": "own"}), base)["policy_kwargs"]
    assert chosen["ortho_init"] is False
    assert (chosen["shared_lstm"], chosen["enable_critic_lstm"], chosen["lstm_hidden_size"]) == (False, True, 64)
    assert "lstm_hidden_size" not in Space(0, True, "trpo_mask").start({})


@pytest.mark.parametrize("algo", ["trpo_lstm"])
def test_a_search_in_the_space_with_a_memory(algo, url, bandit):
    search = make_search("Bandit-v0", algo, **TINY)
    work(search, url, NAME, 2)
    trials = open_study(search, url, NAME).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert all("critic_memory" in trial.params for trial in trials)


@pytest.mark.filterwarnings("ignore:.*reward is a NaN", "ignore:update ")
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"error": ValueError("these do not fit")}, "these do not fit"),
        ({"error": FloatingPointError("overflow in exp")}, "overflow in exp"),
        ({"reward": float("nan")}, "the reward of environment 0 at step 0 of the rollout is nan"),
    ],
)
def test_hyperparameters_that_cannot_be_used_are_pruned_with_the_reason(broken, reason, url, bandit):
    bandit(**broken)
    search = make_search("Bandit-v0", **TINY)
    work(search, url, NAME, 2)
    trials = open_study(search, url, NAME).trials
    assert [trial.state for trial in trials] == [TrialState.PRUNED] * 2
    assert all(reason in trial.user_attrs[FAILURE] for trial in trials)


def test_any_other_error_ends_the_worker(url, bandit):
    bandit(error=RuntimeError("the simulator has crashed"))
    search = make_search("Bandit-v0", **TINY)
    with pytest.raises(RuntimeError, match="the simulator has crashed"):
        work(search, url, NAME, 2)
    study = open_study(search, url, NAME)
    assert [(trial.state, trial.user_attrs[FAILURE]) for trial in study.trials] == [
        (TrialState.FAIL, "RuntimeError: the simulator has crashed")
    ]


def test_a_trial_that_is_run_again_goes_on_with_the_missing_seeds(url, bandit):
    """Also where the last curve is one that the pruner cut short."""
    search = make_search("Bandit-v0", **{**TINY, "n_seeds": 4})
    study = open_study(search, url, NAME)
    trial = ask(study)
    for name, value in {WORKER: "far:1", "curve_3": [[600, 5.0]], "curve_2": [[300, 4.0]], "n_runs": 2}.items():
        trial.set_user_attr(name, value)
    return_trials_of(study, "far:1")
    work(search, url, NAME, 1)
    (again,) = study.get_trials(states=FINISHED)
    scores = {seed: curve[-1][1] for seed, curve in curves(again)}
    assert scores == {0: 1.0, 1: 1.0, 2: 1.0, 3: 5.0}
    assert again.value == 2.0
    assert again.user_attrs["n_runs"] == 4


def test_a_trial_that_ends_early_is_judged_by_its_difference_to_the_best():
    best = create_trial(value=10.0, intermediate_values={0: 16.0, 1: 10.0, 2: 4.0})
    assert estimate({0: 15.0}, best) == pytest.approx(9.0)  # not 15: the seed is an easy one
    assert estimate({0: 15.0, 2: 1.0}, best) == pytest.approx(8.0)


def test_scores_of_a_curve():
    curve = [(100, 1.0), (200, 5.0), (300, 3.0), (400, 2.0), (500, 4.0)]
    assert {name: score(curve) for name, score in SCORES.items()} == {"final": 4.0, "best": 5.0, "area": 3.0}
    assert SCORES["final"]([(450, 2.0), (500, 4.0), (10, 9.0), (500, 4.0)]) == pytest.approx(10 / 3)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"algo": "ppo"}, "algorithm 'ppo' has no search space: choose trpo"),
        ({"n_seeds": 0}, "n_seeds=0 must be a whole number >= 1"),
        ({"n_timesteps": 0}, "n_timesteps=0 must be a whole number >= 1"),
        ({"n_startup": -1}, "n_startup=-1 must be a whole number >= 0"),
        ({"score": "finall"}, "score='finall' is unknown, did you mean 'final'?"),
        ({"sampler": "tp"}, "sampler 'tp' is unknown, did you mean 'tpe'?"),
        ({"pruner": "wilcoxon", "n_seeds": 2}, "n_seeds=2 must be >= 3, or choose median"),
        ({"n_trials": 0}, "n_trials=0 must be a whole number >= 1"),
        ({"n_jobs": 0}, "n_jobs=0 must be a whole number >= 1"),
        ({"confirm": -1}, "confirm=-1 must be a whole number >= 0"),
        ({"timeout": -1}, "timeout=-1 must be a number of seconds >= 0"),
        ({"storage": "study.db"}, "storage 'study.db' must be a database URL"),
        ({"folder": "/proc/nowhere"}, "folder '/proc/nowhere' cannot be written to: No such file or directory"),
        ({"overrides": {"target_klo": 1}}, "did you mean 'target_kl'?"),
    ],
)
def test_refusals(arguments, complaint, folder):
    with pytest.raises(UsageError) as refusal:
        tune("CartPole-v1", **{"folder": folder, **arguments})
    assert complaint in str(refusal.value)


def test_an_unknown_environment_is_refused_before_a_trial_is_run(url):
    with pytest.raises(UsageError, match="CartPole-v7"):
        work(Search("trpo", "CartPole-v7", {}, 100), url, NAME, 1)


def test_a_study_with_another_purpose_is_refused(url):
    open_study(tiny_search(), url, NAME)
    open_study(tiny_search(), url, NAME)  # the same is welcome
    for settings, words in [
        ({"score": "area"}, "score='final', not 'area'"),
        ({"overrides": {"cg_tolerance": 0.07}}, "cg_tolerance=None, not 0.07"),
    ]:
        with pytest.raises(UsageError, match=f"'study' was begun with {words}: join it with the same settings"):
            open_study(tiny_search(**settings), url, NAME)


def test_a_study_left_behind_half_made_is_adopted_and_a_foreign_one_is_not(url, monkeypatch):
    monkeypatch.setattr(f"{TRIALS}.ADOPT_SECONDS", 0.1)
    foreign = optuna.create_study(storage=url, study_name="foreign")
    optuna.create_study(storage=url, study_name=NAME, direction="maximize")
    study = open_study(tiny_search(), url, NAME)
    assert [trial.state for trial in study.trials] == [TrialState.WAITING]
    assert SEARCH in study.user_attrs
    foreign.ask()
    with pytest.raises(UsageError, match="study 'foreign' is none of ours: give another study_name"):
        open_study(tiny_search(), url, "foreign")


def test_a_study_whose_space_was_another_is_refused(url, monkeypatch):
    search = tiny_search()
    work(search, url, NAME, 1)
    monkeypatch.setattr("sb3_trpo.zoo.spaces.N_ENVS", [1, 2, 3])
    with pytest.raises(UsageError, match="the search space has changed since the study was begun, give a new one"):
        work(search, url, NAME, 3)


def test_tune_in_this_process_goes_on_where_it_was(folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    threads = th.get_num_threads()
    first = tune("CartPole-v1", n_trials=2, **TINY)
    assert first.folder == Path("runs/tune/trpo-CartPole-v1")
    assert (first.n_finished, first.interrupted, first.baseline is not None) == (2, False, True)
    assert [len(line.split()) > 4 for line in capfd.readouterr().err.splitlines()[:2]] == [True, True]
    second = tune("CartPole-v1", n_trials=3, **TINY)
    captured = capfd.readouterr()
    assert "2 of 3 trials were finished before" in captured.err
    assert "trial 2 " in captured.err
    assert "trial 1 " not in captured.err
    assert "optuna-dashboard sqlite:///runs/tune/trpo-CartPole-v1/study.db" in captured.out
    assert second.n_finished == 3
    assert all(path.is_file() for path in second.files)
    assert second.value == best_trial(open_study(tiny_search(), f"sqlite:///{second.folder}/study.db", NAME_OF)).value
    assert second.hyperparams == read_entries(second.folder / "best.yml")["CartPole-v1"]
    assert th.get_num_threads() == threads


NAME_OF = "trpo-CartPole-v1"
CODE = """
import sys
from sb3_trpo.zoo.tuning import tune
from tests.zoo.tuning_worker import TINY
if __name__ == "__main__":
    result = tune("CartPole-v1", n_trials=int(sys.argv[1]), n_jobs=int(sys.argv[2]), folder=sys.argv[3], **TINY)
    print(result.n_finished, result.interrupted)
"""


def start_tune(folder, n_trials, n_jobs):
    (folder / "script.py").write_text(CODE)
    command = [sys.executable, "-W", "ignore", str(folder / "script.py"), str(n_trials), str(n_jobs), str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_trials(study, n_trials, process):
    ends = time.monotonic() + 120
    while count(study, *FINISHED) < n_trials:
        assert process.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.mark.slow
def test_two_workers_one_of_which_is_killed(folder, url):
    process = start_tune(folder, 7, 2)
    while not (folder / "worker_1.log").exists():
        assert process.poll() is None
        time.sleep(0.05)
    study = open_study(tiny_search(), url, NAME_OF)
    wait_for_trials(study, 2, process)
    running = ()
    while not (running and WORKER in running[0].user_attrs):
        running = study.get_trials(states=(TrialState.RUNNING,))
    os.kill(int(running[0].user_attrs[WORKER].split(":")[1]), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "was killed by SIGKILL: another goes on with its trial" in err
    assert out.splitlines()[-1] == "7 False"
    trials = study.get_trials(states=FINISHED)
    assert len({tuple(trial.params.items()) for trial in trials}) == 7
    assert count(study, TrialState.RUNNING, TrialState.WAITING) == 0
    assert len({trial.user_attrs[WORKER] for trial in trials}) >= 2


@pytest.mark.parametrize(
    ("n_jobs", "number"), [(1, signal.SIGINT), pytest.param(2, signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_search_keeps_all_writes_all_and_says_how_to_go_on(n_jobs, number, folder, url):
    process = start_tune(folder, 500, n_jobs)
    study = open_study(tiny_search(), url, NAME_OF)
    wait_for_trials(study, 1, process)
    process.send_signal(number)
    process.send_signal(number)  # twice, as `timeout` does
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "of 500 trials; the same command goes on" in err
    assert "Traceback" not in err
    assert out.splitlines()[-1].endswith(" True")
    assert count(study, TrialState.RUNNING) == 0
    assert (folder / "best.yml").is_file()
    assert not list(folder.glob("worker*"))


def test_a_worker_that_fails_says_why_and_keeps_its_traceback(folder):
    with pytest.raises(UsageError, match="the workers ended before the search did, see the logs in"):
        tune("CartPole-v1", n_trials=3, n_jobs=2, folder=folder, packages=["no_such_module"], **TINY)
    assert "No module named 'no_such_module'" in (folder / "worker_1.log").read_text()


def fill(study, values):
    """Finished trials beside the baseline that waits, each with another target_kl."""
    space, search = Space(0, True), tiny_search()
    start_point = space.start(search.hyperparams)
    for number, value in enumerate(values):
        fixed = optuna.trial.FixedTrial({**start_point, "target_kl": start_point["target_kl"] * (1 - 0.1 * number)})
        hyperparams = space.sample(fixed, search.hyperparams)
        study.add_trial(
            create_trial(
                value=value,
                params=fixed.params,
                distributions=fixed.distributions,
                user_attrs={
                    "hyperparams": {"target_kl": hyperparams["target_kl"]},
                    "n_runs": 1,
                    "curve_0": [[512, value]],
                },
            )
        )


def test_the_best_are_confirmed_on_fresh_seeds(url):
    search = tiny_search()
    study = open_study(search, url, NAME)
    fill(study, [50.0, 900.0, 800.0, 20.0])  # the first is the baseline
    assert runs_to_confirm(search, study, top=2, n_seeds=2) == [(2, 1), (3, 1), (1, 1), (2, 2), (3, 2), (1, 2)]
    told = []

    def interrupt_later(number, seed, score):
        told.append((number, seed))
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        confirm(search, study, top=2, n_seeds=2, on_run=interrupt_later)
    assert confirmed(search, study) == []
    assert choose(search, study).trial.number == 2
    candidates = confirm(search, study, top=2, n_seeds=2, on_run=lambda *run: told.append(run[:2]))
    assert told == [(2, 1), (3, 1), (1, 1), (2, 2), (3, 2), (1, 2)]
    assert {candidate.trial.number for candidate in candidates} == {1, 2, 3}
    assert [c.mean for c in candidates] == sorted((c.mean for c in candidates), reverse=True)
    choice = choose(search, study)
    assert (choice.trial.number, choice.value) == (candidates[0].trial.number, candidates[0].mean)
    assert set(choice.curves) == {1, 2}
    assert choice.value < 800  # no longer what the lucky seed said
    assert choice.baseline == next(c.mean for c in candidates if c.trial.number == 1)
    assert runs_to_confirm(search, study, top=2, n_seeds=2) == []


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_tune_confirms(n_jobs, folder):
    result = tune("CartPole-v1", n_trials=4, n_jobs=n_jobs, confirm=1, folder=folder, **TINY)
    study = open_study(tiny_search(), f"sqlite:///{folder}/study.db", NAME_OF)
    assert len([key for key in study.user_attrs if key.startswith("confirm_")]) == 10
    assert "fresh (mean of seeds 1 to 5)" in (folder / "best.yml").read_text()
    assert result.value == choose(tiny_search(), study).value


def test_the_example_searches_and_helps(tmp_path):
    example = [sys.executable, "-W", "error", str(ROOT / "examples" / "tune.py")]
    storage = f"sqlite:///{tmp_path}/study.db"
    command = [*example, "--env", "CartPole-v1", "--trials", "2", "--steps", "600", "--storage", storage]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "best return" in output
    assert "  target_kl: 0." in output
    assert len(optuna.load_study(study_name="trpo-CartPole-v1", storage=storage).trials) == 2
    helped = subprocess.run([*example, "--help"], capture_output=True, text=True, check=True).stdout
    assert "--trials" in helped
    assert len((ROOT / "examples" / "tune.py").read_text().splitlines()) < 60


def test_it_says_where_the_search_starts_when_the_entry_lies_outside_the_space():
    assert list(moved(make_search("CartPole-v1"))) == []
    assert list(moved(make_search("Pendulum-v1", overrides={"cg_tolerance": 1e-3}))) == []
    with pytest.raises(UsageError, match="gamma is searched, a value for it would have no effect"):
        make_search("CartPole-v1", overrides={"gamma": 0.5})


def test_an_entry_outside_the_space_is_moved_and_it_is_said(tmp_path):
    file = tmp_path / "far.yml"
    file.write_text("default: {n_timesteps: 1000, gamma: 0.5, learning_rate: lin_1e-3, n_envs: 3}\n")
    assert list(moved(make_search("CartPole-v1", hyperparams=file))) == [
        "gamma=0.5 lies outside the space: the search starts from 0.9",
        "n_envs=3 lies outside the space: the search starts from 2",
    ]
