"""Look at the updates that an algorithm makes, from outside."""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch as th

from sb3_trpo.algorithms import on_policy
from sb3_trpo.core.parameters import flatten, unflatten


@dataclass
class Captured:
    """One natural step with its problem and the parameters before and after."""

    problem: Any
    step: Any
    before: th.Tensor
    after: th.Tensor

    def by_name(self, policy):
        """The full step of each of the policy's parameters."""
        parts = dict(
            zip(map(id, self.problem.parameters), unflatten(self.step.full_step, self.problem.parameters), strict=True)
        )
        return {name: parts[id(p)] for name, p in policy.named_parameters() if id(p) in parts}


@contextmanager
def captured_steps():
    """Record every natural step taken inside the block."""
    steps, original = [], on_policy.natural_step

    def natural_step(problem, **kwargs):
        before = flatten(problem.parameters)
        step = original(problem, **kwargs)
        steps.append(Captured(problem, step, before, flatten(problem.parameters)))
        return step

    on_policy.natural_step = natural_step
    try:
        yield steps
    finally:
        on_policy.natural_step = original
