"""TRPO as a citizen of Stable-Baselines3: saving, callbacks, vectorised environments, logs."""

import inspect
import warnings

import numpy as np
import pytest
import sb3_contrib
import torch as th
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack, VecNormalize

from sb3_trpo import TRPO
from sb3_trpo.algorithms.metrics import METRICS
from sb3_trpo.core.trust_region import AdaptiveRadius, FixedRadius
from tests.algorithms.capture import captured_steps
from tests.algorithms.kinds import KINDS, algorithm_of, collect, make_model
from tests.envs import Contextual, Probe


def test_arguments_of_sb3_contrib_keep_name_position_and_default():
    ours = list(inspect.signature(TRPO.__init__).parameters.values())
    theirs = list(inspect.signature(sb3_contrib.TRPO.__init__).parameters.values())
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [(p.name, p.default) for p in theirs]
    assert [p.name for p in ours[len(theirs) :]] == [
        "cg_tolerance",
        "radius",
        "radius_kwargs",
        "max_grad_norm",
        "fast_rollout",
        "critic",
        "critic_kwargs",
        "cg_preconditioner",
        "gradient_estimator",
        "gradient_estimator_kwargs",
        "validation",
        "validation_kwargs",
        "ent_coef",
        "entropy_floor",
        "reuse",
        "reuse_bound",
        "reuse_bound_kwargs",
        "action_noise",
        "action_noise_kwargs",
    ]
    assert issubclass(TRPO, OnPolicyAlgorithm)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_saved_model_predicts_the_same_and_trains_on(kind, tmp_path):
    model = make_model(kind).learn(64)
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = algorithm_of(kind).load(tmp_path / "model", env=model.get_env(), trust=True)
    obs = model.get_env().reset()
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    for (name, a), (_, b) in zip(model.policy.named_parameters(), loaded.policy.named_parameters(), strict=True):
        assert th.equal(a, b), name
    assert loaded.learn(64, reset_num_timesteps=False).num_timesteps == 128


def test_an_adaptive_radius_survives_saving_and_can_be_replaced(tmp_path):
    model = make_model("box", radius="adaptive", radius_kwargs={"max_factor": 8.0}).learn(320)
    factor = model.radius_controller.factor
    assert factor != 1.0
    model.save(tmp_path / "model")
    assert TRPO.load(tmp_path / "model").radius_controller == AdaptiveRadius(max_factor=8.0, factor=factor)
    assert TRPO.load(tmp_path / "model", radius="fixed", radius_kwargs=None).radius_controller == FixedRadius()


def test_a_radius_controller_of_ones_own(tmp_path):
    model = make_model("box", radius=Halving).learn(192)
    assert model.logger.name_to_value["train/radius"] == 0.01 / 4
    model.save(tmp_path / "model")
    assert TRPO.load(tmp_path / "model", trust=True).radius_controller.updates == 3


class Halving:
    """Half the radius at every update."""

    def __init__(self):
        self.updates = 0

    def radius(self, target, progress_remaining):
        return target / 2**self.updates

    def update(self, outcome):
        self.updates += 1


def test_everything_sb3_contrib_logs_is_logged_and_more(tmp_path):
    logged = {}
    for name, cls in {"ours": TRPO, "theirs": sb3_contrib.TRPO}.items():
        model = cls("MlpPolicy", make_vec_env("Pendulum-v1"), n_steps=64, batch_size=64, seed=0)
        model.set_logger(configure(str(tmp_path / name), ["csv"]))
        logged[name] = model.learn(256).logger.name_to_value
        model.logger.close()
    assert logged["theirs"].keys() <= logged["ours"].keys()
    assert {metric.key for metric in METRICS if not metric.extension} <= logged["ours"].keys()
    assert {m.key for m in METRICS if m.contrib} == logged["theirs"].keys() - {"train/learning_rate"}
    csv = (tmp_path / "ours" / "progress.csv").read_text()
    assert "train/outcome" in csv
    assert "accepted" in csv
    values = logged["ours"]
    assert values["train/quadratic_kl"] == pytest.approx(values["train/kl_divergence_loss"], rel=0.5)
    assert values["train/reduction_ratio"] == pytest.approx(
        values["train/improvement"] / values["train/expected_improvement"]
    )
    assert min(values[f"time/{part}_seconds"] for part in ("rollout", "actor", "critic")) > 0


