"""What holds for any spaces, policies, arguments and environments, and not only for those of the other tests."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch as th
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from torch.nn.utils import parameters_to_vector

from tests.algorithms.capture import captured_steps
from tests.algorithms.test_trust_region import frozen_copy, joint_kl
from tests.strategies import Erratic, bad_arguments, cases

usual = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def few(n):
    """The same examples in every run."""
    return settings(usual, max_examples=n, derandomize=True)


def many(n):
    """Others in every run, and slow."""
    return lambda test: pytest.mark.slow(settings(usual, max_examples=n)(test))


def weights(model):
    return parameters_to_vector(model.policy.parameters()).detach()


def learn(model, callback=None, **settings):
    """Two rollouts. Warnings tell of refused updates, which are as good as others here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return model.learn(2 * model.n_steps * model.n_envs, callback=callback, **settings)


class Rollouts(BaseCallback):
    """Keeps the policy that made each rollout, what is in the buffer then, and the policy after the update."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_rollout_start(self):
        self.finish()

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.seen.append([self._policy(), copy.deepcopy(self.model.rollout_buffer), None])

    def finish(self):
        if self.seen and self.seen[-1][2] is None:
            self.seen[-1][2] = self._policy()

    def _policy(self):
        with th.random.fork_rng():  # the copy draws weights before it gets those of the policy
            return frozen_copy(self.model)


def learning_keeps_its_promises(case):
    """Finite weights, a joint KL inside the radius, refused updates that change nothing, and the same again."""
    model, _ = case.make()
    rollouts = Rollouts()
    with captured_steps() as steps:
        learn(model, rollouts)
    rollouts.finish()
    assert th.isfinite(weights(model)).all()
    assert len(steps) == len(rollouts.seen) == 2
    for captured, (old, buffer, new) in zip(steps, rollouts.seen, strict=True):
        step = captured.step
        kl = joint_kl(old, new, buffer)
        assert step.kl <= step.radius * (1 + 1e-4)
        assert kl == pytest.approx(step.kl, rel=5e-3, abs=5e-6)
        if not step.accepted:
            assert th.equal(captured.before, captured.after)
            assert kl == 0.0
    if case.arguments["radius"] == "fixed" and not callable(case.arguments["target_kl"]):
        assert {captured.step.radius for captured in steps} == {case.arguments["target_kl"]}

    again, _ = case.make()
    assert th.equal(weights(learn(again)), weights(model))

    file = io.BytesIO()
    model.save(file)
    loaded = case.algorithm.load(file, device="cpu")
    assert th.equal(weights(loaded), weights(model))
    np.testing.assert_equal(predictions(loaded, case), predictions(model, case))


def predictions(model, case):
    """Actions, with noise and without, for one observation of each environment, twice in a row."""
    space = copy.deepcopy(case.observation_space)
    space.seed(0)
    th.manual_seed(0)
    if model.use_sde:
        model.policy.reset_noise(case.n_envs)  # that of the last rollout is not saved
    found, state = [], None
    for deterministic in (True, False):
        observations = [space.sample() for _ in range(case.n_envs)]
        if isinstance(observations[0], dict):
            observations = {key: np.stack([o[key] for o in observations]) for key in observations[0]}
        else:
            observations = np.stack(observations)
        actions, state = model.predict(observations, state, deterministic=deterministic)
        assert all(case.action_space.contains(action) for action in actions)
        found.append(actions)
    return found


def what_is_out_of_range_is_refused(case, bad):
    """By name, and before an environment is asked for anything."""
    name, value = bad
    calls = Erratic.n_calls
    with pytest.raises(ValueError, match=name):
        case.make(**{name: value})
    assert Erratic.n_calls == calls


def an_error_of_an_environment_passes_through(case, index, error, error_at, in_reset, goes_on):
    """The model is as good as before, and learns on when the environment does."""
    model, envs = case.make()
    env = envs[index % case.n_envs]
    env.error, env.error_at, env.in_reset = error, error_at % (2 * model.n_steps), in_reset
    raised = None
    try:
        learn(model)
    except type(error) as caught:
        raised = caught
    assert raised is (error if env.error is None else None)  # there may have been no reset after that step
    assert th.isfinite(weights(model)).all()
    predictions(model, case)
    env.error = None
    updates = model._n_updates
    learn(model, reset_num_timesteps=not goes_on)
    assert model._n_updates > updates
    assert th.isfinite(weights(model)).all()


errors = st.sampled_from(
    [RuntimeError, ValueError, KeyError, ZeroDivisionError, EOFError, KeyboardInterrupt, SystemExit]
)
failures = (
    cases(),
    st.integers(0, 2),
    errors.map(lambda cls: cls("on purpose")),
    st.integers(0, 15),
    *[st.booleans()] * 2,
)

# Two hundred examples of the three, and two thousand.
test_learning = few(110)(given(cases())(learning_keeps_its_promises))
test_arguments = few(50)(given(cases(), bad_arguments)(what_is_out_of_range_is_refused))
test_errors = few(40)(given(*failures)(an_error_of_an_environment_passes_through))
test_learning_often = many(1100)(given(cases())(learning_keeps_its_promises))
test_arguments_often = many(500)(given(cases(), bad_arguments)(what_is_out_of_range_is_refused))
test_errors_often = many(400)(given(*failures)(an_error_of_an_environment_passes_through))
