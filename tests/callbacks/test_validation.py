"""Rollbacks happen when the test says so, put back all or nothing, and go on exactly where a training was saved."""

import contextlib
import copy
import io
import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize

from sb3_trpo import TRPO, MaskableTRPO
from sb3_trpo.algorithms.learned import Learned
from sb3_trpo.callbacks import AveragedPolicy, Checkpoints, Validation
from sb3_trpo.callbacks.validation import Progress
from sb3_trpo.core.trust_region import FixedRadius
from sb3_trpo.saving.normalizer import load_normalizer
from tests.algorithms.test_all_or_nothing import AtLine
from tests.algorithms.test_resume import SaveAtBoundaries, disturb_generators
from tests.envs import Masked, Probe, Walk
from tests.resuming import KINDS, N_ENVS, N_STEPS, assert_same_training, load, logged, new_model

ROLLOUT = N_STEPS * N_ENVS


def evaluation_env(kind):
    env = KINDS[kind][2]()
    if isinstance(env, VecNormalize):
        env.training = env.norm_reward = False
    return env


def same(one, other):
    """Bit for bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(itertools.starmap(same, zip(one, other, strict=True)))
    if isinstance(one, (th.Tensor, np.ndarray)):
        return bool((one == other).all())
    return same(vars(one), vars(other)) if hasattr(one, "__dict__") else one == other


def everything(model):
    """What a rollback changes, in a copy."""
    return copy.deepcopy([Learned.of(model)._asdict(), model.callback_states, model.radius_factor, model._last_obs])


class Sabotage(BaseCallback):
    """Has the policy mean the opposite of what it has learned, before the rollout that begins at step ``at``."""

    def __init__(self, *at):
        super().__init__()
        self.at = at

    def _on_rollout_start(self):
        if self.model.num_timesteps in self.at:
            with th.no_grad():
                self.model.policy.action_net.weight.mul_(-3.0)
                self.model.policy.value_net.bias.add_(10.0)
            for state in self.model.policy.optimizer.state.values():
                state["exp_avg"].add_(1.0)
            self.model.radius_controller.factor *= 2.0

    def _on_step(self):
        return True


class Looks(BaseCallback):
    """What the model is at the start of rollouts."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def _on_rollout_start(self):
        self.seen[self.model.num_timesteps] = copy.deepcopy(Learned.of(self.model)._asdict())

    def _on_step(self):
        return True


def probing(seed=3, normalize=False, **arguments):
    env = make_vec_env(Probe, 4, seed=seed, env_kwargs={"n_options": 2})
    env = VecNormalize(env) if normalize else env
    return TRPO("MlpPolicy", env, n_steps=50, batch_size=50, target_kl=0.1, radius="adaptive", seed=seed, **arguments)


def probe(normalize=False):
    env = make_vec_env(Probe, 2, env_kwargs={"n_options": 2})
    return VecNormalize(env, training=False, norm_reward=False) if normalize else env


@pytest.mark.parametrize("normalize", [False, True])
def test_a_policy_that_has_become_worse_is_put_back_with_all_that_it_had_learned(normalize):
    model, looks, before = probing(normalize=normalize), Looks(), Looks()
    validation = Validation(probe(normalize), eval_freq=1000)
    model.learn(5000, [before, Sabotage(4000), validation, looks])
    progress = validation.progress
    assert progress.rollbacks == 1
    assert progress.good_step >= 4000
    assert not same(before.seen[4000], looks.seen[4000])
    assert same(before.seen[3000], looks.seen[4000]), "the last good one, which was validated at step 3000"
    assert model.num_timesteps == 5000
    assert model._n_updates == 25
    assert progress.good.mean() > 0.9


