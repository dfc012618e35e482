"""A noise process in rollouts: it is what the actions are made of, in every way of acting, and of nothing else."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo import TRPO, RecurrentTRPO
from sb3_trpo.algorithms.policies import MlpPolicy
from sb3_trpo.extensions.correlated_noise import ColoredNoise, OrnsteinUhlenbeckNoise, PinkNoise, WhiteNoise
from tests.algorithms.kinds import BOX, KINDS, algorithm_of, make_model, play_back
from tests.algorithms.kinds import collect as collect_on
from tests.algorithms.test_rollout import collect
from tests.envs import Walk
from tests.resuming import assert_same_training


class SquashedPolicy(MlpPolicy):
    """A policy of a Gaussian that is squashed without gSDE."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.action_dist = SquashedDiagGaussianDistribution(self.action_space.shape[0])

    @property
    def squash_output(self):
        return True


SQUASHED = (spaces.Box(-1.0, 1.0, (2,), np.float32), BOX, SquashedPolicy, {})
GAUSSIAN = ["box", "box_matrix", "box64", "linear", "dict", "custom_layer", "lstm_box", "lstm_shared", "squashed"]
"""In numpy, by the policy's distribution, by its own ``forward``; with and without memory."""
PLAIN_TOO = [kind for kind in GAUSSIAN if kind != "custom_layer"]


class Numbered:
    """A process whose numbers are a function of the step, and which remembers what it was asked."""

    def begin(self, n_envs, n_dims, generator):
        self.shape, self.asked = (n_envs, n_dims), []

    def number(self, step):
        return np.random.default_rng(step).standard_normal(self.shape).astype(np.float32)

    def next(self, episode_starts):
        self.asked.append(np.array(episode_starts, bool))
        return self.number(len(self.asked) - 1)


def make(kind, action_noise, **changes):
    """A model on environments whose episodes end both ways at different times."""
    action_space, observation_space, policy, kwargs = SQUASHED if kind == "squashed" else KINDS[kind]
    env = DummyVecEnv([lambda n=n: Walk(action_space, observation_space, n) for n in (5, 8, 11)])
    env.seed(7)
    settings = {"n_steps": 40, "batch_size": 40, "seed": 7, "device": "cpu", "action_noise": action_noise, **kwargs}
    return algorithm_of(kind)(policy, env, **{**settings, **changes})


