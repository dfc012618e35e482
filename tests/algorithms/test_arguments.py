"""Bad input is refused in the constructor, by name, value and remedy, before the first environment step."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo import TRPO
from tests.algorithms.kinds import BOX, IMAGE, make_model
from tests.envs import Contextual, Probe

NAN, INF = float("nan"), float("inf")

BAD = [
    (
        "target_kl",
        [0, -0.01, None, NAN, INF, "0.01", True, lambda p: -1.0, lambda p: NAN, lambda p: 0.0, lambda p: "a"],
    ),
    ("cg_damping", [-0.1, None, NAN, INF, "x", lambda p: -1.0]),
    ("learning_rate", [-1e-3, NAN, None, "lin_1e-3"]),
    ("n_steps", [0, -5, 2.5, None, True, "64"]),
    ("batch_size", [0, -1, 2.5, None]),
    ("gamma", [-0.1, 1.1, NAN, None]),
    ("gae_lambda", [-0.1, 1.1, NAN, None]),
    ("cg_max_steps", [0, -1, 1.5, None]),
    ("cg_tolerance", [-1e-3, 1.0, NAN, None]),
    ("line_search_shrinking_factor", [0, 1, 1.5, -0.5, NAN, None]),
    ("line_search_max_iter", [0, -1, 2.5]),
    ("n_critic_updates", [-1, 1.5, None]),
    ("sub_sampling_factor", [0, -3, 2.5, 10_000]),
    ("sde_sample_freq", [-2, 1.5]),
    ("max_grad_norm", [0, -1.0, NAN, "x"]),
    ("radius", ["adaptative", None, 5, dict, AttributeError]),
    ("radius_kwargs", [5, {"nonsense": 1}]),
    ("action_noise", ["brown", 5, dict, AttributeError]),
    ("action_noise_kwargs", [5, {"beta": 1}]),
    ("normalize_advantage", ["no", None, 1]),
    ("use_sde", ["no", None]),
    ("fast_rollout", ["no", None]),
    ("seed", [-1, 1.5, "a"]),
    ("device", ["nonsense", 1.5]),
    ("verbose", ["a", -1]),
    ("stats_window_size", ["a", 0, -1]),
    ("tensorboard_log", [5]),
    (
        "policy_kwargs",
        [
            5,
            {"nonsense": 1},
            {"net_arch": "big"},
            {"activation_fn": "tanh"},
            *({"log_std_init": number} for number in (100, -100, NAN, INF, None, "0")),
        ],
    ),
    ("rollout_buffer_class", [int, "RolloutBuffer"]),
    ("rollout_buffer_kwargs", [5, {"nonsense": 1}]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD for value in values])
def test_bad_values_are_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=name) as caught:
        make_model("box", **{name: value})
    quoted = value is not None and not callable(value) and not isinstance(value, (float, dict))
    if quoted:
        assert repr(value) in str(caught.value)


FORTY = {
    "target_kl": ([0, -0.01, None, NAN, INF], "> 0"),
    "cg_max_steps": ([0, -1, 1.5], ">= 1"),
    "cg_damping": ([-0.1, NAN, None], ">= 0"),
    "sub_sampling_factor": ([0, -3, 2.5, 65], r">= 1|in \[1, 64\]"),
    "line_search_shrinking_factor": ([0, 1, 1.5, -0.5], r"in \(0, 1\)"),
    "line_search_max_iter": ([0, 2.5], ">= 1"),
    "gamma": ([-0.1, 1.1, NAN], r"in \[0, 1\]"),
    "gae_lambda": ([-0.1, 1.1], r"in \[0, 1\]"),
    "batch_size": ([0, -1, 2.5], ">= 1"),
    "n_steps": ([0, 2.5], ">= 1"),
    "n_critic_updates": ([-1, 1.5], ">= 0"),
    "learning_rate": ([-1e-3, NAN], ">= 0"),
    "cg_tolerance": ([-1e-3, 1.0], r"in \[0, 1\)"),
    "max_grad_norm": ([0], "> 0"),
    "policy_kwargs": ([{"log_std_init": 100}, {"log_std_init": -100}], r"in \[-20, 20\]"),
}
"""Values out of range, and how the message says what would be in it."""


@pytest.mark.parametrize("kind", ["box", "masked_discrete", "lstm_box", "masked_lstm"])
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (values, _) in FORTY.items() for value in values])
def test_40_bad_values_are_refused_by_every_algorithm_before_the_first_step(name, value, kind, monkeypatch):
    """By name, value and allowed range."""

    def no_step(*args):
        raise AssertionError("the environment was reset or stepped")

    for method in ("step_wait", "reset"):
        monkeypatch.setattr(DummyVecEnv, method, no_step)
    with pytest.raises(ValueError, match=rf"^{name}.* must be .*({FORTY[name][1]})") as caught:
        make_model(kind, **{name: value})
    number = value["log_std_init"] if isinstance(value, dict) else value
    assert f"={number!r} " in str(caught.value)


def test_there_are_40_of_them():
    assert sum(len(values) for values, _ in FORTY.values()) == 40


def test_an_error_says_what_would_be_right():
    with pytest.raises(ValueError, match=r"^target_kl=-0\.01 must be a finite number > 0, or a function of"):
        make_model("box", target_kl=-0.01)
    with pytest.raises(
        ValueError, match=r"^sub_sampling_factor=100 must be an integer in \[1, 64\]: the rollout is no"
    ):
        make_model("box", sub_sampling_factor=100)
    with pytest.raises(
        ValueError, match=r"radius='adaptve' must be one of 'fixed', 'scheduled', 'adaptive', 'confidence', 'uncer"
    ):
        make_model("box", radius="adaptve")


@pytest.mark.parametrize(
    ("space", "remedy"),
    [
        (spaces.Dict({"a": spaces.Discrete(2)}), "use Box, Discrete, MultiDiscrete or MultiBinary"),
        (spaces.Tuple([spaces.Discrete(2)]), "use Box, Discrete, MultiDiscrete or MultiBinary"),
        (spaces.Box(-np.inf, np.inf, (2,), np.float32), "must be bounded"),
        (spaces.Box(0, 5, (2,), np.int32), "floating-point"),
        (spaces.MultiDiscrete([[2, 2], [3, 3]]), "one-dimensional"),
        (spaces.MultiBinary([2, 2]), "one-dimensional"),
        (spaces.Box(-1, 1, (0,), np.float32), "nothing to choose"),
        (spaces.MultiDiscrete([]), "nothing to choose"),
    ],
    ids=str,
)
def test_unsupported_action_spaces_are_refused(space, remedy):
    with pytest.raises(ValueError, match=remedy) as caught:
        TRPO("MlpPolicy", Contextual(space))
    assert str(space) in str(caught.value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Tuple([BOX]),
        spaces.Dict({"a": spaces.Dict({"b": BOX})}),
        spaces.MultiDiscrete([[2, 2], [3, 3]]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*multi-dimensional MultiDiscrete")
def test_unsupported_observation_spaces_are_refused(space):
    with pytest.raises(ValueError, match="observation space") as caught:
        TRPO("MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy", Contextual(BOX, space))
    assert str(space) in str(caught.value)


@pytest.mark.parametrize("number", [np.float32(0.01), np.float64(0.01), np.int64(1), 1])
def test_numbers_of_numpy_are_numbers(number):
    model = make_model("box", target_kl=number, cg_damping=number, learning_rate=number).learn(64)
    assert model.logger.name_to_value["train/radius"] == pytest.approx(float(number))
    assert model.logger.name_to_value["train/learning_rate"] == pytest.approx(float(number))


def test_radius_and_damping_can_be_changed_between_updates():
    model = make_model("box").learn(64)
    model.target_kl, model.cg_damping = 0.05, 0.5
    model.learn(64)
    assert model.logger.name_to_value["train/radius"] == 0.05
    assert model.logger.name_to_value["train/damping"] == 0.5


@pytest.mark.parametrize("env", [None, 5, object()])
def test_what_is_not_an_environment_is_refused(env):
    with pytest.raises(ValueError, match="env="):
        TRPO("MlpPolicy", env)


def test_an_unknown_environment_is_named():
    with pytest.raises(gym.error.Error, match="NoSuchEnv"):
        TRPO("MlpPolicy", "NoSuchEnv-v0")


def test_an_image_too_small_for_the_network_is_refused():
    image = spaces.Dict({"eye": spaces.Box(0, 255, (1, 3, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"^policy MultiInputPolicy with .* cannot be used: .*[Kk]ernel size can't be"):
        TRPO("MultiInputPolicy", Contextual(spaces.Discrete(2), image))


@pytest.mark.parametrize("policy", [5, None, DiagGaussianDistribution, "MlpPolicy2"])
def test_what_is_not_a_policy_is_refused(policy):
    with pytest.raises(ValueError, match=r"[Pp]olicy"):
        TRPO(policy, Contextual(spaces.Discrete(2)))


def test_a_policy_for_other_observations_is_refused():
    with pytest.raises(ValueError, match="NatureCNN"):
        TRPO("CnnPolicy", Contextual(spaces.Discrete(2), BOX))
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        TRPO("MlpPolicy", Contextual(spaces.Discrete(2), spaces.Dict({"a": BOX})))
    with pytest.raises(ValueError, match="squash_output"):
        TRPO("MlpPolicy", Contextual(BOX), policy_kwargs={"squash_output": True})


class NoKLDistribution(DiagGaussianDistribution):
    def proba_distribution(self, mean_actions, log_std):
        self.distribution = th.distributions.StudentT(5.0, mean_actions, log_std.exp())
        return self


class NoKLPolicy(ActorCriticPolicy):
    def _build(self, lr_schedule):
        self.action_dist = NoKLDistribution(self.action_space.shape[0])
        super()._build(lr_schedule)


class FrozenPolicy(ActorCriticPolicy):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.requires_grad_(False)
        self.value_net.requires_grad_(True)


def test_a_policy_whose_distribution_is_unknown_is_refused():
    with pytest.raises(ValueError, match=r"NoKLDistribution has no KL divergence: register one"):
        TRPO(NoKLPolicy, Contextual(BOX))


def test_a_policy_without_anything_to_train_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter of the policy changes its actions"):
        TRPO(FrozenPolicy, Contextual(BOX))


def test_a_rollout_of_one_step_cannot_be_standardised():
    env = Contextual(spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"n_steps \* n_envs = 1 \* 1 must be greater than 1"):
        TRPO("MlpPolicy", env, n_steps=1)
    TRPO("MlpPolicy", env, n_steps=1, batch_size=1, normalize_advantage=False).learn(3)
    TRPO("MlpPolicy", DummyVecEnv([Probe, Probe]), n_steps=1, batch_size=2).learn(4)


@pytest.mark.parametrize("steps", [-1, 1.5, NAN, INF, "1e6", None])
def test_a_bad_length_of_training_is_refused(steps):
    model = make_model("box")
    with pytest.raises(ValueError, match="total_timesteps="):
        model.learn(steps)
    assert model.num_timesteps == 0


def test_what_stable_baselines3_accepts_is_accepted(tmp_path):
    model = make_model("box", tensorboard_log=tmp_path, verbose=False, seed=np.int64(3))
    assert (model.learn(0).num_timesteps, model.seed) == (0, 3)
    wide = np.finfo(np.float64).max
    TRPO("MlpPolicy", Contextual(BOX, spaces.Box(-wide, wide, (3,), np.float64)))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="is not a saved model"):
        TRPO.load(tmp_path / "model")


def test_a_float_is_a_fine_length_of_training():
    assert make_model("box").learn(1.28e2).num_timesteps == 128


def test_arguments_given_to_load_are_checked_too(tmp_path):
    make_model("box").save(tmp_path / "model")
    with pytest.raises(ValueError, match="target_kl=-1"):
        TRPO.load(tmp_path / "model", target_kl=-1)


def test_schedules_reach_the_update():
    model = make_model(
        "box",
        target_kl=LinearSchedule(0.04, 0.0, 1.0),
        cg_damping=lambda p: 0.1 + p,
        learning_rate=lambda p: 1e-3 * p,
        n_steps=32,
    )
    seen = []
    original = model.train

    def train():
        original()
        seen.append([model.logger.name_to_value[f"train/{key}"] for key in ("radius", "damping", "learning_rate")])

    model.train = train
    model.learn(250)  # four rollouts of 64: the last one overshoots and must not make the radius negative
    progress = np.array([1 - 64 / 250, 1 - 128 / 250, 1 - 192 / 250, 0.0])
    np.testing.assert_allclose(seen, np.stack([0.04 * progress, 0.1 + progress, 1e-3 * progress], 1), atol=1e-9)
    assert model.logger.name_to_value["train/outcome"] == "refused: the trust-region radius is zero"


def test_a_schedule_that_goes_wrong_during_training_is_named():
    model = make_model("box", target_kl=lambda p: NAN if 0.1 < p < 0.4 else 0.01)
    with pytest.raises(ValueError, match=r"radius at remaining progress 0\.333=nan"):
        model.learn(192)


def test_images_are_accepted_where_they_belong():
    model = TRPO("CnnPolicy", Contextual(spaces.Discrete(2), IMAGE), n_steps=8, batch_size=8).learn(8)
    assert model._n_updates == 1
