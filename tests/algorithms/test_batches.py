"""An update in batches, with or without what is kept between products, is the update of the whole rollout."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from sb3_trpo.algorithms import steps as steps_module
from sb3_trpo.algorithms.actor import Actor
from sb3_trpo.algorithms.steps import SavedBytes, Steps
from sb3_trpo.core import fisher
from tests.algorithms.capture import captured_steps
from tests.algorithms.kinds import KINDS, collect, make_model


@given(st.integers(1, 300), st.integers(1, 10**7))
def test_slices_cover_every_row_once_and_keep_to_their_size(count, bytes_per_row):
    parts = Steps(th.zeros(count, 1)).batches(bytes_per_row)
    assert [row for part in parts for row in range(count)[part]] == list(range(count))
    room = steps_module.BATCH_BYTES["cpu"]
    assert all(part.stop - part.start <= room // bytes_per_row + 1 for part in parts)
    assert len(parts) <= -(-count * bytes_per_row // room) + 1


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("kept_bytes", [0, 10**9])
@pytest.mark.parametrize("critic", ["minibatch", "gauss_newton"])
def test_an_update_in_batches_is_the_same_update(kind, kept_bytes, critic, monkeypatch):
    kwargs = {"steps": 1, "holdout": 0.0} if critic == "gauss_newton" else None

    def update():
        model = collect(make_model(kind, critic=critic, critic_kwargs=kwargs))
        np.random.seed(0)  # noqa: NPY002  # the critic shuffles with the global generator
        with captured_steps() as steps:
            model.train()
        return steps[0], th.nn.utils.parameters_to_vector(model.policy.parameters())

    whole, weights = update()
    cuts = []

    def three(steps, bytes_per_row):
        cuts.append(len(steps))
        return steps.cut(3)

    monkeypatch.setattr(fisher, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(Steps, "batches", three)
    cut, cut_weights = update()
    assert len(cuts) == 1 + (kind in ("dict_sub_sampled", "lstm_two_layers")) + 3 * (critic == "gauss_newton")
    assert whole.step.status is cut.step.status
    th.testing.assert_close(cut.problem.gradient, whole.problem.gradient, rtol=1e-3, atol=1e-6)
    scale = float(whole.step.full_step.abs().max())
    th.testing.assert_close(cut.step.full_step, whole.step.full_step, rtol=1e-2, atol=2e-3 * scale)
    th.testing.assert_close(cut_weights, weights, rtol=1e-2, atol=2e-3 * max(scale, 1e-2))


def test_the_memory_of_a_graph_is_counted_without_the_parameters():
    model = make_model("image")
    observations = th.zeros(4, 1, 36, 36, dtype=th.uint8)
    with SavedBytes(model.policy) as saved:
        model.policy.get_distribution(observations)
    pixels = 4 * 4 * 36 * 36
    assert pixels < saved.nbytes < 20 * pixels
    with SavedBytes(model.policy) as nothing, th.no_grad():
        model.policy.get_distribution(observations)
    assert nothing.nbytes == 0


def test_numpy_multiplies_on_one_thread_during_rollouts_and_updates_and_as_before_afterwards(monkeypatch):
    def threads():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    before, seen = threads(), []
    model = make_model("box")
    monkeypatch.setattr(model, "_update_info_buffer", lambda *args: seen.append(threads()))
    original = model._pose_problem
    monkeypatch.setattr(model, "_pose_problem", lambda *args: seen.append(threads()) or original(*args))
    model.learn(64)
    assert seen == [{1}] * 33
    assert threads() == before
    seen.clear()
    gsde = make_model("gsde")
    monkeypatch.setattr(gsde, "_update_info_buffer", lambda *args: seen.append(threads()))
    gsde.learn(64)
    assert seen == [before] * 32  # nothing is multiplied in numpy there


@pytest.mark.parametrize("kind", ["image", "dict", "gsde", "beta"])
def test_graphs_are_freed_as_soon_as_nobody_wants_them(kind):
    """A graph that holds its own output is a cycle that nothing ever frees."""
    model = make_model(kind)
    observations, _ = model.policy.obs_to_tensor(model.get_env().reset())
    with SavedBytes(model.policy):
        value = th.ones(3, requires_grad=True).tanh()  # whose reverse pass needs the value itself
    references = [weakref.ref(value)]
    del value
    steps = Steps(observations)
    linearization = Actor(model.policy, steps).linearize(steps)
    actions = th.zeros(2) if kind == "image" else th.full((2, 2), 0.5)
    v = th.ones_like(linearization.gradient(lambda policy: policy.log_prob(actions).sum())[1])
    linearization.fisher_vector_product(v, th.full((2,), 0.5))
    attached = linearization._attached if kind == "beta" else linearization.jacobian._outputs[0]
    references.append(weakref.ref(attached if kind != "beta" else attached.distribution))
    del linearization, attached
    gc.collect()
    assert [reference() for reference in references] == [None, None]


MEMORY_OF_AN_UPDATE = """
import sys
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from sb3_trpo import TRPO
from tests.algorithms.kinds import collect
from tests.envs import Contextual

def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
env = DummyVecEnv([lambda: Contextual(spaces.Discrete(6), space)])
settings = {"n_steps": int(sys.argv[1]), "cg_max_steps": 2, "n_critic_updates": 1, "seed": 0, "device": "cpu"}
model = collect(TRPO("CnnPolicy", env, **settings))
open("/proc/self/clear_refs", "w").write("5")  # forget the peak
before = kib("VmRSS")
model.train()
print((kib("VmHWM") - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell the peak of memory")
def test_the_memory_of_an_update_does_not_grow_with_the_rollout():
    """Four times the frames, whose graphs alone would take 800 MiB more."""

    def growth(n_steps):
        command = [sys.executable, "-W", "ignore", "-c", MEMORY_OF_AN_UPDATE, str(n_steps)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)

    assert growth(2048) - growth(512) < 200  # copies of the frames themselves, 41 MiB each
