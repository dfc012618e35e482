"""Agreement with sb3-contrib, and models saved by it."""

import copy
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo import TRPO
from sb3_trpo.algorithms.contrib import n_averaged_dimensions
from tests.algorithms.capture import captured_steps
from tests.envs import Contextual

FIXTURES = Path(__file__).parent.parent / "fixtures"
MODELS = sorted(path.stem for path in FIXTURES.glob("trpo_*.zip"))

SPACES = {
    "box": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
}


def contrib_full_step(model):
    """The full step of sb3-contrib's update, recorded from inside its solver and rebuilt from its own formula."""
    record = {}

    def solver(product, b, max_iter, residual_tol=1e-10):
        x = conjugate_gradient_solver(product, b, max_iter, residual_tol)
        record["step"] = np.sqrt(2 * model.target_kl / float(x @ product(x))) * x
        return x

    module = __import__("sb3_contrib.trpo.trpo", fromlist=["trpo"])
    original, module.conjugate_gradient_solver = module.conjugate_gradient_solver, solver
    try:
        model.train()
    finally:
        module.conjugate_gradient_solver = original
    return record["step"]


@pytest.mark.parametrize("kind", list(SPACES))
@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_full_steps_agree_with_sb3_contrib_on_the_same_network_and_rollout(kind, normalize_advantage):
    def env():
        return DummyVecEnv([lambda: Contextual(SPACES[kind])])

    common = {
        "n_steps": 256,
        "seed": 3,
        "device": "cpu",
        "cg_max_steps": 60,
        "normalize_advantage": normalize_advantage,
        "n_critic_updates": 1,
    }
    averaged = n_averaged_dimensions(SPACES[kind])
    theirs = sb3_contrib.TRPO("MlpPolicy", env(), target_kl=0.005, cg_damping=0.1, **common).learn(256)
    ours = TRPO(
        "MlpPolicy",
        env(),
        target_kl=0.005 * averaged,
        cg_damping=0.1 * averaged,
        cg_tolerance=1e-6,
        fast_rollout=False,  # the same random numbers too
        **common,
    )
    for model in (theirs, ours):  # a rollout of the untrained policy, the same for both
        model.set_random_seed(3)
        model._last_obs = None
        model.set_parameters(copy.deepcopy(theirs.get_parameters()))
        _, callback = model._setup_learn(256)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 256)
    for name in ("observations", "actions", "advantages", "log_probs"):
        np.testing.assert_array_equal(getattr(ours.rollout_buffer, name), getattr(theirs.rollout_buffer, name))

    np.random.seed(0)  # noqa: NPY002  # the buffers shuffle with the global generator
    their_step = dict(zip(_actor_names(theirs), _split(theirs, contrib_full_step(theirs)), strict=True))
    np.random.seed(0)  # noqa: NPY002
    with captured_steps() as steps:
        ours.train()
    our_step = steps[0].by_name(ours.policy)
    assert our_step.keys() == their_step.keys()
    for name, parameter in theirs.policy.named_parameters():  # the critic too: same minibatches, same optimiser
        if "value" in name:
            th.testing.assert_close(dict(ours.policy.named_parameters())[name], parameter, rtol=1e-4, atol=1e-6)
    a, b = (th.cat([step[name].reshape(-1) for name in sorted(their_step)]).double() for step in (our_step, their_step))
    assert float(a @ b / (a.norm() * b.norm())) >= 0.9999
    assert float(a.norm() / b.norm()) == pytest.approx(1.0, abs=1e-3)


def _actor_names(model):
    """The order of sb3-contrib's flat vectors."""
    return [name for name, _ in model.policy.named_parameters() if "value" not in name]


def _split(model, vector):
    parameters = dict(model.policy.named_parameters())
    shapes = [parameters[name].shape for name in _actor_names(model)]
    return [part.view(shape) for part, shape in zip(vector.split([s.numel() for s in shapes]), shapes, strict=True)]


