"""Packed sequences: every step once, nothing across an episode's start, the policy's own answers."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common import policies
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.testing import assert_close

from sb3_trpo import RecurrentTRPO
from sb3_trpo.algorithms.experience import sequential_experience, sequential_steps
from sb3_trpo.algorithms.sequences import layout
from sb3_trpo.algorithms.steps import graph_bytes_per_row
from tests.algorithms.kinds import KINDS, LSTM, SHARED, WITH_MEMORY, algorithm_of, as_masked, collect
from tests.envs import Walk

CRITICS = {
    "own": LSTM,
    "own, two layers": {**LSTM, "n_lstm_layers": 2},
    "shared": SHARED,
    "shared, two layers": {**SHARED, "n_lstm_layers": 2},
    "none": {**LSTM, "enable_critic_lstm": False},
}


@st.composite
def boundaries(draw, most_steps=12, most_envs=3):
    """Episode starts (T, E) of a rollout; that its first step is one is not certain."""
    n_steps, n_envs = draw(st.integers(1, most_steps)), draw(st.integers(1, most_envs))
    bits = draw(st.lists(st.sampled_from([0, 0, 0, 1]), min_size=n_steps * n_envs, max_size=n_steps * n_envs))
    return np.array(bits, np.float32).reshape(n_steps, n_envs)


def episodes(starts):
    """By walking through the rollout: the steps (t, e) of each sequence."""
    found = []
    for e in range(starts.shape[1]):
        for t in range(starts.shape[0]):
            if t == 0 or starts[t, e]:
                found.append([])
            found[-1].append((t, e))
    return found


def tiny_policy(policy_kwargs):
    """An LSTM policy with weights large enough that its memory matters."""
    env = DummyVecEnv([lambda: Walk(spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,), np.float32))])
    kwargs = {**policy_kwargs, "lstm_hidden_size": 3, "net_arch": [2]}
    policy = RecurrentTRPO("MlpLstmPolicy", env, n_steps=4, policy_kwargs=kwargs, seed=0, device="cpu").policy
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(th.randn_like(parameter))
    return policy.double()


POLICIES = {name: tiny_policy(kwargs) for name, kwargs in CRITICS.items()}


class Buffer:
    """What `sequential_steps` reads of a recurrent buffer, with random observations and memories in float64."""

    generator_ready = False

    def __init__(self, starts, lstm, seed):
        generator = np.random.default_rng(seed)
        self.buffer_size, self.n_envs = starts.shape
        self.episode_starts = starts
        self.observations = generator.normal(size=(*starts.shape, 2))
        memory = (self.buffer_size, lstm.num_layers, self.n_envs, lstm.hidden_size)
        for name in ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf"):
            states = generator.normal(size=memory)
            states[1:] = np.nan
            setattr(self, name, states)


@pytest.fixture(autouse=True, scope="module")
def _observations_in_float64():
    """Stable-Baselines3 would round them to float32."""
    original = policies.preprocess_obs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            policies,
            "preprocess_obs",
            lambda obs, *args, **kwargs: (
                obs if isinstance(obs, th.Tensor) and obs.dtype == th.float64 else original(obs, *args, **kwargs)
            ),
        )
        yield


def step_by_step(policy, buffer):
    """Logits (T, E, 3) and values (T, E) as sb3-contrib computes them, one step of all environments after another."""
    memory = RNNStates(
        *(
            tuple(th.as_tensor(getattr(buffer, f"{kind}_states_{of}")[0]) for kind in ("hidden", "cell"))
            for of in ("pi", "vf")
        )
    )
    if policy.lstm_critic is None:
        memory = RNNStates(memory.pi, memory.pi)
    logits, values = [], []
    for t in range(buffer.buffer_size):
        obs, starts = th.as_tensor(buffer.observations[t]), th.as_tensor(buffer.episode_starts[t]).double()
        values.append(policy.predict_values(obs, memory.vf, starts).flatten())
        logits.append(policy.get_distribution(obs, memory.pi, starts)[0].distribution.logits)
        memory = policy(obs, memory, starts)[-1]
    return th.stack(logits), th.stack(values)


@settings(max_examples=100, deadline=None)
@given(boundaries())
def test_a_layout_has_every_step_once_packed_and_no_sequence_across_an_episode(starts):
    cut = layout(starts)
    found = episodes(starts)
    n_steps, n_envs = starts.shape
    assert sorted(cut.order) == list(range(n_steps * n_envs))
    steps_of = [[divmod(int(cut.order[i]), n_envs) for i in row if i >= 0] for row in cut.positions.tolist()]
    assert sorted(steps_of) == sorted(found)
    lengths = [len(steps) for steps in steps_of]
    assert lengths == sorted(lengths, reverse=True)
    for steps, env, start, end in zip(steps_of, cut.envs, cut.starts, cut.ends, strict=True):
        assert steps == [(t, env) for t in range(start, end)]
    packed = [row[t] for t in range(max(lengths)) for row in cut.positions.tolist() if t < len(row) and row[t] >= 0]
    assert packed == list(range(n_steps * n_envs)), "not the order of torch's packed sequences"


@settings(max_examples=40, deadline=None)
@given(boundaries(), st.sampled_from(list(CRITICS)), st.integers(0, 1000))
def test_distributions_and_values_are_the_policys_own_step_by_step(starts, critic, seed):
    policy = POLICIES[critic]
    buffer = Buffer(starts, policy.lstm_actor, seed)
    steps, cut = sequential_steps(buffer, th.device("cpu"))
    with th.no_grad():
        logits, values = step_by_step(policy, buffer)
        ours = steps.action_distribution(policy).distribution.logits
        assert_close(ours, logits.flatten(0, 1)[cut.order], rtol=1e-9, atol=1e-11)
        assert_close(steps.values(policy).flatten(), values.flatten()[cut.order], rtol=1e-9, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(boundaries(), st.sampled_from(list(CRITICS)), st.integers(1, 5), st.randoms(use_true_random=False))
def test_parts_of_sequences_answer_as_the_whole_does(starts, critic, count, random):
    policy = POLICIES[critic]
    steps, _ = sequential_steps(Buffer(starts, policy.lstm_actor, 0), th.device("cpu"))
    some = th.tensor(sorted(random.sample(range(steps.n_units), random.randint(1, steps.n_units))))
    slices = steps.cut(count)
    assert 1 <= len(slices) <= count
    with th.no_grad():
        logits, values = steps.action_distribution(policy).distribution.logits, steps.values(policy)
        seen = []
        for units in [*slices, some]:
            part, rows = steps.take(units), steps.rows(units)
            assert len(part) == len(rows)
            assert_close(part.action_distribution(policy).distribution.logits, logits[rows], rtol=1e-9, atol=1e-11)
            assert_close(part.values(policy), values[rows], rtol=1e-9, atol=1e-11)
            assert_close(part.observations, steps.observations[rows], rtol=0, atol=0)
            seen += rows.tolist()
    assert sorted(seen[: len(seen) - len(steps.rows(some))]) == list(range(len(steps)))


@settings(max_examples=40, deadline=None)
@given(boundaries(), st.sampled_from(list(CRITICS)), st.integers(1, 6))
def test_pieces_have_the_values_of_the_whole_until_the_critic_is_fitted(starts, critic, length):
    policy = POLICIES[critic]
    steps, _ = sequential_steps(Buffer(starts, policy.lstm_actor, 1), th.device("cpu"))
    rows, pieces = steps.pieces(policy, length)
    assert sorted(rows.tolist()) == list(range(len(steps)))
    assert int(pieces.lengths.max()) <= length
    assert pieces.n_units == sum(-(-int(n) // length) for n in steps.lengths)
    with th.no_grad():
        assert_close(pieces.values(policy), steps.values(policy)[rows], rtol=1e-9, atol=1e-11)
        assert_close(pieces.observations, steps.observations[rows], rtol=0, atol=0)


@settings(max_examples=30, deadline=None)
@given(boundaries(), st.integers(1, 6))
def test_cutting_keeps_sequences_whole_and_first_steps_first(starts, count):
    steps, _ = sequential_steps(Buffer(starts, POLICIES["own"].lstm_actor, 0), th.device("cpu"))
    units = [unit for some in steps.cut(count) for unit in range(some.start, some.stop)]
    assert units == list(range(steps.n_units))
    longest = int(steps.lengths.max())
    few = steps.first(count)
    if count <= longest:
        assert_close(few.observations, steps.observations[steps.index[0, :count]], rtol=0, atol=0)
    else:
        assert few.n_units == min(count, steps.n_units)


@pytest.mark.parametrize("critic", list(CRITICS))
def test_gradients_stop_at_episode_starts_and_at_nothing_else(critic):
    starts = np.zeros((6, 2), np.float32)
    starts[[2, 3], [0, 1]] = 1.0
    policy = POLICIES[critic]
    steps, cut = sequential_steps(Buffer(starts, policy.lstm_actor, 0), th.device("cpu"))
    steps.observations.requires_grad_()

    def reached_from(output):
        """The steps whose observations the output depends on."""
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        (gradient,) = th.autograd.grad(output, steps.observations, **options)
        return {divmod(int(cut.order[i]), 2) for i in gradient.abs().sum(1).nonzero().flatten()}

    logits, values = steps.action_distribution(policy).distribution.logits[:, 0], steps.values(policy).flatten()
    for number, logit, value in zip(cut.order, logits, values, strict=True):
        t, e = divmod(int(number), 2)
        episode = next(steps_of for steps_of in episodes(starts) if (t, e) in steps_of)
        so_far = {(s, e) for s, _ in episode if s <= t}
        assert reached_from(logit) == so_far
        if value.requires_grad:
            assert reached_from(value) == {"own": so_far, "shared": set(), "none": {(t, e)}}[critic.split(",")[0]]


@pytest.mark.parametrize("kind", sorted(WITH_MEMORY))
@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_buffer_that_somebody_has_read_gives_the_same_experience(kind, n_envs):
    """Reading it by `get` flattens its arrays, to shapes which may look as if it had not."""
    action_space, observation_space, policy, kwargs = KINDS[kind]
    if isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 1:
        observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    env = DummyVecEnv([lambda: as_masked(kind, Walk(action_space, observation_space, 5)) for _ in range(n_envs)])
    model = collect(algorithm_of(kind)(policy, env, **{**kwargs, "n_steps": 12, "device": "cpu"}))
    buffer = model.rollout_buffer
    before = sequential_experience(copy.deepcopy(buffer), model.device)
    next(buffer.get(batch_size=None))
    assert buffer.generator_ready
    after = sequential_experience(buffer, model.device)
    for a, b in zip(before[1:], after[1:], strict=True):
        assert th.equal(a, b)
    for name in ("observations", "action_masks", "index", "actor_memory", "critic_memory"):
        assert_close(getattr(after.steps, name), getattr(before.steps, name), rtol=0, atol=0)
    model.train()
    assert model.logger.name_to_value["train/kl_divergence_loss"] <= 0.01 * (1 + 1e-4)


@pytest.mark.parametrize("critic", list(CRITICS))
def test_a_step_of_a_short_sequence_needs_about_as_much_memory_as_one_of_a_long_sequence(critic):
    """Batches are cut by that number: were it zero for sequences of one step, there would be a single batch."""
    policy, needed = POLICIES[critic], []
    for starts in (np.ones((8, 1), np.float32), np.zeros((8, 1), np.float32)):
        steps, _ = sequential_steps(Buffer(starts, policy.lstm_actor, 0), th.device("cpu"))
        needed.append(graph_bytes_per_row(policy, lambda few: few.action_distribution(policy), steps))
    assert 0.25 < needed[0] / needed[1] < 4
