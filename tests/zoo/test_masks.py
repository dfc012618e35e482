"""Masks and memory at play: in evaluations, in `enjoy`, in runs from the first step to the table of scores."""

import numpy as np
import pytest
import yaml
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_with_masks
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_trpo.callbacks.episodes import predictor, takes_masks
from sb3_trpo.evaluation.scores import read_scores
from sb3_trpo.zoo.algorithms import algorithm_class
from sb3_trpo.zoo.benchmarking import benchmark
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.evaluations import PeriodicEvaluation, evaluate
from sb3_trpo.zoo.listing import list_runs
from sb3_trpo.zoo.masks import check_masks
from sb3_trpo.zoo.models import make_env, make_model
from sb3_trpo.zoo.playing import enjoy, evaluate_run
from sb3_trpo.zoo.train_run import resume, train
from tests.zoo import toys

toys.register()
SMALL = {"n_envs": 2, "n_steps": 32, "batch_size": 32}
MEMORY = {**SMALL, "policy_kwargs": {"lstm_hidden_size": 8, "net_arch": [8]}}
MASKED = [("ppo_mask", {**SMALL, "n_epochs": 1}), ("trpo_mask", SMALL), ("trpo_mask_lstm", MEMORY)]
REMEMBERING = [("ppo_lstm", {**MEMORY, "n_epochs": 1}), ("trpo_lstm", MEMORY)]


@pytest.fixture
def masked():
    """Three environments with masks, observations normalised."""
    env = make_env("SelfMasked-v0", {"normalize": True}, n_envs=3, training=False)
    yield env
    env.close()


# ---- evaluations ----


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(("algo", "entry"), [("ppo", SMALL), ("trpo", SMALL), *REMEMBERING])
def test_without_masks_an_evaluation_is_stable_baselines3s(algo, entry, deterministic):
    model = make_model(algo, "Fading-v0", entry, seed=0, device="cpu").learn(64)
    env = make_env("Fading-v0", {}, n_envs=3, training=False)
    ours = evaluate(model, env, 7, seed=5, deterministic=deterministic)  # leaves the generators as they were
    env.seed(5)
    theirs = evaluate_policy(model, env, 7, deterministic, return_episode_rewards=True, warn=False)
    assert ours.returns.tolist() == theirs[0]
    assert ours.lengths.tolist() == theirs[1]
    assert len(set(theirs[0])) == 7
    env.close()


def test_with_masks_an_evaluation_is_that_of_sb3_contrib(masked):
    model = make_model("ppo_mask", "SelfMasked-v0", SMALL, seed=0, device="cpu").learn(64)
    ours = evaluate(model, masked, 7, seed=5)
    masked.seed(5)
    theirs = evaluate_with_masks(model, masked, 7, return_episode_rewards=True, warn=False)
    assert ours.returns.tolist() == theirs[0] == [10.0] * 7
    assert ours.lengths.tolist() == theirs[1]


class Recorder:
    """Chooses what is allowed, and counts the steps of each episode in its state."""

    def __init__(self):
        self.seen = []

    def get_env(self):
        return None

    def predict(self, observation, state=None, episode_start=None, deterministic=False, action_masks=None):
        self.seen.append((state, episode_start.copy(), deterministic))
        count = np.zeros(len(observation)) if state is None else state[0]
        return action_masks.argmax(1), (np.where(episode_start, 0, count) + 1,)


def test_masks_and_memory_go_together(masked):
    """sb3-contrib's ``evaluate_policy`` gives None for the state whenever there are masks."""
    model = Recorder()
    evaluate(model, masked, 6, seed=0)
    states, starts, deterministic = zip(*model.seen, strict=True)
    assert states[0] is None
    assert [state[0].tolist() for state in states[1:12]] == [[k] * 3 for k in (*range(1, 11), 1)]
    assert [start.all() for start in starts] == [k % 10 == 0 for k in range(20)]
    assert all(deterministic)


@pytest.mark.parametrize(("algo", "entry"), MASKED)
def test_only_what_is_allowed_is_chosen(algo, entry, masked):
    """The toy raises where it is not."""
    model = make_model(algo, "SelfMasked-v0", {**entry, "normalize": True}, seed=0, device="cpu")
    evaluation = PeriodicEvaluation(masked, 64, 4, 0, deterministic=False)
    model.learn(128, callback=evaluation)
    assert [seen.step for seen in evaluation.evaluations] == [64, 128]
    assert all(seen.returns.tolist() == [10.0] * 4 for seen in evaluation.evaluations)


@pytest.mark.parametrize(("algo", "entry"), [*MASKED, *REMEMBERING])
def test_evaluation_leaves_training_bit_for_bit_as_it_was(algo, entry):
    weights = []
    for every in (0, 64):
        model = make_model(algo, "SelfMasked-v0" if "mask" in algo else "Fading-v0", entry, seed=0, device="cpu")
        env = make_env("SelfMasked-v0" if "mask" in algo else "Fading-v0", {}, n_envs=2, training=False)
        model.learn(128, callback=PeriodicEvaluation(env, every, 2, 0, deterministic=False))
        weights.append(np.concatenate([value.numpy().ravel() for value in model.policy.state_dict().values()]))
    assert np.array_equal(*weights)