def test_the_radius_shrinks_and_recovers_slowly():
    model, radii = probing(), []

    class Radii(BaseCallback):
        def _on_rollout_start(self):
            radii.append(self.model.radius_factor)
            free = self.model.radius_controller.radius(0.1, 1.0)
            assert self.model._radius_and_damping(1, 0.0)[0] == free * self.model.radius_factor

        def _on_step(self):
            return True

    validation = Validation(probe(), eval_freq=1000, shrink=0.5, recovery=1.25)
    model.learn(5600, [Sabotage(3000, 4000), validation, Radii()])
    at = np.cumsum([0] + [1] * 27)
    first = np.minimum(0.5 * 1.25 ** (at - 15), 1.0)
    second = np.minimum(0.5 * first[20] * 1.25 ** (at - 20), 1.0)
    expected = np.where(at < 15, 1.0, np.where(at < 20, first, second))
    assert validation.progress.rollbacks == 2
    assert radii == pytest.approx(expected[:28].tolist())
    assert radii[19] == radii[-1] == 1.0


class Scripted(Validation):
    """Plays what is written: the name of a policy is the step at which it was validated."""

    def __init__(self, returns, **arguments):
        super().__init__(probe(), eval_freq=200, n_eval_episodes=4, **arguments)
        self.returns, self.played, self.rolled_back = dict(returns), [], []

    def _play(self, algorithm, learned, seed):
        step = self.model.num_timesteps if algorithm is self.model else self.progress.good_step
        self.played.append(step)
        samples = self.returns[step]
        return samples.pop(0) if len(samples) > 1 else samples[0]

    def _roll_back(self, now):
        self.rolled_back.append(now.step)
        super()._roll_back(now)


def around(mean):
    return np.array([mean - 1.0, mean, mean, mean + 1.0])


def test_better_and_equal_policies_become_the_last_good_one_and_the_better_the_best():
    validation = Scripted({0: [around(0)], 200: [around(10)], 400: [around(9.8)], 600: [around(11)]})
    probing().learn(600, validation)
    progress = validation.progress
    assert (progress.good_step, progress.best_step, progress.first.mean()) == (600, 600, 0.0)
    assert validation.played == [0, 200, 400, 600], "most validations are one sample"
    validation = Scripted({0: [around(0)], 200: [around(10)], 400: [around(9.8)]})
    probing().learn(400, validation)
    assert (validation.progress.good_step, validation.progress.best_step) == (400, 200)


def test_there_is_nothing_to_lose_before_something_was_learned():
    """An untrained policy may be hard to beat: one that does not move, where moving costs."""
    returns = {0: [np.zeros(4)], 200: [np.array([-0.1, -0.1, -0.2, -0.1])], 400: [np.full(4, -0.3)]}
    validation = Scripted({**returns, 600: [around(50)], 800: [around(5)]})
    probing().learn(800, validation)
    assert validation.rolled_back == [800]
    assert validation.played == [0, 200, 400, 600, 800, 600, 800]
    trained = probing().learn(200)
    validation = Scripted({0: [np.zeros(4)], 200: [np.full(4, -0.1)]})
    trained.learn(200, validation)
    assert validation.rolled_back == [200], "what was trained before may be lost"


def test_the_radius_does_not_shrink_beyond_its_smallest():
    validation = Scripted({200 * k: [around(k % 2)] for k in range(8)}, shrink=0.1, recovery=1.0, min_factor=0.05)
    validation.returns[200] = [around(20)]
    model = probing().learn(1400, validation)
    assert len(validation.rolled_back) == 6
    assert model.radius_factor == pytest.approx(0.05)


def test_every_validation_has_episodes_of_its_own():
    class Seeds(Scripted):
        def _play(self, algorithm, learned, seed):
            self.seeds.append(int(seed))
            return super()._play(algorithm, learned, seed)

    validation = Seeds({0: [around(0)], 200: [around(10)], 400: [around(5)], 600: [around(5)]})
    validation.seeds = []
    probing().learn(600, validation)
    assert validation.rolled_back == [400, 600]
    first, second, third, good, again, *last = validation.seeds
    assert good == again
    assert len({first, second, third, good, *last}) == 6


def test_a_rollback_drops_rollouts_of_policies_that_are_no_more():
    model = probing(reuse=3)
    sizes = []

    class Sizes(BaseCallback):
        def _on_rollout_start(self):
            sizes.append(len(self.model.past_rollouts))

        def _on_step(self):
            return True

    model.learn(1200, [Scripted({200 * k: [around((0, 1, 9, 8.8, 0, 9, 9)[k])] for k in range(7)}), Sizes()])
    assert sizes == [0, 1, 2, 2, 0, 1]