def played_back(model):
    """The policy's distribution, actions and log-probabilities of each step."""
    with th.no_grad():
        for distribution, actions, _, log_probs in play_back(model.policy, model.rollout_buffer):
            yield distribution, actions.reshape(len(actions), -1), log_probs


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", GAUSSIAN)
def test_actions_are_the_mean_and_the_processs_number_of_the_step(kind, fast):
    """Over two rollouts; the process is told of every start, once a step."""
    model = make(kind, Numbered, fast_rollout=fast)
    with th.no_grad():
        model.policy.log_std += th.linspace(-0.5, 0.5, len(model.policy.log_std))
    for rollout in range(2):
        collect_on(model)
        process, buffer = model.noise_process, model.rollout_buffer
        assert len(process.asked) == 40 * (rollout + 1)
        np.testing.assert_array_equal(process.asked[-40:], buffer.episode_starts.astype(bool))
        assert buffer.episode_starts.sum() > 12
        for step, (distribution, actions, log_probs) in enumerate(played_back(model)):
            gaussian = distribution.distribution.mean + model.policy.log_std.exp() * process.number(40 * rollout + step)
            expected = gaussian.tanh() if kind == "squashed" else gaussian
            np.testing.assert_allclose(actions, expected.detach(), atol=2e-5)
            np.testing.assert_allclose(log_probs, distribution.log_prob(actions), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("action_noise", ["white", "colored", "pink", "ou"])
@pytest.mark.parametrize("kind", PLAIN_TOO)
def test_the_two_rollouts_are_twins(kind, action_noise):
    fast, plain = (make(kind, action_noise, fast_rollout=fast) for fast in (True, False))
    for model in (fast, plain):
        collect(model)
    for name in ("actions", "rewards", "values", "log_probs", "episode_starts", "advantages"):
        ours, theirs = getattr(fast.rollout_buffer, name), getattr(plain.rollout_buffer, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=name)
    assert np.array_equal(fast.noise_process.next(np.zeros(3, bool)), plain.noise_process.next(np.zeros(3, bool)))


@pytest.mark.parametrize("kind", ["box", "dict", "lstm_box"])
def test_the_ratio_is_one_when_the_update_starts(kind):
    """So that the surrogate at the old policy is the mean of standardised advantages: zero."""
    model = make(kind, "pink")
    collect(model)
    experience = model._experience()
    with th.no_grad():
        distribution = experience.steps.action_distribution(model.policy)
        ratio = (distribution.log_prob(experience.actions) - experience.old_log_prob).exp()
    assert len(ratio) == 120
    np.testing.assert_allclose(ratio, 1.0, atol=1e-4)


class Predict(BaseCallback):
    """Asks the policy for actions at random at every step, for as many environments as there are and for one."""

    def _on_step(self):
        for observations in (self.locals["new_obs"], self.locals["new_obs"][:1]):
            actions, _ = self.model.predict(observations, deterministic=False)
            again, _ = self.model.predict(observations, deterministic=False)
            assert (actions != again).any()  # drawn anew, and not the number of the step
        return True


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", ["box", "lstm_box"])
def test_predictions_take_nothing_from_the_process(kind, fast):
    undisturbed, disturbed = (make(kind, "pink", fast_rollout=fast) for _ in range(2))
    collect(undisturbed, 1)
    _, callback = disturbed._setup_learn(10**6, Predict())
    assert disturbed.collect_rollouts(disturbed.env, callback, disturbed.rollout_buffer, 40)
    np.testing.assert_array_equal(undisturbed.rollout_buffer.actions, disturbed.rollout_buffer.actions)


class CallForward(BaseCallback):
    """Calls a copy of the policy, the policy itself, and the policy on one observation: before a rollout and in it."""

    def _on_rollout_start(self):
        self.call(self.model._last_obs)

    def _on_step(self):
        self.call(self.locals["new_obs"])
        return True

    def _on_rollout_end(self):
        self.call(self.model._last_obs)

    def call(self, observations):
        policy, numbers = self.model.policy, th.get_rng_state()
        other, obs = copy.deepcopy(policy), th.as_tensor(observations)
        with th.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
            assert other(obs)[1].abs().max() == 0.0  # a copy answers for itself
            policy(obs)
            policy(obs[:1])
        th.set_rng_state(numbers)


def test_callbacks_that_call_the_policy_take_nothing_from_the_process():
    """A pre-trained copy to compare with, for one."""
    undisturbed = make("box", "pink", fast_rollout=False).learn(240)
    disturbed = make("box", "pink", fast_rollout=False).learn(240, CallForward())  # seeds all generators anew
    np.testing.assert_array_equal(undisturbed.rollout_buffer.actions, disturbed.rollout_buffer.actions)
    assert_same_training(undisturbed, disturbed)


def test_a_call_that_fails_leaves_nothing_behind():
    class Fail(BaseCallback):
        def _on_step(self):
            with pytest.raises(RuntimeError):
                self.model.policy(th.zeros(3, 99))
            assert "sample" not in vars(self.model.policy.action_dist)
            return True

    assert make("box", "pink", fast_rollout=False).learn(120, Fail()).num_timesteps == 120


def test_nothing_of_it_stays_in_the_policy():
    model = make("box", "pink", fast_rollout=False).learn(120)
    assert not model.policy._forward_hooks
    assert not model.policy._forward_pre_hooks
    assert "sample" not in vars(model.policy.action_dist)


def test_the_noise_of_a_rollout_is_correlated_within_episodes_and_not_across():
    """Standardised actions of a still environment: neighbours in an episode, and on either side of its end."""
    env = DummyVecEnv([lambda: Walk(spaces.Box(-9, 9, (8,), np.float32), BOX, length=7, still=True)])
    model = TRPO("MlpPolicy", env, n_steps=7 * 600, seed=0, device="cpu", action_noise="ou")
    collect(model, 1)
    x = np.stack(
        [
            ((actions - distribution.distribution.mean) / distribution.distribution.stddev).numpy()[0]
            for distribution, actions, _ in played_back(model)
        ]
    )
    episodes = x.reshape(600, 7, 8)
    assert model.rollout_buffer.episode_starts.reshape(600, 7)[:, 0].all()
    within = (episodes[:, :-1] * episodes[:, 1:]).mean()
    across = (episodes[:-1, -1] * episodes[1:, 0]).mean()
    assert within == pytest.approx(np.exp(-0.15), abs=0.04)
    assert abs(across) < 4.5 / (599 * 8) ** 0.5
    assert np.square(episodes).mean((0, 2)) == pytest.approx(1.0, abs=4.5 * (2 / 4800) ** 0.5)


def test_a_seed_decides_and_another_makes_another():
    def numbers(model, n_steps=3):
        return [model.noise_process.next(np.zeros(3, bool)).copy() for _ in range(n_steps)]

    one, same, other = (make("box", "colored", seed=seed) for seed in (1, 1, 2))
    first = numbers(one)
    assert np.array_equal(first, numbers(same))
    assert not np.isclose(first, numbers(other)).any()
    assert not np.isclose(first, numbers(one)).any()
    one.set_random_seed(5)
    five = numbers(one)
    other.set_random_seed(5)
    assert np.array_equal(five, numbers(other))
    assert not np.isclose(five, first).any()


@pytest.mark.parametrize(
    ("action_noise", "kwargs", "expected"),
    [
        (None, None, None),
        ("white", None, WhiteNoise()),
        ("colored", None, ColoredNoise(beta=0.5, period=1024)),
        ("colored", {"beta": 0.25, "period": 200}, ColoredNoise(0.25, 200)),
        ("pink", {"period": 200}, PinkNoise(200)),
        ("ou", {"correlation_time": 10.0}, OrnsteinUhlenbeckNoise(10.0)),
        (ColoredNoise, {"beta": 1.5}, ColoredNoise(1.5)),
    ],
)
def test_names_and_classes(action_noise, kwargs, expected):
    model = make("box", action_noise, action_noise_kwargs=kwargs)
    assert model.noise_process == expected
    assert type(model.noise_process) is type(expected)


class SaveFirst(BaseCallback):
    """Saves before the first step, when Stable-Baselines3 sets a training up."""

    def _init_callback(self):
        self.file = io.BytesIO()
        self.model.save(self.file)
        self.file.seek(0)

    def _on_step(self):
        return True


def test_what_is_saved_before_the_first_step_has_the_noise():
    model = make_model("box", action_noise="pink")
    saving = SaveFirst()
    model.learn(64, saving)
    loaded = TRPO.load(saving.file, env=model.get_env())
    assert loaded.action_noise == model.action_noise == "pink"
    assert isinstance(loaded.noise_process, PinkNoise)


def test_another_noise_can_be_given_to_a_saved_model():
    """It begins anew then, also where all the rest goes on."""

    def env():
        return make_vec_env("Pendulum-v1", 2, seed=3)

    file = io.BytesIO()
    TRPO("MlpPolicy", env(), n_steps=20, seed=0, action_noise="pink").learn(80).save(file)

    def load(**kwargs):
        file.seek(0)
        model = TRPO.load(file, env=env(), force_reset=False, **kwargs)
        model.learn(40, reset_num_timesteps=False)
        return model

    assert load().noise_process == PinkNoise()
    assert load(action_noise="ou").noise_process == OrnsteinUhlenbeckNoise()
    assert load(action_noise="colored", action_noise_kwargs={"beta": 0.2}).noise_process == ColoredNoise(0.2)
    assert load(action_noise=None).noise_process is None
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TRPO.load(file).noise_process == PinkNoise()  # without an environment, to predict


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize(
    ("algorithm", "policy", "arguments"),
    [
        *((TRPO, "MlpPolicy", {"action_noise": noise}) for noise in ("white", "pink", "ou")),
        (RecurrentTRPO, "MlpLstmPolicy", {"policy_kwargs": {"lstm_hidden_size": 4}}),
    ],
)
def test_another_number_of_environments_begins_with_streams_and_memories_of_its_own(
    algorithm, policy, arguments, n_envs
):
    """Where the state of the training that was is not gone on with."""
    file = io.BytesIO()
    algorithm(policy, make_vec_env("Pendulum-v1", 2, seed=3), n_steps=20, seed=0, **arguments).learn(40).save(file)
    file.seek(0)
    model = algorithm.load(file, env=make_vec_env("Pendulum-v1", n_envs), force_reset=False)
    assert model.learn(20 * n_envs).num_timesteps == 20 * n_envs
    if model.noise_process is not None:
        assert len(np.unique(model.noise_process.next(np.zeros(n_envs, bool)))) == n_envs


def test_learning_again_and_after_a_stop_goes_on():
    class Stop(BaseCallback):
        def _on_step(self):
            return self.n_calls < 10

    model = make("box", "pink")
    model.learn(1000, Stop())
    model.learn(120, reset_num_timesteps=False)
    model.learn(120)
    assert model.num_timesteps == 120
    assert model.action_noise == "pink"


def test_two_trainings_of_a_seed_are_one():
    one, other = (make("lstm_box", "colored").learn(240) for _ in range(2))
    assert_same_training(one, other)


class Deaf(MlpPolicy):
    """A policy whose ``forward`` draws actions of its own."""

    def forward(self, obs, deterministic=False):
        distribution = self.get_distribution(obs)
        actions = distribution.mode() + th.randn(len(obs), 2)
        return actions, self.predict_values(obs), distribution.log_prob(actions)


def test_a_forward_that_draws_by_itself_is_refused():
    env = make_vec_env(lambda: Walk(spaces.Box(-1.0, 1.0, (2,), np.float32), BOX), 1)
    model = TRPO(Deaf, env, n_steps=8, action_noise="pink", device="cpu")
    with pytest.raises(ValueError, match="action_noise='pink' has no part in the actions of Deaf"):
        model.learn(8)
    assert not model.policy._forward_hooks
    assert "sample" not in vars(model.policy.action_dist)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("discrete", {}, r"action_noise='pink' is for continuous actions, and Discrete\(4\) has none"),
        ("multi_binary", {}, "is for continuous actions"),
        ("masked_discrete", {}, "is for continuous actions"),
        ("masked_lstm", {}, "is for continuous actions"),
        ("gsde", {}, "action_noise='pink' and use_sde=True are two ways to explore"),
        ("lstm_gsde", {}, "two ways to explore"),
        ("beta", {}, r"is for diagonal Gaussian distributions, and that of BetaPolicy is a BetaDistribution: leave it"),
        ("no_entropy", {}, "that of SquashedNormalPolicy is a SquashedNormal"),
        ("box", {"action_noise": "brown"}, r"'brown' must be one of 'white', 'colored', 'pink', 'ou', or a class"),
        ("box", {"action_noise": NormalActionNoise(np.zeros(3), np.ones(3))}, "NoiseProcess, or None"),
        ("box", {"action_noise": NormalActionNoise}, "NoiseProcess, or None"),
        ("box", {"action_noise_kwargs": {"beta": 0.5}}, r"action_noise_kwargs=\{'beta': 0.5\} does not fit PinkNoise"),
        (
            "box",
            {"action_noise": "colored", "action_noise_kwargs": {"beta": 3}},
            r"beta=3 must be a number in \[0, 2\]",
        ),
        ("box", {"action_noise": "ou", "action_noise_kwargs": [1]}, "must be a dictionary"),
        (
            "box",
            {"action_noise": None, "action_noise_kwargs": {"beta": 1}},
            "are arguments of nothing: action_noise is",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_in_the_constructor(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_model(kind, **{"action_noise": "pink", **arguments})


def test_recurrent_policies_of_two_layers_take_it():
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    model = RecurrentTRPO(
        "MlpLstmPolicy", env, n_steps=32, seed=0, action_noise="colored",
        policy_kwargs={"lstm_hidden_size": 4, "n_lstm_layers": 2},
    )  # fmt: skip
    assert model.learn(128)._n_updates == 2
