"""The fast rollout and Stable-Baselines3's own are twins: the same actions leave the same buffer."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo import TRPO
from sb3_trpo.algorithms import acting, rollout
from tests.algorithms.kinds import BOX, CLOSED_MEMORY, KINDS, algorithm_of, as_masked, make_model
from tests.envs import Walk

IN_NUMPY = {
    "box",
    "box64",
    "box_matrix",
    "discrete",
    "multi_discrete",
    "multi_binary",
    "relu",
    "linear",
    "masked_discrete",
    "masked_multi_discrete",
    "masked_multi_binary",
    *CLOSED_MEMORY,
}
PLAIN = {"custom_layer"}
ARRAYS = (
    "observations",
    "actions",
    "rewards",
    "episode_starts",
    "values",
    "log_probs",
    "advantages",
    "returns",
)


class Recorder(BaseCallback):
    """Keeps what a callback sees on each step."""

    def __init__(self):
        super().__init__()
        self.seen, self.events = [], []

    def _on_rollout_start(self):
        self.events.append("start")

    def _on_step(self):
        names = ("new_obs", "rewards", "dones", "actions", "clipped_actions")
        seen = {"clipped_actions": self.locals["actions"], **self.locals}  # MaskablePPO has no clipped actions
        self.seen.append({name: copy.deepcopy(seen[name]) for name in names})
        assert self.locals["self"] is self.model
        assert len(self.locals["infos"]) == self.training_env.num_envs
        assert self.locals["env"] is self.training_env
        self.seen[-1]["n_steps"] = self.locals["n_steps"]
        self.seen[-1]["pos"] = self.locals["rollout_buffer"].pos
        if self.model.fast_rollout:
            assert self.locals["values"] is self.locals["log_probs"] is None
        return True

    def _on_rollout_end(self):
        self.events.append("end")
        if not self.model.fast_rollout and type(self.model) is not TRPO:
            return  # sb3-contrib's loops do not tell their callbacks how they ended
        assert self.locals["n_steps"] == self.model.n_steps
        assert self.locals["values"].shape == (self.training_env.num_envs, 1)
        np.testing.assert_allclose(self.locals["log_probs"], self.model.rollout_buffer.log_probs[-1], rtol=1e-5)


def make(kind, fast, normalize=False):
    """A model on environments whose episodes end both ways at different times."""
    action_space, observation_space, policy, kwargs = KINDS[kind]
    lengths = (5, 8, 11)
    env = DummyVecEnv([lambda n=n: as_masked(kind, Walk(action_space, observation_space, n)) for n in lengths])
    env.seed(7)
    env = VecNormalize(env) if normalize else env
    settings = {"n_steps": 40, "batch_size": 40, "seed": 7, "device": "cpu", "fast_rollout": fast, **kwargs}
    return algorithm_of(kind)(policy, env, **settings)


def collect(model, n_rollouts=2):
    recorder = Recorder()
    _, callback = model._setup_learn(10**6, recorder)
    for _ in range(n_rollouts):
        assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return recorder


@pytest.mark.parametrize("kind", sorted(IN_NUMPY))
@pytest.mark.parametrize("normalize", [False, True])
def test_the_buffer_is_the_one_that_stable_baselines3_would_have_filled(kind, normalize, monkeypatch):
    fast, plain = make(kind, True, normalize), make(kind, False, normalize)
    plain.policy.load_state_dict(fast.policy.state_dict())
    seen_fast = collect(fast)

    replay = iter([step["actions"] for step in seen_fast.seen])
    original = plain.policy._get_action_dist_from_latent

    def with_the_same_actions(latent):
        """Stable-Baselines3's own loop, with the actions that the fast rollout took."""
        distribution = original(latent)
        distribution.get_actions = lambda deterministic=False: flat(next(replay))
        return distribution

    def flat(actions):
        shape = (-1,) if isinstance(plain.action_space, spaces.Discrete) else (len(actions), -1)
        return th.as_tensor(actions).reshape(shape)

    monkeypatch.setattr(plain.policy, "_get_action_dist_from_latent", with_the_same_actions)
    seen_plain = collect(plain)

    check_twins(fast, plain, seen_fast, seen_plain)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in IN_NUMPY | PLAIN])
def test_policies_that_act_by_themselves_visit_the_states_that_stable_baselines3_would_visit(kind):
    """With the same random numbers, bit for bit; time limits included."""
    fast, seen_fast = make(kind, True), None
    seen_fast = collect(fast)
    plain = make(kind, False)  # seeds all generators anew
    seen_plain = collect(plain)
    check_twins(fast, plain, seen_fast, seen_plain)