def test_exploration_goes_on_after_a_rollback():
    """The noise at the last good policy has been; to act by it again would be no exploration."""
    model = TRPO(
        "MlpPolicy", make_vec_env("Pendulum-v1", 2), n_steps=64, batch_size=32, action_noise="colored", seed=0
    ).learn(128)
    good = Learned.of(model)
    model.learn(128, reset_num_timesteps=False)
    process, state = model.noise_process, copy.deepcopy(model.noise_process._generator.bit_generator.state)
    good.put(model)
    assert model.noise_process is process
    assert process._generator.bit_generator.state == state


def test_a_training_without_validation_has_the_whole_radius():
    validation = Scripted({0: [around(0)], 200: [around(10)], 400: [around(5)]})
    model = probing().learn(400, validation)
    assert model.radius_factor == 0.5
    model.learn(200, reset_num_timesteps=False)
    assert model.radius_factor == 1.0


def test_an_average_is_validated_or_there_is_none():
    averaged, validation = AveragedPolicy(), Validation(probe(), eval_freq=200)
    for callbacks in ([averaged, validation], [validation, averaged]):
        with pytest.raises(ValueError, match=r"validate it, by Validation\(env, averaged=...\)"):
            probing().learn(200, callbacks)


class Pictures(gym.Env):
    """Images with the channels last, as `CnnPolicy` gets them transposed."""

    observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), float(action), self.t == 4, False, {}


def test_images_are_transposed_as_for_the_training():
    model = TRPO("CnnPolicy", Pictures(), n_steps=8, batch_size=8)
    for env in (Pictures(), make_vec_env(Pictures, 2)):
        validation = Validation(env, eval_freq=8, n_eval_episodes=2)
        model.learn(8, validation)
        assert validation.progress.validations == 2


def test_a_fall_is_confirmed_on_fresh_episodes():
    validation = Scripted({0: [around(0)], 200: [around(10)], 400: [around(5), around(4)]})
    probing().learn(400, validation)
    assert validation.played == [0, 200, 400, 200, 400]
    assert validation.rolled_back == [400]
    assert validation.progress.good_step == 200


def test_a_fall_that_is_not_confirmed_is_none_and_luck_is_forgotten():
    validation = Scripted({0: [around(0)], 200: [around(10), around(5.5)], 400: [around(5), around(5.6)]})
    probing().learn(400, validation)
    assert validation.rolled_back == []
    progress = validation.progress
    assert progress.best.mean() == progress.good.mean() == 5.6
    assert (progress.best_step, progress.good_step) == (400, 400)


def test_a_slow_decline_does_not_move_the_last_good_policy():
    # each is hardly worse than the one before, and the third clearly worse than the best
    returns = {0: [around(0)], 200: [around(10)], 400: [around(9)], 600: [around(8.3)]}
    validation = Scripted(returns, alpha=0.02, tolerance=0.0)
    probing().learn(600, validation)
    assert validation.rolled_back == []
    assert (validation.progress.best_step, validation.progress.good_step) == (200, 400)


def test_a_slight_fall_is_tolerated_as_a_share_of_the_gain():
    returns = {0: [np.full(4, -1000.0)], 200: [np.full(4, -100.0)], 400: [np.full(4, -140.0)]}
    for tolerance, expected in [(0.05, []), (0.04, [400])]:
        validation = Scripted(copy.deepcopy(returns), tolerance=tolerance)
        probing().learn(400, validation)
        assert validation.rolled_back == expected