# ---- environments without masks ----

NEEDED = "needs an environment with a method action_masks(): set env_wrapper to "


@pytest.mark.parametrize(("algo", "entry"), MASKED)
def test_an_environment_without_masks_is_refused_before_training(algo, entry):
    with pytest.raises(UsageError) as refusal:
        make_model(algo, "Masked-v0", entry)
    assert str(refusal.value).startswith(f"{algo} cannot be built for Masked-v0: {algorithm_class(algo).__name__}")
    assert NEEDED in str(refusal.value)
    assert "ActionMasker" in str(refusal.value)


def test_an_environment_without_masks_is_refused_to_play_in():
    model = make_model("ppo_mask", "SelfMasked-v0", SMALL)
    env = make_env("Masked-v0", {}, n_envs=1)
    with pytest.raises(UsageError, match="needs an environment with a method"):
        evaluate(model, env, 1, seed=0)
    with pytest.raises(ValueError, match="needs an environment with a method"):
        predictor(model, env)


def test_masks_are_asked_for_by_those_that_take_them():
    assert [algo for algo in ("ppo", "trpo", "ppo_lstm", "ppo_mask") if takes_masks(algorithm_class(algo))] == [
        "ppo_mask"
    ]
    check_masks(algorithm_class("ppo"), make_env("Masked-v0", {}))
    model = make_model("ppo", "Masked-v0", SMALL)
    assert predictor(model, model.get_env()) is model


# ---- wrappers around ----


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"normalize": True},
        {"frame_stack": 3},
        {"normalize": True, "frame_stack": 3, "monitor_kwargs": {"info_keywords": ["action_mask"]}},
    ],
)
def test_masks_reach_through_what_is_wrapped_around(entry, vec_env):
    env = make_env("SelfMasked-v0", entry, n_envs=2, seed=0, vec_env=vec_env)
    env.reset()
    masks = np.stack(env.env_method("action_masks"))
    assert masks.shape == (2, 4)
    assert masks.sum(1).tolist() == [1, 1]
    check_masks(algorithm_class("ppo_mask"), env)
    env.step(masks.argmax(1))
    assert np.stack(env.env_method("action_masks")).sum() == 2
    env.close()


# ---- runs ----


RUNS = [
    *(("SelfMasked-v0", *getattr(case, "values", case), getattr(case, "marks", ())) for case in MASKED),
    *(("Fading-v0", *getattr(case, "values", case), getattr(case, "marks", ())) for case in REMEMBERING),
]


@pytest.mark.parametrize(
    ("env_id", "algo", "entry"), [pytest.param(*values, marks=marks, id=values[1]) for *values, marks in RUNS]
)
def test_a_run_is_trained_gone_on_with_listed_evaluated_and_watched(env_id, algo, entry, tmp_path):
    file = tmp_path / "own.yml"
    file.write_text(yaml.safe_dump({"default": {**entry, "normalize": True}}))
    options = {"hyperparams": file, "n_timesteps": 128, "seed": 0, "n_eval_episodes": 2, "log_folder": tmp_path}
    trained = train(env_id, algo, **options, eval_freq=64, save_freq=64, device="cpu")
    longer = resume(trained.run.folder, 256)
    assert type(longer.model) is algorithm_class(algo)
    assert longer.model.num_timesteps == 256
    assert [listed.steps for listed in list_runs(tmp_path)] == ["256"]
    score = evaluate_run(trained.run.folder, 4, device="cpu")
    again = [enjoy(trained.run.folder, render=False, seed=20_000 + k, device="cpu")[0] for k in range(4)]
    assert score.mean == pytest.approx(np.mean(again))
    assert len(enjoy(trained.run.folder, render=False, n_episodes=2, stochastic=True, best=True)) == 2


def test_they_are_contestants_of_a_benchmark(tmp_path):
    """In processes of their own, which know Gymnasium's environments only."""
    (tmp_path / "own.yml").write_text(yaml.safe_dump({"default": SMALL}))
    (tmp_path / "memory.yml").write_text(yaml.safe_dump({"default": MEMORY}))
    masks = {"env_wrapper": "sb3_trpo.zoo.wrappers.MasksFromInfo"}
    grid = {
        "environments": [toys.TAXI],
        "seeds": 1,
        "n_timesteps": 128,
        "n_eval_episodes": 1,
        "eval_freq": 0,
        "contestants": {
            "masks": {"algo": "ppo_mask", "hyperparams": "own.yml", "overrides": masks},
            "memory": {"algo": "sb3_contrib:RecurrentPPO", "hyperparams": "memory.yml"},
        },
    }
    (tmp_path / "grid.yml").write_text(yaml.safe_dump(grid))
    benchmark(tmp_path / "grid.yml", tmp_path / "out", 1)
    rows = read_scores(tmp_path / "out" / "scores.csv")
    assert {(row.implementation, row.algo) for row in rows} == {("masks", "MaskablePPO"), ("memory", "RecurrentPPO")}
