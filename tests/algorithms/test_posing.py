"""From experience to the problem: stretches that depend on each other, and what is kept aside."""

import numpy as np
import pytest
import torch as th

from sb3_trpo import RecurrentTRPO
from sb3_trpo.algorithms import experience as module
from sb3_trpo.algorithms.actor import Actor
from sb3_trpo.algorithms.posing import Terms, pose
from tests.algorithms.kinds import collect, make_model

PLAIN = Terms(normalize_advantage=False, sub_sampling_factor=1, holdout=0.0, entropy_bonus=0.0, entropy_floor=None)
KINDS = ["box", "dict", "lstm", "masked_lstm"]


def stretches_by_a_loop(starts, stretch):
    """Of one environment: a new number at every start, and after so many steps without one."""
    numbers, number, since = [], -1, 0
    for index, start in enumerate(starts):
        since = 0 if start or index == 0 or since == stretch - 1 else since + 1
        number += since == 0
        numbers.append(number)
    return numbers


@pytest.mark.parametrize("stretch", [1, 3, 64])
def test_stretches_are_those_of_a_loop(stretch, monkeypatch):
    monkeypatch.setattr(module, "STRETCH", stretch)
    starts = np.random.default_rng(0).random((50, 3)) < 0.1
    found = module.stretches(starts.astype(np.float32))
    offset = 0
    for env in range(3):
        expected = np.asarray(stretches_by_a_loop(starts[:, env], stretch)) + offset
        np.testing.assert_array_equal(found[env], expected)
        offset = expected.max() + 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_in_the_stretch_of_its_episode(kind, monkeypatch):
    """The steps of a cluster come from one environment, one episode, one after another."""
    monkeypatch.setattr(module, "STRETCH", 5)
    model = collect(make_model(kind))
    buffer = model.rollout_buffer
    n_steps, n_envs = buffer.buffer_size, buffer.n_envs
    starts = np.array(module._starts(buffer), dtype=bool)
    starts[0] = True
    episode = np.cumsum(starts.T.reshape(-1)).reshape(n_envs, n_steps)
    time = np.tile(np.arange(n_steps), (n_envs, 1))
    rewards = np.array(buffer.rewards)
    experience = model._experience()
    # the order of the experience, seen by a column that names each step
    buffer.returns = (np.arange(n_steps * n_envs).reshape(n_steps, n_envs)).astype(np.float32)
    if buffer.generator_ready:
        buffer.returns = buffer.swap_and_flatten(buffer.returns[..., None] if rewards.ndim == 1 else buffer.returns)
    order = model._experience().returns.long().numpy()
    env, step = order % n_envs, order // n_envs
    clusters = experience.clusters.numpy()
    for cluster in np.unique(clusters):
        rows = clusters == cluster
        assert len(set(env[rows])) == 1
        assert len(set(episode[env[rows], step[rows]])) == 1
        found = np.sort(time[env[rows], step[rows]])
        np.testing.assert_array_equal(found, found[0] + np.arange(len(found)))
        assert len(found) <= 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.9])
def test_what_is_kept_aside_is_whole_and_the_weights_sum_to_one(kind, fraction, monkeypatch):
    monkeypatch.setattr(module, "STRETCH", 8)
    model = collect(make_model(kind))
    experience = _in_the_form_of(model, model._experience())
    actor = Actor(model.policy, experience.steps.first(2))
    problem, sample = pose(actor, experience, PLAIN._replace(holdout=fraction))
    parts = [th.cat([batch.weights for batch in batches]) for batches in (sample.batches, sample.held_out)]
    for weights in parts:
        assert float(weights.sum()) == pytest.approx(1.0)
    total = len(experience.advantages)
    assert sum(map(len, parts)) == total
    assert len(parts[1]) > 0
    if model.kind.memory:
        kept = int(experience.steps.n_units) - sum(batch.observations.n_units for batch in sample.batches)
        assert kept <= max(fraction * experience.steps.n_units + 1, 1), "sequences of several stretches each"
    else:
        assert fraction * total <= len(parts[1]) <= fraction * total + 8 or len(parts[0]) <= 8
        clusters = [
            set(th.cat([b.clusters for b in batches]).tolist()) for batches in (sample.batches, sample.held_out)
        ]
        assert not clusters[0] & clusters[1]
        assert len(clusters[1]) >= 2, "one says nothing of its error"
    advantages = th.cat([b.objective.advantages for batches in (sample.batches, sample.held_out) for b in batches])
    np.testing.assert_array_equal(np.sort(advantages), np.sort(experience.advantages))
    whole = pose(actor, experience, PLAIN).problem
    assert not th.equal(whole.gradient, problem.gradient)


def _in_the_form_of(model, experience):
    is_discrete = hasattr(model.action_space, "n") and not model.action_space.shape
    return experience._replace(actions=experience.actions.long().flatten()) if is_discrete else experience


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_add_up_to_the_whole(kind):
    model = collect(make_model(kind))
    experience = _in_the_form_of(model, model._experience())
    actor = Actor(model.policy, experience.steps.first(2))
    problem, sample = pose(actor, experience, PLAIN)
    for count in (1, 2, 7):
        pieces = sample.pieces(count)
        assert len(pieces) <= count
        gradients = [actor.linearize(piece.observations).gradient(piece.objective)[1] for piece in pieces]
        th.testing.assert_close(sum(gradients), problem.gradient, rtol=1e-4, atol=1e-6)


def test_the_plain_problem_draws_no_random_numbers():
    model = collect(make_model("box"))
    experience = model._experience()
    before = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    pose(Actor(model.policy, experience.steps.first(2)), experience, PLAIN)
    after = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    assert after["pos"] == before["pos"]
    np.testing.assert_array_equal(after["key"], before["key"])


@pytest.mark.parametrize("slot", [{"validation": "held_out"}, {"radius": "confidence"}])
def test_a_rollout_of_which_nothing_can_be_kept_aside_is_refused(slot):
    with pytest.raises(ValueError, match=r"at least two on either side, and n_steps \* n_envs = 8 \* 2"):
        make_model("box", n_steps=8, **slot)
    with pytest.raises(ValueError, match="one environment may give but one: use n_envs >= 2"):
        RecurrentTRPO("MlpLstmPolicy", "CartPole-v1", **slot)


def test_a_rollout_that_is_one_sequence_cannot_be_cut_into_groups():
    with pytest.raises(ValueError, match=r"groups=32, of whole sequences, and one environment may give but one"):
        RecurrentTRPO("MlpLstmPolicy", "CartPole-v1", radius="uncertainty")