def test_what_happened_is_in_the_log_and_on_the_screen(capsys):
    model = probing()
    rows = logged(model)
    model.learn(600, Scripted({0: [around(0)], 200: [around(10)], 400: [around(5)], 600: [around(10)]}, verbose=1))
    validated = [{k: float(v) for k, v in row.items() if k.startswith("validation/")} for row in rows]
    assert [row["validation/mean_reward"] for row in validated[:4]] == [0.0, 10.0, 5.0, 10.0]
    assert [row["validation/last_good"] for row in validated[:4]] == [0.0, 0.0, 10.0, 10.0]
    assert [row["validation/rollbacks"] for row in validated[:4]] == [0, 0, 1, 1]
    assert validated[2]["validation/p_value"] < 0.05
    assert validated[2]["validation/radius_factor"] == 0.5
    out = capsys.readouterr().out
    assert "validation at 400 steps: return 5.0 ± 0.8, last good 10.0 ± 0.8, p = " in out
    assert out.count(": back to that of step 200, radius x 0.5") == 1
    assert out.count("kept") == 3


def test_validation_leaves_the_training_bit_for_bit_as_it_was():
    for kind in ("CartPole", "VecNormalize", "masks and memory"):
        without, validated = new_model(kind).learn(120), new_model(kind)
        for deterministic in (True, False):
            validated = new_model(kind)
            validation = Validation(
                evaluation_env(kind), eval_freq=40, n_eval_episodes=2, alpha=1e-9, deterministic=deterministic
            )
            validated.learn(120, validation)
            assert (validation.progress.validations, validation.progress.rollbacks) == (4, 0)
            assert_same_training(without, validated)
            assert same(without.get_vec_normalize_env() and without.get_vec_normalize_env().obs_rms,
                        validated.get_vec_normalize_env() and validated.get_vec_normalize_env().obs_rms)  # fmt: skip


class EverySecondIsBad(Validation):
    """Finds the present policy disastrous at every second validation, of which the first is one."""

    def __init__(self, kind):
        super().__init__(evaluation_env(kind), eval_freq=ROLLOUT, n_eval_episodes=2)

    def _play(self, algorithm, learned, seed):
        is_bad = algorithm is self.model and self.model.num_timesteps % (2 * ROLLOUT) == 0
        return super()._play(algorithm, learned, seed) - 1e6 * is_bad


class Statistics(EverySecondIsBad):
    """Looks at the statistics of observations by which policies play."""

    def _play(self, algorithm, learned, seed):
        returns = super()._play(algorithm, learned, seed)
        normalizer = unwrap_vec_normalize(self.env)
        expected = self.model.get_vec_normalize_env() if algorithm is self.model else None
        statistics = learned.statistics["obs_rms"] if expected is None else expected.obs_rms
        assert np.array_equal(normalizer.obs_rms.mean, statistics.mean)
        assert normalizer.obs_rms is not statistics
        self.means.append(normalizer.obs_rms.mean.copy())
        return returns


def test_every_policy_plays_by_the_statistics_that_it_had():
    validation = Statistics("VecNormalize")
    validation.means = []
    new_model("VecNormalize").learn(5 * ROLLOUT, validation)
    assert validation.progress.rollbacks > 0
    assert len({mean.tobytes() for mean in validation.means}) > 3


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        *itertools.product(["CartPole", "VecNormalize"], ["before", "after", "during"]),
        *itertools.product(["recurrent", "gSDE", "plain loop", "masks and memory"], ["during"]),
    ],
)
def test_a_training_that_goes_on_is_the_one_that_was_not_interrupted(kind, place):
    n_updates = 4
    model, saving = new_model(kind), SaveAtBoundaries((1, 2, 3), after=7 if place == "during" else 0)
    rows, validation = logged(model), EverySecondIsBad(kind)
    model.learn(n_updates * ROLLOUT, [saving, validation] if place == "before" else [validation, saving])
    assert 2 <= validation.progress.rollbacks < n_updates
    for done, file in saving.files.items():
        file.seek(0)
        other = load(kind, file)
        other_rows = logged(other)
        disturb_generators()
        other.learn(other.timesteps_left, EverySecondIsBad(kind), reset_num_timesteps=False)
        assert_same_training(model, other)
        assert same(everything(model), everything(other))
        assert other_rows == rows[done:]