def test_metrics_are_what_they_say():
    model = collect(make_model("box", n_critic_updates=3, batch_size=16))
    buffer = model.rollout_buffer
    returns, values = buffer.returns.flatten(), buffer.values.flatten()
    entropy = 3 * (0.5 + 0.5 * np.log(2 * np.pi)) + float(model.policy.log_std.detach().sum())
    with captured_steps() as steps:
        model.train()
    logged = model.logger.name_to_value
    assert logged["train/entropy"] == pytest.approx(entropy, rel=1e-5)
    assert logged["train/explained_variance"] == pytest.approx(1 - np.var(returns - values) / np.var(returns), rel=1e-4)
    assert logged["train/std"] == pytest.approx(float(model.policy.log_std.detach().exp().mean()))
    assert logged["train/n_updates"] == 1
    s, g = steps[0].after - steps[0].before, steps[0].problem.gradient
    assert logged["train/gradient_norm"] == pytest.approx(float(g.norm()), rel=1e-5)
    assert logged["train/expected_improvement"] == pytest.approx(float(g @ s), rel=1e-3)
    quadratic = 0.5 * float(s @ steps[0].problem.fisher_vector_product(s))
    assert logged["train/quadratic_kl"] == pytest.approx(quadratic, rel=1e-2)
    now = steps[0].problem.evaluate()
    assert logged["train/kl_divergence_loss"] == pytest.approx(now.kl, rel=1e-5)
    assert logged["train/policy_objective"] == pytest.approx(now.objective, rel=1e-5)


def test_settings_of_the_solver_reach_it():
    def solution(**settings):
        with captured_steps() as steps:
            collect(make_model("box", **settings)).train()
        return steps[0].step.cg

    assert solution(cg_max_steps=3, cg_tolerance=0.0).steps == 3
    loose, tight = solution(cg_tolerance=0.3), solution(cg_tolerance=1e-5, cg_max_steps=50)
    assert 0 < loose.steps < tight.steps
    assert tight.residual <= 1e-5 < loose.residual <= 0.3


@pytest.mark.parametrize(("passes", "steps"), [(0, 0), (1, 4), (3, 12)])
def test_passes_of_the_critic_are_counted_and_its_gradient_is_limited(passes, steps, monkeypatch):
    model = collect(make_model("box", n_critic_updates=passes, max_grad_norm=1e-3, batch_size=16))
    model.rollout_buffer.returns += 100.0
    norms, original = [], model.policy.optimizer.step

    def step():
        gradients = [p.grad for p in model.policy.parameters() if p.grad is not None]
        norms.append(float(th.nn.utils.get_total_norm(gradients)))
        original()

    monkeypatch.setattr(model.policy.optimizer, "step", step)
    model.train()
    assert len(norms) == steps
    assert norms == pytest.approx([1e-3] * steps, rel=1e-3)


def test_callbacks_stop_evaluate_and_save(tmp_path):
    env = make_vec_env(Probe, 2, seed=0)
    stop = StopTrainingOnRewardThreshold(0.9, verbose=0)
    evaluation = EvalCallback(
        make_vec_env(Probe, seed=1), stop, eval_freq=256, n_eval_episodes=20, best_model_save_path=tmp_path, verbose=0
    )
    checkpoints = CheckpointCallback(128, tmp_path, name_prefix="model")
    model = TRPO("MlpPolicy", env, n_steps=128, seed=0).learn(1e5, callback=[evaluation, checkpoints])
    assert evaluation.best_mean_reward >= 0.9
    assert model.num_timesteps < 1e5
    assert TRPO.load(tmp_path / "best_model").predict(np.array([1.0], np.float32), deterministic=True)[0] == 1
    assert (tmp_path / "model_256_steps.zip").exists()


def test_normalised_and_stacked_environments():
    env = VecFrameStack(VecNormalize(make_vec_env("Pendulum-v1", 2)), 3)
    model = TRPO("MlpPolicy", env, n_steps=64).learn(256)
    assert model.logger.name_to_value["train/is_line_search_success"] == 1.0
    assert model.observation_space.shape == (9,)


def test_worker_processes():
    env = make_vec_env("CartPole-v1", 2, vec_env_cls=SubprocVecEnv)
    model = TRPO("MlpPolicy", env, n_steps=64).learn(256)
    env.close()
    assert (model.num_timesteps, model._n_updates) == (256, 2)


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_progress_bar_and_tensorboard(tmp_path):
    TRPO("MlpPolicy", "CartPole-v1", n_steps=64, tensorboard_log=str(tmp_path)).learn(128, progress_bar=True)
    assert list(tmp_path.glob("TRPO_1/events*"))


def test_time_limits_are_bootstrapped():
    """Pendulum never terminates: at a time limit the value of the last state is part of the return."""
    model = TRPO("MlpPolicy", "Pendulum-v1", n_steps=200, gamma=0.5, gae_lambda=0.0, seed=0)
    value = 1e4
    with th.no_grad():
        model.policy.value_net.weight.zero_()
        model.policy.value_net.bias.fill_(value)
    _, callback = model._setup_learn(200)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 200)
    assert model.rollout_buffer.returns[-1, 0] == pytest.approx(0.5 * value, rel=0.01)


@pytest.mark.parametrize("env", [Contextual(KINDS["box"][0]), Probe()])
def test_the_test_environments_are_sound(env):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env)


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", list(KINDS))
def test_cuda(kind):
    model = make_model(kind, device="cuda").learn(192)
    assert all(p.is_cuda and th.isfinite(p).all() for p in model.policy.parameters())
    assert model.logger.name_to_value["train/kl_divergence_loss"] <= 0.01 * (1 + 1e-4)
