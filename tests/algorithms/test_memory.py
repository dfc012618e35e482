"""What a recurrent policy remembers: in training, across interruptions, and when it is asked for actions."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.maskable import evaluation as maskable_evaluation
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo import RecurrentTRPO
from sb3_trpo.algorithms.actor import Actor
from sb3_trpo.algorithms.policies import MaskableMlpLstmPolicy, MlpLstmPolicy
from sb3_trpo.algorithms.recurrent import OWN_METHODS
from sb3_trpo.callbacks.episodes import predictor
from sb3_trpo.core.parameters import flatten
from tests.algorithms.capture import captured_steps
from tests.algorithms.kinds import (
    BOX,
    KINDS,
    LSTM,
    SHARED,
    WITH_MEMORY,
    algorithm_of,
    as_masked,
    collect,
    make_model,
    play_back,
)
from tests.envs import Walk


@pytest.mark.parametrize("kind", ["lstm", "lstm_box", "lstm_two_layers", "lstm_shared", "lstm_without_critic"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_predictions_and_memories_are_those_of_recurrent_ppo(kind, deterministic):
    ours = make_model(kind).learn(128)
    theirs = RecurrentPPO("MlpLstmPolicy", ours.env, policy_kwargs=ours.policy_kwargs, device="cpu")
    theirs.policy.load_state_dict(ours.policy.state_dict())
    played = []
    for model in (ours, theirs):
        th.manual_seed(1)
        generator = np.random.default_rng(0)
        state, start, answers = None, np.ones(2, bool), []
        for _ in range(12):
            obs = generator.uniform(-1, 1, (2, 3)).astype(np.float32)
            actions, state = model.predict(obs, state, start, deterministic)
            answers += [actions, *state]
            start = generator.random(2) < 0.3
        played.append(answers)
    for a, b in zip(*played, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(state[0]).max() > 0


def test_an_episode_start_makes_a_policy_forget():
    model = make_model("lstm")
    obs = np.random.default_rng(0).uniform(-1, 1, (2, 3)).astype(np.float32)
    _, fresh = model.predict(obs)
    _, state = model.predict(obs, fresh)
    _, again = model.predict(obs, state, np.array([True, False]))
    np.testing.assert_allclose(again[0][:, 0], fresh[0][:, 0], atol=1e-6)
    assert np.abs(again[0][:, 1] - fresh[0][:, 1]).max() > 1e-4


class Stop(BaseCallback):
    """Ends training at the n-th call."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def _on_step(self):
        return self.n_calls < self.at


@th.no_grad()
def remembered(model, n_steps):
    """What sb3-contrib's policy remembers after the first steps in the model's buffer, asked step by step."""
    buffer = model.rollout_buffer
    memory = RNNStates(
        *(
            tuple(th.as_tensor(getattr(buffer, f"{part}_states_{of}")[0]) for part in ("hidden", "cell"))
            for of in ("pi", "vf")
        )
    )
    for t in range(n_steps):
        observations = buffer.observations
        is_dict = isinstance(observations, dict)
        obs = {k: th.as_tensor(v[t]) for k, v in observations.items()} if is_dict else th.as_tensor(observations[t])
        memory = model.policy(obs, memory, th.as_tensor(buffer.episode_starts[t]))[-1]
    return memory


