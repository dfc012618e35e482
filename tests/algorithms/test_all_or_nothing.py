"""Whatever ends an update before its end, at any instant: it has been made in whole, or it has not been begun."""

import contextlib
import copy
import itertools
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch as th

import sb3_trpo
from sb3_trpo.algorithms import on_policy
from sb3_trpo.algorithms.transaction import ATTEMPTS, Before, done_or_undone
from tests.algorithms.kinds import collect, make_model
from tests.algorithms.test_trust_region import frozen_copy, joint_kl

RADIUS = 0.02
UPDATES = list(itertools.product(["box", "masked_discrete", "lstm"], ["minibatch", "gauss_newton"]))
"""A kind of model of each algorithm, and the two fits of the critic."""
TRACED = (*(f"{Path(package.__file__).parent}{os.sep}" for package in (sb3_trpo, th)), contextlib.__file__)
MANY = 67
"""Interrupts of each of them, 402 in all."""


@pytest.fixture(autouse=True)
def _modes_of_torch():
    """A test that fails must not have those after it fail, too."""
    yield
    th.set_grad_enabled(True)
    th.distributions.Distribution.set_default_validate_args(True)


def state_of(model):
    """All that an update changes, in a copy."""
    optimizer = model.policy.optimizer.state_dict()
    return copy.deepcopy(
        {
            "weights": model.policy.state_dict(),
            "optimizer": optimizer,
            "radius": vars(model.radius_controller),
            "updates": model._n_updates,
        }
    )


