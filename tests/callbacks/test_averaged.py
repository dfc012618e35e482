"""The averaged policy is the average that it is said to be, is saved, and goes on with its training."""

import contextlib
import copy
import io

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo import TRPO
from sb3_trpo.algorithms.learned import Learned
from sb3_trpo.callbacks import AveragedPolicy, Validation
from tests.algorithms.kinds import collect, make_model
from tests.algorithms.test_all_or_nothing import AtLine, same
from tests.algorithms.test_resume import SaveAtBoundaries
from tests.envs import Probe
from tests.resuming import N_ENVS, N_STEPS, load, new_model

ROLLOUT = N_STEPS * N_ENVS


class Weights(BaseCallback):
    """Parameters after each update, and those of the start."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_rollout_start(self):
        self.seen.append([parameter.detach().clone() for parameter in self.model.policy.parameters()])

    def _on_step(self):
        return True

    def _on_training_end(self):
        self._on_rollout_start()


def moving_average(seen, decay):
    """In double precision, by the definition."""
    averages = [parameter.double() for parameter in seen[0]]
    for parameters in seen[1:]:
        averages = [decay * a + (1 - decay) * p.double() for a, p in zip(averages, parameters, strict=True)]
    return averages


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["VecNormalize", "recurrent", "gSDE", "masks and memory"])
def test_it_is_the_exponential_moving_average_of_the_policies_after_updates(kind, decay):
    averaged, weights = AveragedPolicy(decay), Weights()
    new_model(kind).learn(4 * ROLLOUT, [averaged, weights])
    assert len(weights.seen) == 5
    for mine, expected in zip(averaged.policy.parameters(), moving_average(weights.seen, decay), strict=True):
        assert th.allclose(mine.double(), expected, rtol=1e-5, atol=1e-6)
    if decay == 0.0:
        assert all(map(th.equal, averaged.policy.parameters(), weights.seen[-1]))


def test_frozen_parameters_stay_and_buffers_are_those_of_the_policy():
    model, averaged = new_model("CartPole"), AveragedPolicy(0.5)
    model.policy.mlp_extractor.policy_net[0].weight.requires_grad_(False)
    model.policy.register_buffer("count", th.tensor(0))
    model.policy.register_buffer("statistics", th.zeros(2))

    class Count(BaseCallback):
        def _on_rollout_start(self):
            self.model.policy.count += 1
            self.model.policy.statistics += 0.7

        def _on_step(self):
            return True

    frozen = model.policy.mlp_extractor.policy_net[0].weight.detach().clone()
    moving = model.policy.action_net.weight.detach().clone()
    model.learn(4 * ROLLOUT, [Count(), averaged])
    assert th.equal(averaged.policy.mlp_extractor.policy_net[0].weight, frozen)
    assert not th.equal(averaged.policy.action_net.weight, moving)
    assert averaged.policy.count == model.policy.count == 4
    assert th.equal(averaged.policy.statistics, model.policy.statistics)


def test_a_shared_extractor_is_averaged_once_and_stays_shared():
    model = make_model("image", policy_kwargs={"share_features_extractor": True})
    averaged, weights = AveragedPolicy(0.5), Weights()
    model.learn(2 * model.n_steps * model.n_envs, [averaged, weights])
    policy = averaged.policy
    assert policy.pi_features_extractor is policy.vf_features_extractor is policy.features_extractor
    for mine, expected in zip(policy.parameters(), moving_average(weights.seen, 0.5), strict=True):
        assert th.allclose(mine.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "kind", ["box", "discrete", "multi_discrete", "multi_binary", "gsde", "masked_multi_discrete", "lstm"]
)
def test_a_policy_is_copied_whatever_it_remembers_of_its_last_graph(kind):
    model, averaged = collect(make_model(kind)), AveragedPolicy()
    model.train()
    if model.use_sde:
        model.policy.reset_noise(4)
    model.num_timesteps = 0
    averaged.init_callback(model)
    averaged.on_training_start({"callback": averaged}, {})
    assert averaged.policy is not model.policy
    assert same(dict(averaged.policy.state_dict()), dict(model.policy.state_dict()))


def test_it_leaves_the_training_bit_for_bit_as_it_was():
    models = [new_model("gSDE").learn(4 * ROLLOUT, callbacks) for callbacks in (None, AveragedPolicy())]
    assert same(*(Learned.of(model).weights for model in models))


@pytest.mark.parametrize("kind", ["VecNormalize", "masks and memory"])
def test_what_is_saved_is_an_algorithm_with_the_averaged_policy(kind, tmp_path, capsys):
    averaged = AveragedPolicy(0.5, save_path=tmp_path, verbose=1)
    model = new_model(kind)
    model.learn(3 * ROLLOUT, averaged)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["averaged_model.zip", *(["averaged_vecnormalize.pkl"] if kind == "VecNormalize" else [])]
    assert "averaged_model.zip" in capsys.readouterr().out
    loaded = type(model).load(tmp_path / "averaged_model", env=model.get_env())
    assert same(dict(loaded.policy.state_dict()), dict(averaged.policy.state_dict()))
    assert same(loaded.policy.optimizer.state_dict(), model.policy.optimizer.state_dict())
    assert not same(dict(loaded.policy.state_dict()), dict(model.policy.state_dict()))
    loaded.learn(ROLLOUT, reset_num_timesteps=False)
    assert loaded.num_timesteps == 4 * ROLLOUT


@pytest.mark.parametrize("after", [0, 7])
@pytest.mark.parametrize("kind", ["CartPole", "recurrent"])
def test_the_average_goes_on_exactly(kind, after):
    model, averaged, saving = new_model(kind), AveragedPolicy(0.5), SaveAtBoundaries((0, 1, 3), after)
    model.learn(5 * ROLLOUT, [averaged, saving])
    for file in saving.files.values():
        file.seek(0)
        other, again = load(kind, file), AveragedPolicy(0.5)
        other.learn(other.timesteps_left, again, reset_num_timesteps=False)
        assert same(dict(again.policy.state_dict()), dict(averaged.policy.state_dict()))
        assert same(other.callback_states, model.callback_states)


def test_a_second_learn_goes_on_and_a_new_training_begins_anew():
    model, averaged, twin, other = (
        new_model("CartPole"),
        AveragedPolicy(0.5),
        new_model("CartPole"),
        AveragedPolicy(0.5),
    )
    model.learn(2 * ROLLOUT, averaged)
    model.learn(2 * ROLLOUT, averaged, reset_num_timesteps=False)
    twin.learn(2 * ROLLOUT, other)
    file = io.BytesIO()
    twin.save(file)
    file.seek(0)
    twin, other = TRPO.load(file, env=model.get_env()), AveragedPolicy(0.5)
    twin.learn(0, other, reset_num_timesteps=False)
    assert twin.callback_states["AveragedPolicy"]["average"]["n_averaged"] == 3
    assert model.callback_states["AveragedPolicy"]["average"]["n_averaged"] == 5
    model.learn(0, averaged)
    assert same(dict(averaged.policy.state_dict()), dict(model.policy.state_dict()))


def test_an_average_that_missed_updates_begins_anew():
    model, averaged = new_model("CartPole"), AveragedPolicy(0.9)
    model.learn(2 * ROLLOUT, averaged)
    model.learn(3 * ROLLOUT, reset_num_timesteps=False)
    present = copy.deepcopy(dict(model.policy.state_dict()))
    averaged = AveragedPolicy(0.0)
    start = []

    class Start(BaseCallback):
        def _on_training_start(self):
            start.append(copy.deepcopy(dict(averaged.policy.state_dict())))

        def _on_step(self):
            return True

    model.learn(ROLLOUT, [averaged, Start()], reset_num_timesteps=False)
    assert same(start[0], present)


def test_an_average_interrupted_at_any_line_has_been_taken_or_has_not():
    model, averaged = new_model("CartPole"), AveragedPolicy(0.5)
    model.learn(2 * ROLLOUT, averaged)
    model.learn(ROLLOUT, reset_num_timesteps=False)

    def state():
        return copy.deepcopy((dict(averaged._average.state_dict()), model.callback_states["AveragedPolicy"]["updates"]))

    old, states = state(), model.callback_states
    counting = AtLine(-1)
    with counting:
        averaged.catch_up()
    new, outcomes = state(), []
    assert not same(old, new)
    for number in range(1, counting.seen + 1, 5):
        averaged._average.load_state_dict(old[0])
        model.callback_states = states
        with contextlib.suppress(KeyboardInterrupt), AtLine(number):
            averaged.catch_up()
        outcomes.append("old" if same(state(), old) else "new")
        assert outcomes[-1] == "old" or same(state(), new), f"line {number}: an average was taken in part"
        assert th.is_grad_enabled()
    assert outcomes.count("old") > 5


class Opposite(BaseCallback):
    """Has the averaged policy, not the present one, mean the opposite at step 2000."""

    def __init__(self, averaged):
        super().__init__()
        self.averaged = averaged

    def _on_rollout_start(self):
        if self.model.num_timesteps == 2000:
            with th.no_grad():
                self.averaged.policy.action_net.weight.mul_(-3.0)

    def _on_step(self):
        return True


def test_the_averaged_policy_is_validated_kept_and_put_back(tmp_path):
    env = make_vec_env(Probe, 4, seed=0, env_kwargs={"n_options": 2})
    model = TRPO("MlpPolicy", env, n_steps=50, batch_size=50, target_kl=0.1, seed=3)
    averaged = AveragedPolicy(0.5)
    validation = Validation(
        make_vec_env(Probe, 2, env_kwargs={"n_options": 2}), eval_freq=1000, averaged=averaged, save_path=tmp_path
    )

    class Check(BaseCallback):
        seen = None

        def _on_rollout_start(self):
            progress = validation.progress
            if self.model.num_timesteps == 1000:
                assert progress.good_step == 1000
                assert same(progress.learned["weights"], dict(averaged.policy.state_dict()))
                assert not same(progress.learned["weights"], dict(self.model.policy.state_dict()))
                self.seen = copy.deepcopy(dict(averaged.policy.state_dict()))
            if self.model.num_timesteps == 2000:
                assert progress.rollbacks == 1
                assert same(self.seen, dict(self.model.policy.state_dict()))
                assert same(self.seen, dict(averaged.policy.state_dict()))

        def _on_step(self):
            return True

    model.learn(2200, [averaged, Opposite(averaged), validation, Check()])
    best = TRPO.load(tmp_path / "best_model")
    assert validation.progress.rollbacks == 1
    assert best.num_timesteps == validation.progress.best_step
    cues = np.array([[-1.0], [1.0]], np.float32)
    assert best.predict(cues, deterministic=True)[0].tolist() == [0, 1]


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan"), "0.5"])
def test_what_is_no_decay_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay=.* must be a finite number in \[0, 1\)"):
        AveragedPolicy(decay)


def test_other_algorithms_are_refused_and_there_is_none_before_training():
    with pytest.raises(TypeError, match="AveragedPolicy is for algorithms of sb3_trpo, and this is PPO"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).learn(8, AveragedPolicy())
    with pytest.raises(RuntimeError, match="there is no averaged policy before learn"):
        AveragedPolicy().policy  # noqa: B018


class Mine(AveragedPolicy):
    """Remembers where its base does."""


@pytest.mark.parametrize("nested", [False, True])
def test_two_of_a_kind_in_one_training_are_refused(nested):
    """They would remember in one place."""
    model = new_model("VecNormalize")
    before = copy.deepcopy(model.policy.state_dict())
    averages = [AveragedPolicy(0.5), Mine(0.9)]
    with pytest.raises(ValueError, match="two AveragedPolicy callbacks in one training"):
        model.learn(ROLLOUT, CallbackList(averages) if nested else averages)
    assert same(before, model.policy.state_dict())
    assert not model.callback_states
    validations = [Validation(make_vec_env("Pendulum-v1")) for _ in range(2)]
    with pytest.raises(ValueError, match="two Validation callbacks in one training"):
        TRPO("MlpPolicy", "Pendulum-v1", n_steps=64).learn(64, [validations[0], CallbackList(validations[1:])])
