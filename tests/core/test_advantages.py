"""Advantages against the definition, and against Stable-Baselines3's buffer."""

import numpy as np
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_trpo.core.advantages import generalized_advantages

unit = st.floats(0.0, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 3), unit, unit, st.integers(0, 10_000))
def test_they_are_the_sum_of_discounted_errors_up_to_the_end_of_the_episode(n_steps, n_envs, gamma, lam, seed):
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, n_steps, n_envs))
    starts = (rng.random((n_steps, n_envs)) < 0.3).astype(float)
    last_values, dones = rng.normal(size=n_envs), rng.random(n_envs) < 0.5
    advantages = generalized_advantages(rewards, values, starts, last_values, dones, gamma, lam)
    for e in range(n_envs):
        for t in range(n_steps):
            total, factor = 0.0, 1.0
            for k in range(t, n_steps):
                ends = dones[e] if k == n_steps - 1 else starts[k + 1, e]
                after = last_values[e] if k == n_steps - 1 else values[k + 1, e]
                total += factor * (rewards[k, e] + gamma * after * (1 - ends) - values[k, e])
                factor *= gamma * lam * (1 - ends)
            np.testing.assert_allclose(advantages[t, e], total, rtol=1e-9, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 50), st.integers(1, 4), st.integers(0, 10_000))
def test_they_are_those_of_the_buffer(n_steps, n_envs, seed):
    rng = np.random.default_rng(seed)
    box = spaces.Box(-1.0, 1.0, (1,))
    buffer = RolloutBuffer(n_steps, box, box, gae_lambda=0.9, gamma=0.97, n_envs=n_envs)
    for array in (buffer.rewards, buffer.values):
        array[:] = rng.normal(size=array.shape)
    buffer.episode_starts[:] = rng.random(buffer.episode_starts.shape) < 0.2
    last_values, dones = rng.normal(size=n_envs).astype(np.float32), rng.random(n_envs) < 0.5
    buffer.compute_returns_and_advantage(th.as_tensor(last_values), dones)
    ours = generalized_advantages(
        buffer.rewards, buffer.values, buffer.episode_starts, last_values, dones, buffer.gamma, buffer.gae_lambda
    )
    assert ours.dtype == buffer.advantages.dtype
    np.testing.assert_allclose(ours, buffer.advantages, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 3), unit, unit, st.integers(0, 10_000))
def test_those_of_another_policy_are_the_sum_of_v_trace(n_steps, n_envs, gamma, lam, seed):
    """Espeholt et al. 2018, equation 1, with c_i = lambda min(1, ratio), term by term; and its targets."""
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, n_steps, n_envs))
    ratios = np.exp(rng.normal(size=(n_steps, n_envs)))
    starts = (rng.random((n_steps, n_envs)) < 0.3).astype(float)
    last_values, dones = rng.normal(size=n_envs), rng.random(n_envs) < 0.5
    advantages = generalized_advantages(
        rewards, values, starts, last_values, dones, gamma, lam, truncated_ratios=np.minimum(ratios, 1.0)
    )
    for e in range(n_envs):
        for s in range(n_steps):
            target, traces, discount = values[s, e], 1.0, 1.0
            for t in range(s, n_steps):
                ends = dones[e] if t == n_steps - 1 else starts[t + 1, e]
                after = last_values[e] if t == n_steps - 1 else values[t + 1, e]
                error = rewards[t, e] + gamma * after * (1 - ends) - values[t, e]
                target += discount * traces * min(1.0, ratios[t, e]) * error
                traces *= lam * min(1.0, ratios[t, e]) * (1 - ends)
                discount *= gamma
            ours = values[s, e] + min(1.0, ratios[s, e]) * advantages[s, e]
            np.testing.assert_allclose(ours, target, rtol=1e-9, atol=1e-9)