def same(ours, theirs):
    """Bit for bit."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(itertools.starmap(same, zip(ours, theirs, strict=True)))
    return th.equal(ours, theirs) if isinstance(ours, th.Tensor) else ours == theirs


class Interrupted:
    """A model before its third update, and what that update makes of it when nobody interrupts it."""

    def __init__(self, kind, critic):
        self.model = make_model(kind, critic=critic, radius="adaptive", target_kl=RADIUS)
        for _ in range(2):
            collect(self.model).train()
        collect(self.model)
        self.old = state_of(self.model)
        self.start = copy.deepcopy(self.model)
        twin = copy.deepcopy(self.model)
        policy, buffer = frozen_copy(twin), copy.deepcopy(twin.rollout_buffer)
        limit = twin.radius_controller.radius(RADIUS, 1.0)
        started = time.perf_counter()
        self.train(twin)
        self.seconds = time.perf_counter() - started
        self.new = state_of(twin)
        assert not same(self.old, self.new)
        assert 0.0 < joint_kl(policy, twin.policy, buffer) <= limit * (1 + 1e-4)

    @staticmethod
    def train(model):
        np.random.seed(5)  # noqa: NPY002  # the fit of the critic draws from the global generator
        th.manual_seed(5)
        model.train()

    def outcome(self):
        """``"old"`` or ``"new"``; the model is then as it was before."""
        now = state_of(self.model)
        assert th.is_grad_enabled()
        assert th.distributions.Distribution._validate_args
        if same(now, self.old):
            return "old"
        assert same(now, self.new), "an update was made in part"
        self.model = copy.deepcopy(self.start)
        return "new"

    def check_that_training_goes_on(self):
        self.train(self.model)
        assert same(state_of(self.model), self.new), "what was interrupted has left something behind"
        collect(self.model).train()
        assert all(th.isfinite(p).all() for p in self.model.policy.parameters())


class AtLine:
    """Raises KeyboardInterrupt at one of all the lines of this package, torch and contextlib that Python goes through.

    Those of threadpoolctl are left out: it would keep a lock for good, at a place where Python lets no signal in.
    """

    def __init__(self, number):
        self.number, self.seen = number, 0

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.number:
                raise KeyboardInterrupt
        return self

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)

    def __exit__(self, *exception):
        sys.settrace(self.before)


def interrupt_at_lines(kind, critic, count):
    update, rng = Interrupted(kind, critic), np.random.default_rng(3)
    counting = AtLine(-1)
    with counting:
        update.train(update.model)
    assert update.outcome() == "new"
    chosen = rng.choice(np.arange(1, counting.seen + 1), count, replace=False)
    last = np.arange(counting.seen - 40, counting.seen + 1, 4)  # where the update ends
    outcomes = Counter()
    for number in (*chosen, *last):
        with pytest.raises(KeyboardInterrupt), AtLine(number):
            update.train(update.model)
        outcomes[update.outcome()] += 1
    assert outcomes["old"] >= count / 2
    assert outcomes["new"] > 0
    update.check_that_training_goes_on()


def interrupt_by_signals(kind, critic, count):
    update, rng = Interrupted(kind, critic), np.random.default_rng(4)

    def handler(number, frame):
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGALRM, handler)
    outcomes = Counter()
    try:
        while outcomes["old"] + outcomes["in time"] < count:
            is_interrupted = False
            try:
                signal.setitimer(signal.ITIMER_REAL, max(rng.uniform(0.0, 1.1 * update.seconds), 1e-6))
                update.train(update.model)
                signal.setitimer(signal.ITIMER_REAL, 0.0)
            except KeyboardInterrupt:
                is_interrupted = True
            outcome = update.outcome()
            outcomes["in time" if outcome == "new" and is_interrupted else outcome] += 1
            assert sum(outcomes.values()) < 50 * count, "the signals come too late"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, earlier)
    assert outcomes["old"] > 0
    update.check_that_training_goes_on()


@pytest.mark.parametrize(("kind", "critic"), UPDATES)
def test_an_update_interrupted_at_any_line_is_whole_or_none(kind, critic):
    interrupt_at_lines(kind, critic, 8)


@pytest.mark.parametrize(("kind", "critic"), UPDATES)
def test_an_update_interrupted_by_a_signal_is_whole_or_none(kind, critic):
    interrupt_by_signals(kind, critic, 8)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "critic"), [*UPDATES, ("image", "minibatch"), ("gsde", "gauss_newton")])
def test_402_interrupts_at_lines(kind, critic):
    interrupt_at_lines(kind, critic, MANY)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "critic"), [*UPDATES, ("image", "minibatch"), ("gsde", "gauss_newton")])
def test_402_interrupts_by_signals(kind, critic):
    interrupt_by_signals(kind, critic, MANY)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError, SystemExit])
@pytest.mark.parametrize("part", ["natural_step", "fit_critic", "metrics.record"])
def test_an_error_in_any_part_undoes_all_of_it(part, error, monkeypatch):
    update = Interrupted("box", "minibatch")
    owner, _, name = part.rpartition(".")
    module = on_policy.metrics if owner else on_policy
    original = getattr(module, name)

    def broken(*args, **kwargs):
        original(*args, **kwargs)
        raise error("there it ends")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, broken)
        with pytest.raises(error, match="there it ends"):
            update.train(update.model)
    assert update.outcome() == "old"
    update.check_that_training_goes_on()


@pytest.mark.parametrize("count", [1, ATTEMPTS - 1])
def test_more_interrupts_while_everything_is_brought_back_do_no_harm(count, monkeypatch):
    update = Interrupted("box", "minibatch")
    calls, original = [], th.optim.Adam.load_state_dict

    def interrupted(self, state):
        calls.append(1)
        if len(calls) <= count:
            raise KeyboardInterrupt("another one")
        original(self, state)

    def broken(*args, **kwargs):
        raise KeyboardInterrupt("the first one")

    with monkeypatch.context() as patch:
        patch.setattr(th.optim.Adam, "load_state_dict", interrupted)
        patch.setattr(on_policy.metrics, "record", broken)
        with pytest.raises(KeyboardInterrupt, match="the first one"):
            update.train(update.model)
    assert len(calls) == count + 1
    assert update.outcome() == "old"
    update.check_that_training_goes_on()


def noted(model):
    before = Before(model)
    before.note()
    return before


def test_an_interrupt_at_every_line_of_bringing_back_is_made_good():
    update = Interrupted("box", "gauss_newton")
    counting = AtLine(-1)
    with counting:
        noted(update.model).bring_back()
    for number in range(1, counting.seen + 1, 7):
        before, interrupts = noted(update.model), iter([AtLine(number)])

        def change():
            with th.no_grad():
                for parameter in update.model.policy.parameters():
                    parameter.add_(1.0)
            raise KeyboardInterrupt

        def undo(before=before, interrupts=interrupts):
            with next(interrupts, contextlib.nullcontext()):
                before.bring_back()

        with pytest.raises(KeyboardInterrupt):
            done_or_undone(change, undo)
        assert update.outcome() == "old"


def test_optimisers_of_every_sort_come_back():
    for optimizer in (th.optim.SGD, th.optim.RMSprop, th.optim.AdamW, th.optim.Adagrad):
        model = collect(make_model("box", policy_kwargs={"optimizer_class": optimizer}).learn(64))
        old = state_of(model)
        model.logger.record = None  # breaks the last thing that an update does
        with pytest.raises(TypeError):
            model.train()
        assert same(state_of(model), old)