def check_twins(fast, plain, seen_fast, seen_plain):
    """The same buffer, the same locals, the same state of the algorithm."""
    for name in ARRAYS:
        ours, theirs = getattr(fast.rollout_buffer, name), getattr(plain.rollout_buffer, name)
        pairs = [(ours[k], theirs[k]) for k in theirs] if isinstance(theirs, dict) else [(ours, theirs)]
        exact = name in ("observations", "actions", "episode_starts")
        for a, b in pairs:
            assert a.dtype == b.dtype, name
            assert a.shape == b.shape, name
            np.testing.assert_allclose(a, b, rtol=0 if exact else 1e-5, atol=0 if exact else 3e-6, err_msg=name)
    assert fast.rollout_buffer.rewards.std() > 0
    for ours, theirs in zip(seen_fast.seen, seen_plain.seen, strict=True):
        for name, value in ours.items():
            np.testing.assert_equal(value, theirs[name], err_msg=name)
            assert type(value) is type(theirs[name])
            assert getattr(value, "dtype", None) == getattr(theirs[name], "dtype", None), name
    assert seen_fast.events == seen_plain.events == ["start", "end"] * 2
    assert fast.num_timesteps == plain.num_timesteps == 240
    np.testing.assert_equal(fast._last_obs, plain._last_obs)
    np.testing.assert_array_equal(fast._last_episode_starts, plain._last_episode_starts)
    if hasattr(fast, "_last_lstm_states"):
        for ours, theirs in zip(fast._last_lstm_states, plain._last_lstm_states, strict=True):
            th.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    if hasattr(plain.rollout_buffer, "action_masks"):
        np.testing.assert_array_equal(fast.rollout_buffer.action_masks, plain.rollout_buffer.action_masks)
    assert (fast.rollout_buffer.pos, fast.rollout_buffer.full) == (plain.rollout_buffer.pos, plain.rollout_buffer.full)


def test_time_limits_were_among_what_was_compared():
    Walk.endings.clear()
    model = make("box", True)
    seen = collect(model, 1)
    kinds = {(bool(info["TimeLimit.truncated"])) for info in Walk.endings}
    assert sum(step["dones"].sum() for step in seen.seen) > 5
    assert kinds == {True, False}


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_fast_rollout_is_used_where_it_applies_and_nowhere_else(kind):
    model = make_model(kind)
    model._setup_learn(1)
    assert rollout.applies(model, model.env, model.rollout_buffer, model.n_steps) == (kind not in PLAIN)
    if kind not in PLAIN:
        assert model._acting(model.rollout_buffer, 8).is_in_numpy == (kind in IN_NUMPY)


def break_hook(model):
    model.policy.register_forward_hook(lambda module, inputs, output: output)


def break_extractor_hook(model):
    model.policy.mlp_extractor.register_forward_hook(lambda module, inputs, output: output)


def break_forward(model):
    original = model.policy.forward
    model.policy.forward = lambda obs: original(obs)


@pytest.mark.parametrize("breakage", [break_hook, break_extractor_hook, break_forward])
def test_a_policy_that_does_more_than_a_perceptron_takes_the_plain_loop(breakage):
    model = make_model("box")
    model._setup_learn(1)
    assert rollout.applies(model, model.env, model.rollout_buffer, model.n_steps)
    breakage(model)
    assert not rollout.applies(model, model.env, model.rollout_buffer, model.n_steps)
    model.learn(64)
    assert model._n_updates == 1