def test_checkpoints_hold_what_was_learned_last(tmp_path):
    model = new_model("VecNormalize").learn(
        4 * ROLLOUT, [EverySecondIsBad("VecNormalize"), Checkpoints(tmp_path, save_freq=ROLLOUT)]
    )
    other = load("VecNormalize", tmp_path / "rl_model_40_steps.zip")
    other.learn(other.timesteps_left, EverySecondIsBad("VecNormalize"), reset_num_timesteps=False)
    assert same(everything(model), everything(other))


class KeepsBoundaries(BaseCallback):
    def _on_training_start(self):
        self.model.keep_boundaries()

    def _on_step(self):
        return True


def about_to_roll_back(kind):
    """A model after a rollout and an update, its validation, and what is to be remembered after a rollback."""
    model = new_model(kind)
    averaged = AveragedPolicy(0.5)
    validation = Validation(evaluation_env(kind), eval_freq=ROLLOUT, n_eval_episodes=2, averaged=averaged)
    model.learn(ROLLOUT, [averaged, validation])
    model.learn(2 * ROLLOUT, [averaged, KeepsBoundaries()], reset_num_timesteps=False)
    now = validation.progress
    return model, validation, now._replace(rollbacks=now.rollbacks + 1, factor=0.25)


def test_a_rollback_interrupted_at_any_line_is_whole_or_none():
    model, validation, now = about_to_roll_back("VecNormalize")
    states = model.callback_states

    def state():
        noted = model._boundary.environment["wrappers"]
        return copy.deepcopy([*everything(model), noted, dict(validation.averaged.policy.state_dict())])

    old, present = state(), (Learned.of(model), validation.averaged.policy.state_dict())
    present = copy.deepcopy(present)
    observation, boundary = model._last_obs, model._boundary
    counting = AtLine(-1)
    with counting:
        validation._roll_back(now)
    new, outcomes = state(), []
    assert not same(old, new)
    for number in range(1, counting.seen + 1, 97):
        present[0].put(model)
        validation.averaged.policy.load_state_dict(present[1])
        model.callback_states, model._last_obs, model._boundary = states, observation, boundary
        assert same(state(), old)
        with contextlib.suppress(KeyboardInterrupt), AtLine(number):
            validation._roll_back(now)
        outcomes.append("old" if same(state(), old) else "new")
        assert outcomes[-1] == "old" or same(state(), new), f"line {number}: a rollback was made in part"
    assert outcomes.count("old") > 20


def test_the_first_observation_after_a_rollback_is_normalised_as_those_that_follow():
    model, validation, now = about_to_roll_back("VecNormalize")
    before = model._last_obs.copy()
    validation._roll_back(now)
    env = model.get_env()
    assert not np.array_equal(model._last_obs, before)
    assert np.array_equal(model._last_obs, env.normalize_obs(env.get_original_obs()))
    assert same(env.obs_rms, Progress(**model.callback_states["Validation"]).learned["statistics"]["obs_rms"])


def test_what_has_been_exchanged_since_stays():
    """As by ``load(path, radius="fixed")``."""
    model, validation, now = about_to_roll_back("VecNormalize")
    model.radius_controller = FixedRadius()
    validation._roll_back(now)
    assert model.radius_controller == FixedRadius()
    assert same(dict(model.policy.state_dict()), now.learned["weights"])


def test_exploration_is_drawn_anew_for_the_policy_that_was_put_back():
    model, validation, now = about_to_roll_back("gSDE")
    with th.no_grad():
        model.policy.log_std.add_(10.0)
    model.policy.reset_noise(2)
    assert model.policy.action_dist.exploration_matrices.abs().max() > 100.0
    validation._roll_back(now)
    assert model.policy.action_dist.exploration_matrices.abs().max() < 100.0