def test_there_are_models_of_both_versions():
    assert [
        f"trpo_{version}_{env}" for version in ("2.0.0", "2.9.2") for env in ("cartpole", "pendulum_gsde")
    ] == MODELS


@pytest.mark.parametrize(
    ("cls", "said"),
    [(PPO, ", but a PPO: load it with stable_baselines3.PPO"), (A2C, ": load it with the class that saved it")],
)
def test_models_of_other_algorithms_are_refused(cls, said, tmp_path):
    cls("MlpPolicy", "CartPole-v1").save(tmp_path / "other")
    with pytest.raises(ValueError, match=f"does not hold a TRPO{said}"):
        TRPO.load(tmp_path / "other")


@pytest.mark.parametrize("name", MODELS)
def test_models_of_sb3_contrib_load_predict_as_recorded_and_go_on_training(name):
    recorded = json.loads((FIXTURES / f"{name}.json").read_text())
    model = TRPO.load(FIXTURES / f"{name}.zip", env=recorded["env"], device="cpu")
    actions, _ = model.predict(np.array(recorded["obs"], np.float32), deterministic=True)
    np.testing.assert_allclose(actions, np.array(recorded["act"]), rtol=1e-5, atol=1e-6)
    assert (model.target_kl, model.cg_damping, model.max_grad_norm) == (0.01, 0.1, None)
    updates = model._n_updates
    before = th.nn.utils.parameters_to_vector(model.policy.parameters())
    model.learn(256, reset_num_timesteps=False)
    after = th.nn.utils.parameters_to_vector(model.policy.parameters())
    assert model._n_updates == updates + 2
    assert model.num_timesteps == 512
    assert th.isfinite(after).all()
    assert not th.equal(before, after)


@pytest.mark.parametrize("opened", [False, True])
def test_radius_and_damping_are_translated_with_a_notice(tmp_path, opened):
    env = DummyVecEnv([lambda: Contextual(spaces.Box(-1.0, 1.0, (6,), np.float32))])
    sb3_contrib.TRPO("MlpPolicy", env, target_kl=0.01, cg_damping=0.2, n_steps=64, batch_size=64).save(
        tmp_path / "contrib"
    )
    path = tmp_path / "contrib"
    if opened:
        path = io.BytesIO((tmp_path / "contrib.zip").read_bytes())
    with pytest.warns(UserWarning, match=r"6 action dimensions.*target_kl 0\.01 -> 0\.06, cg_damping 0\.2 -> 1\.2"):
        model = TRPO.load(path, env=env)
    assert model.target_kl == pytest.approx(0.06)
    assert model.cg_damping == pytest.approx(1.2)

    for given in ({"custom_objects": {"target_kl": 0.02}}, {"target_kl": 0.02}):
        with pytest.warns(UserWarning, match=r"region: cg_damping 0\.2 -> 1\.2"):
            model = TRPO.load(tmp_path / "contrib", **given)
        assert model.target_kl == 0.02
    model = TRPO.load(tmp_path / "contrib", target_kl=0.02, cg_damping=1.2, custom_objects={"max_grad_norm": 5.0})
    assert model.max_grad_norm == 5.0

    model.save(tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = TRPO.load(tmp_path / "ours")
    assert (again.target_kl, again.cg_damping) == (0.02, model.cg_damping), "translated twice"


def test_a_shared_extractor_of_sb3_contrib_stays_shared(tmp_path):
    env = DummyVecEnv([lambda: Contextual(spaces.Discrete(2), spaces.Box(0, 255, (1, 36, 36), np.uint8))])
    theirs = sb3_contrib.TRPO("CnnPolicy", env, n_steps=16, batch_size=16)
    theirs.save(tmp_path / "cnn")
    ours = TRPO.load(tmp_path / "cnn", env=env)
    assert ours.policy.share_features_extractor
    obs = env.reset()
    np.testing.assert_array_equal(ours.predict(obs, deterministic=True)[0], theirs.predict(obs, deterministic=True)[0])
    ours.learn(16)