@pytest.mark.parametrize("kind", ["box", "gsde", "dict"])
def test_chunks_of_the_evaluation_change_nothing(kind, monkeypatch):
    whole = make(kind, True)
    collect(whole)
    monkeypatch.setattr(acting, "CHUNK_BYTES", 7 * sum(a.nbytes for a in arrays(whole)) // 120)
    cut = make(kind, True)  # seeds all generators anew
    collect(cut)
    assert len(acting.chunks(acting.as_rows(cut.rollout_buffer.observations))) == 18
    for name in ARRAYS[1:]:
        np.testing.assert_allclose(getattr(whole.rollout_buffer, name), getattr(cut.rollout_buffer, name), atol=2e-6)


def arrays(model):
    observations = model.rollout_buffer.observations
    return observations.values() if isinstance(observations, dict) else [observations]


def test_a_callback_may_change_the_policy_before_a_rollout_and_not_during_it():
    class Anneal(BaseCallback):
        def __init__(self, at):
            super().__init__()
            self.at = at

        def _change(self):
            with th.no_grad():
                self.model.policy.log_std.fill_(-3.0)

        def _on_rollout_start(self):
            if self.at == "start":
                self._change()

        def _on_step(self):
            if self.at == "step":
                self._change()
            return True

    model = make("box", True).learn(120, callback=Anneal("start"))
    buffer = model.rollout_buffer
    assert buffer.actions.std() < 0.1
    assert buffer.log_probs.mean() == pytest.approx(3 * (3.0 - 0.5 - 0.5 * np.log(2 * np.pi)), abs=0.3)
    with pytest.raises(ValueError, match="changed the policy's weights during the rollout"):
        make("box", True).learn(120, callback=Anneal("step"))
    assert make("box", False).learn(120, callback=Anneal("step")).num_timesteps == 120


@pytest.mark.parametrize("kind", ["box", "gsde"])
def test_weights_that_were_lent_and_brought_back_are_no_change_and_hidden_writes_are_one(kind):
    class Lend(BaseCallback):
        def __init__(self, brings_back):
            super().__init__()
            self.brings_back = brings_back

        def _on_step(self):
            for parameter in self.model.policy.parameters():
                before = parameter.data.clone()
                parameter.data.mul_(0.99)
                if self.brings_back:
                    parameter.data.copy_(before)
            return True

    assert make(kind, True).learn(120, callback=Lend(True)).num_timesteps == 120
    with pytest.raises(ValueError, match="changed the policy's weights during the rollout"):
        make(kind, True).learn(120, callback=Lend(False))


def test_a_callback_can_look_ahead_in_a_copy_of_the_environment():
    class LookAhead(BaseCallback):
        def _on_step(self):
            copied = copy.deepcopy(self.training_env)
            before = self.training_env.envs[0].total_steps
            copied.step(np.ones((3, 3), np.float32))
            assert self.training_env.envs[0].total_steps == before
            assert copied.envs[0].total_steps == before + 1
            return True

    assert make("box", True).learn(120, callback=LookAhead()).num_timesteps == 120


def test_observations_that_the_buffer_cannot_keep_are_left_to_the_plain_loop():
    space = spaces.Box(-100, 100, (3,), np.int32)
    env = VecNormalize(DummyVecEnv([lambda: Walk(KINDS["discrete"][0], space)]))
    model = TRPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu").learn(32)
    assert model._last_obs.dtype == np.float32
    assert not rollout.applies(model, model.env, model.rollout_buffer, 16)


def test_a_rollout_of_another_length_than_the_buffer_is_left_to_the_plain_loop():
    model = make("box", True)
    model.n_steps = 20
    with pytest.raises(AssertionError):  # Stable-Baselines3's own complaint: the buffer is not full
        model.learn(60)


def test_logits_that_mask_an_action_for_good_are_no_failure():
    model = make("discrete", True)
    with th.no_grad():
        model.policy.action_net.bias[2] = -np.inf
    assert len(collect(model, 1).seen) == 40
    assert not (model.rollout_buffer.actions == 2).any()
    with th.no_grad():
        model.policy.action_net.bias[:] = 3e38  # the sum overflows, the logits do not
    assert collect(model, 1).seen


def test_the_switch_the_buffer_class_and_an_overridden_forward_turn_it_off(monkeypatch):
    used = []
    original = rollout.collect
    monkeypatch.setattr(rollout, "collect", lambda *args: used.append(1) or original(*args))
    make("box", True).learn(120)
    assert used == [1]

    class MyBuffer(RolloutBuffer):
        pass

    make("box", False).learn(120)
    make_model("box", rollout_buffer_class=MyBuffer).learn(64)
    model = make("box", True)
    monkeypatch.setattr(type(model.policy), "forward", lambda self, obs: super(type(self), self).forward(obs))
    model.learn(120)
    assert used == [1]


@pytest.mark.parametrize("kind", ["box", "multi_discrete"])
def test_a_callback_can_stop_it(kind):
    class Stop(BaseCallback):
        def _on_step(self):
            return self.n_calls < 10

    model = make(kind, True)
    before = th.nn.utils.parameters_to_vector(model.policy.parameters())
    model.learn(1000, callback=Stop())
    assert model.num_timesteps == 30
    assert model._n_updates == 0
    assert th.equal(before, th.nn.utils.parameters_to_vector(model.policy.parameters()))
    assert model.learn(120).num_timesteps == 120


def test_a_callback_can_train_a_network_of_its_own():
    class Train(BaseCallback):
        def _on_step(self):
            weight = th.ones(1, requires_grad=True)
            (weight * float(self.locals["rewards"][0])).sum().backward()
            return weight.grad is not None

    assert make("box", True).learn(120, callback=Train()).num_timesteps == 120


def test_actions_follow_the_policy():
    """Frequencies of the actions taken in one state against the policy's own probabilities."""
    env = DummyVecEnv([lambda: Walk(KINDS["discrete"][0], BOX, length=10**6, still=True)])
    model = TRPO("MlpPolicy", env, n_steps=4096, seed=0, device="cpu")
    with th.no_grad():
        model.policy.action_net.bias.copy_(th.tensor([0.0, 1.0, -1.0, 0.5]))
    collect(model, 1)
    buffer = model.rollout_buffer
    frequencies = np.bincount(buffer.actions[:, 0, 0].astype(int), minlength=4) / 4096
    with th.no_grad():
        probabilities = (
            model.policy.get_distribution(th.as_tensor(buffer.observations[0])).distribution.probs[0].numpy()
        )
    error = np.sqrt(probabilities * (1 - probabilities) / 4096)
    assert (np.abs(frequencies - probabilities) < 4.5 * error).all()