def test_an_interrupted_evaluation_has_not_been():
    class Interrupted(Validation):
        def _play(self, algorithm, learned, seed):
            super()._play(algorithm, learned, seed)
            raise KeyboardInterrupt

    model = new_model("CartPole").learn(ROLLOUT)
    before, generator = everything(model), th.get_rng_state()
    validation = Interrupted(evaluation_env("CartPole"), eval_freq=ROLLOUT)
    with pytest.raises(KeyboardInterrupt):
        model.learn(ROLLOUT, validation, reset_num_timesteps=False)
    assert same(everything(model), before)
    assert th.equal(th.get_rng_state(), generator)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_best_model_is_on_disk_with_its_statistics(normalize, tmp_path):
    model = probing(normalize=normalize)
    validation = Validation(probe(normalize), eval_freq=1000, save_path=tmp_path / "new")
    looks = Looks()
    model.learn(4000, [Sabotage(4000), validation, looks])
    found = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert found == ["best_model.zip", *(["best_vecnormalize.pkl"] if normalize else [])]
    best, progress = TRPO.load(tmp_path / "new" / "best_model"), validation.progress
    assert best.num_timesteps == progress.best_step
    assert same(dict(best.policy.state_dict()), looks.seen[progress.best_step]["weights"])
    if normalize:
        loaded = load_normalizer(tmp_path / "new" / "best_vecnormalize.pkl", make_vec_env(Probe))
        assert same(loaded.obs_rms, looks.seen[progress.best_step]["statistics"]["obs_rms"])


def test_a_new_training_begins_with_nothing_remembered():
    model, validation = probing(), Validation(probe(), eval_freq=1000)
    model.learn(3000, [Sabotage(2000), validation])
    model.radius_factor = 0.3
    model.learn(200, validation)
    assert validation.progress.validations == 2
    assert validation.progress.rollbacks == 0
    assert model.radius_factor == 1.0


def test_models_without_validation_are_saved_as_they_were():
    file = io.BytesIO()
    model = new_model("CartPole").learn(ROLLOUT)
    model.save(file)
    file.seek(0)
    loaded = TRPO.load(file)
    assert loaded.callback_states == {}
    assert loaded.radius_factor == model.radius_factor == 1.0


def test_what_cannot_be_used_is_refused():
    for name, value in {
        "eval_freq": 0, "n_eval_episodes": 1, "alpha": 0.5, "tolerance": 1.0, "shrink": 0.0, "recovery": 0.9,
        "min_factor": 2.0, "seed": -1,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}={value}"):
            Validation(probe(), **{name: value})
    with pytest.raises(TypeError, match="Validation is for algorithms of sb3_trpo, and this is PPO"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).learn(8, Validation(evaluation_env("CartPole")))
    model = probing()
    with pytest.raises(ValueError, match="env is the one that is trained in"):
        model.learn(200, Validation(model.get_env()))
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.learn(200, Validation(evaluation_env("CartPole")))
    for env in (probe(), VecNormalize(probe()), VecNormalize(probe(), training=False)):
        with pytest.raises(ValueError, match="must be wrapped in VecNormalize"):
            probing(normalize=True).learn(200, Validation(env))
    with pytest.raises(ValueError, match="must be wrapped in VecNormalize"):
        model.learn(200, Validation(probe(normalize=True)))
    with pytest.raises(ValueError, match=r"averaged=0\.95 must be an AveragedPolicy"):
        Validation(probe(), averaged=0.95)
    with pytest.raises(ValueError, match=r"env='Pendulum-v1' must be an environment"):
        Validation("Pendulum-v1")
    with pytest.raises(RuntimeError, match="list AveragedPolicy before what uses it"):
        model.learn(200, Validation(probe(), averaged=AveragedPolicy()))


def test_masks_are_needed_where_the_algorithm_acts_by_them():
    spaces_ = spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,), np.float32)
    model = MaskableTRPO("MlpPolicy", Masked(Walk(*spaces_), [3]), n_steps=32, batch_size=32)
    with pytest.raises(ValueError, match="MaskableTRPO needs an environment with a method action_masks"):
        model.learn(32, Validation(Walk(*spaces_)))
    validation = Validation(Masked(Walk(*spaces_), [3]), eval_freq=32)
    model.learn(64, validation)
    assert validation.progress.validations == 3


def test_returns_that_are_no_numbers_are_refused():
    class Broken(Probe):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, float("nan"), *rest

    with pytest.raises(ValueError, match=r"returns of the validation must be finite, and are \[nan"):
        probing().learn(200, Validation(Broken(2)))