def assert_same_memory(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        th.testing.assert_close(tuple(a), tuple(b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("kind", "at"), [("lstm", 1), ("lstm", 33), *((kind, 32 + 5) for kind in sorted(WITH_MEMORY - {"lstm_image"}))]
)
def test_a_stop_in_the_middle_of_a_rollout_leaves_the_memory_of_the_steps_before(kind, at, fast):
    """And training goes on with it."""
    model = make_model(kind, fast_rollout=fast).learn(1000, callback=Stop(at))
    assert model.num_timesteps == 2 * at
    assert model.rollout_buffer.pos == (at - 1) % 32
    interrupted = copy.deepcopy(model._last_lstm_states)
    assert any(part.abs().max() > 0 for part in interrupted.pi) == (at > 1)
    if model.rollout_buffer.pos:
        assert_same_memory(interrupted, remembered(model, model.rollout_buffer.pos))
    collect(model)
    buffer = model.rollout_buffer
    kept = [
        tuple(th.as_tensor(getattr(buffer, f"{part}_states_{of}")[0]) for part in ("hidden", "cell"))
        for of in ("pi", "vf")
    ]
    assert_same_memory(kept, interrupted)
    with th.no_grad():
        for t, (distribution, taken, *_) in enumerate(play_back(model.policy, buffer)):
            if kind != "lstm_gsde":  # its noise is drawn anew every few steps
                th.testing.assert_close(
                    distribution.log_prob(taken), th.as_tensor(buffer.log_probs[t]), rtol=1e-3, atol=1e-4
                )
    assert_same_memory(model._last_lstm_states, remembered(model, 32))
    model.train()
    assert model.logger.name_to_value["train/kl_divergence_loss"] <= 0.01 * (1 + 1e-4)


@pytest.mark.parametrize("kind", ["lstm", "lstm_shared", "masked_lstm"])
def test_a_second_learn_goes_on_where_the_first_ended_or_starts_anew(kind):
    model = make_model(kind)
    _, callback = model._setup_learn(10**6)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    ends = ~model._last_episode_starts
    kept = model._last_lstm_states.pi[0][:, ends].numpy()
    assert ends.any()
    assert np.abs(kept).max() > 0
    collect(model)  # as after learn(reset_num_timesteps=False)
    np.testing.assert_allclose(model.rollout_buffer.hidden_states_pi[0][:, ends], kept, rtol=1e-6)
    steps = model._experience().steps
    assert (steps.actor_memory[0].abs().amax((0, 2)) > 0).sum() == ends.sum()
    _, callback = model._setup_learn(10**6)  # as by learn(), which resets the environments
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    assert not any(part.any() for memory in (steps_memories(model)) for part in memory)


def steps_memories(model):
    steps = model._experience().steps
    return steps.actor_memory, steps.critic_memory


def test_evaluations_pass_the_memory_on():
    """sb3's `evaluate_policy` and a loop by hand see the same rewards."""

    class Recall(Walk):
        """The reward is the action itself."""

        def step(self, action):
            obs, _, _, truncated, info = super().step(action)
            return obs, float(action), False, truncated, info

    def env():
        made = DummyVecEnv([lambda: Monitor(Recall(spaces.Discrete(4), BOX, length=9))])
        made.seed(5)
        return made

    model = make_model("lstm")
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(3 * th.randn_like(parameter))
    returns, _ = evaluate_policy(model, env(), n_eval_episodes=4, return_episode_rewards=True)
    by_hand, forgetful = [], []
    for rewards, remembers in ((by_hand, True), (forgetful, False)):
        judge = env()
        obs, state, start, total = judge.reset(), None, np.ones(1, bool), 0.0
        while len(rewards) < 4:
            action, state = model.predict(obs, state if remembers else None, start, deterministic=True)
            obs, reward, start, _ = judge.step(action)
            total += float(reward[0])
            if start[0]:
                rewards.append(total)
                total = 0.0
    assert returns == by_hand
    assert returns != forgetful


@pytest.mark.parametrize("kind", ["lstm", "lstm_dict"])
def test_an_evaluation_in_between_does_not_touch_the_memory_of_training(kind, tmp_path):
    action_space, observation_space, *_ = KINDS[kind]
    judge = DummyVecEnv([lambda: Monitor(Walk(action_space, observation_space, 5))])
    plain, evaluated = make_model(kind), make_model(kind)
    plain.env.seed(2)
    plain.learn(128)
    evaluated = make_model(kind)  # seeds all generators anew
    evaluated.env.seed(2)
    callback = EvalCallback(judge, eval_freq=10, n_eval_episodes=2, best_model_save_path=tmp_path, verbose=0)
    evaluated.learn(128, callback=callback)
    for ours, theirs in zip(plain._last_lstm_states, evaluated._last_lstm_states, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert RecurrentTRPO.load(tmp_path / "best_model").predict(judge.reset())[1] is not None


@pytest.mark.parametrize("base", [MlpLstmPolicy, MaskableMlpLstmPolicy])
@pytest.mark.parametrize("name", OWN_METHODS)
def test_a_policy_whose_method_would_not_be_called_is_refused(base, name):
    inherited = vars(next(cls for cls in base.__mro__ if name in vars(cls)))[name]
    policy = type("Special", (base,), {name: inherited, "__module__": __name__})
    kind = "masked_lstm" if base is MaskableMlpLstmPolicy else "lstm"
    action_space, observation_space, _, kwargs = KINDS[kind]
    env = DummyVecEnv([lambda: as_masked(kind, Walk(action_space, observation_space))])
    with pytest.raises(ValueError, match=rf"policy=Special has a {name} of its own, which \w+TRPO would not call"):
        algorithm_of(kind)(policy, env, n_steps=8, **kwargs)


def test_a_policy_with_something_special_in_the_right_place_is_trained():
    class Special(MlpLstmPolicy):
        def _get_action_dist_from_latent(self, latent_pi):
            return self.action_dist.proba_distribution(self.action_net(latent_pi) / 0.01)

    env = DummyVecEnv([lambda: Walk(spaces.Discrete(3), BOX)])
    model = RecurrentTRPO(Special, env, n_steps=32, batch_size=32, seed=0, policy_kwargs=LSTM, device="cpu").learn(64)
    assert model.logger.name_to_value["train/is_line_search_success"] == 1.0
    collect(model)
    steps, actions, old_log_prob, *_ = model._experience()
    log_prob = Actor(model.policy, steps).distribution(steps).log_prob(actions.flatten())
    th.testing.assert_close(log_prob, old_log_prob, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["batch_first", "bidirectional", "proj_size"])
def test_forms_of_lstm_that_sb3_contribs_policies_cannot_run_are_refused(name):
    with pytest.raises(ValueError, match=rf"lstm_kwargs=.* cannot be used with {name}"):
        make_model("lstm", policy_kwargs={**LSTM, "lstm_kwargs": {name: 1 if name == "proj_size" else True}})


@pytest.mark.parametrize("lstm_kwargs", [{"bias": False}, {"dropout": 0.5}])
def test_other_forms_of_lstm_train_within_the_bound(lstm_kwargs):
    model = make_model("lstm", policy_kwargs={**LSTM, "n_lstm_layers": 2, "lstm_kwargs": lstm_kwargs}).learn(128)
    assert model.logger.name_to_value["train/is_line_search_success"] == 1.0
    assert model.logger.name_to_value["train/kl_divergence_loss"] <= 0.01 * (1 + 1e-4)


INTEGERS = {
    "MlpLstmPolicy": spaces.MultiDiscrete([3, 4]),
    "MultiInputLstmPolicy": spaces.Dict({"choices": spaces.MultiDiscrete([3, 4]), "vector": BOX}),
}


@pytest.mark.parametrize("policy", list(INTEGERS))
@pytest.mark.parametrize("policy_kwargs", [LSTM, SHARED, {**LSTM, "enable_critic_lstm": False}])
def test_observations_of_choices_can_be_remembered(policy, policy_kwargs):
    env = DummyVecEnv([lambda: Walk(spaces.Discrete(3), INTEGERS[policy], length=6)])
    model = RecurrentTRPO(policy, env, n_steps=32, batch_size=32, policy_kwargs=policy_kwargs, device="cpu").learn(64)
    assert model._n_updates == 2
    assert type(model.policy.lstm_actor.input_size) is int


@pytest.mark.parametrize("kind", sorted(WITH_MEMORY))
@pytest.mark.parametrize(("n_steps", "fast"), [(1, True), (9, True), (1, False)])
def test_one_environment_and_short_rollouts(kind, n_steps, fast):
    action_space, observation_space, policy, kwargs = KINDS[kind]
    env = DummyVecEnv([lambda: as_masked(kind, Walk(action_space, observation_space, length=4))])
    settings = {**kwargs, "n_steps": n_steps, "batch_size": 4, "normalize_advantage": n_steps > 1, "fast_rollout": fast}
    settings["sub_sampling_factor"] = 1
    model = algorithm_of(kind)(policy, env, seed=0, device="cpu", **settings).learn(3 * n_steps)
    assert model._n_updates == 3
    assert all(th.isfinite(p).all() for p in model.policy.parameters())
    assert all(th.isfinite(part).all() for memory in model._last_lstm_states for part in memory)


@pytest.mark.parametrize("kind", ["lstm", "lstm_two_layers", "lstm_shared", "lstm_without_critic", "lstm_dict"])
@pytest.mark.parametrize("critic", ["minibatch", "gauss_newton"])
def test_every_fit_of_the_critic_lowers_its_error_and_leaves_the_actor_alone(kind, critic):
    model = collect(make_model(kind, critic=critic, critic_kwargs={"holdout": 0.0}, learning_rate=3e-3))
    model.rollout_buffer.returns[:] = np.sign(model.rollout_buffer.episode_starts - 0.5)
    losses = []
    for _ in range(2):
        with captured_steps() as steps:
            model.train()
        assert th.equal(steps[0].after, flatten(steps[0].problem.parameters))
        losses.append(model.logger.name_to_value["train/value_loss"])
    assert losses[1] < losses[0]


def test_masks_and_memory_are_evaluated_together_by_the_predictor():
    """sb3-contrib's own evaluation of masks forgets: if this ever fails, the docstring of the class is out of date."""
    model, had_memory = make_model("masked_lstm"), []
    original = model.predict
    model.predict = lambda obs, state=None, *args, **kwargs: (
        had_memory.append(state is not None) or original(obs, state, *args, **kwargs)
    )
    env = DummyVecEnv([lambda: Monitor(as_masked("masked_lstm", Walk(spaces.Discrete(4), BOX, 5)))])
    evaluate_policy(predictor(model, env), env, n_eval_episodes=2)
    assert had_memory[1:]
    assert all(had_memory[1:])
    had_memory.clear()
    maskable_evaluation.evaluate_policy(model, env, n_eval_episodes=2)
    assert not any(had_memory)


def test_after_an_error_in_the_environment_memory_and_observation_belong_together():
    """The next rollout begins with what was remembered before the observation that is still to be acted on."""

    class Fragile(Walk):
        fails_at = 13

        def step(self, action):
            if self.total_steps == self.fails_at:
                raise RuntimeError("the simulator has crashed")
            return super().step(action)

    env = DummyVecEnv([lambda: Fragile(spaces.Discrete(3), BOX, length=100)])
    model = RecurrentTRPO("MlpLstmPolicy", env, n_steps=32, batch_size=32, seed=0, policy_kwargs=LSTM, device="cpu")
    with pytest.raises(RuntimeError, match="crashed"):
        model.learn(32)
    buffer = model.rollout_buffer
    assert buffer.pos == 13
    memory = tuple(th.zeros(1, 1, 8) for _ in range(2))
    for t in range(13):
        starts = th.as_tensor(buffer.episode_starts[t])
        with th.no_grad():
            _, memory = model.policy.get_distribution(th.as_tensor(buffer.observations[t]), memory, starts)
    th.testing.assert_close(model._last_lstm_states.pi, memory, rtol=1e-5, atol=1e-6)
    assert memory[0].abs().max() > 0


def test_squashed_actions_are_not_left_to_a_loop_that_only_clips_them():
    kwargs = {**LSTM, "squash_output": True}
    env = DummyVecEnv([lambda: Walk(spaces.Box(-2.0, 2.0, (1,), np.float32), BOX)])
    settings = {"n_steps": 8, "batch_size": 8, "use_sde": True, "policy_kwargs": kwargs, "device": "cpu"}
    RecurrentTRPO("MlpLstmPolicy", env, **settings).learn(8)
    with pytest.raises(ValueError, match="squash_output=True needs the fast rollout"):
        RecurrentTRPO("MlpLstmPolicy", env, fast_rollout=False, **settings).learn(8)


def test_a_hook_on_the_policy_is_called_in_the_plain_loop():
    model = make_model("lstm")
    seen = []
    model.policy.register_forward_hook(lambda *_: seen.append(1))
    model.learn(64)
    assert len(seen) == model.n_steps
