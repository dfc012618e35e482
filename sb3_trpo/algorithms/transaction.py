"""An update is all or nothing: whatever ends it before its end, nothing of it remains.

That may be an error, Ctrl-C or the exception of a signal handler, between any two instructions. The actor's step alone
is all or nothing in the line search; here it is the whole of parameters, optimiser, radius controller and counts, so
that what is saved afterwards fits together.
"""

import copy
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch as th

from sb3_trpo.algorithms.slots import SLOTS

if TYPE_CHECKING:
    from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm

CHANGED = (*(slot.attribute for slot in SLOTS.values()), "_n_updates")
"""Attributes of the algorithm that an update changes, beside the policy."""

ATTEMPTS = 10
"""How often it is tried to bring everything back: another Ctrl-C may come while that is done."""


class Before:
    """What an update of ``algorithm`` changes, as it was when it was noted."""

    def __init__(self, algorithm: "TrustRegionAlgorithm"):
        self._algorithm = algorithm
        self._tensors: list[tuple[th.Tensor, th.Tensor]] = []
        self._rest: tuple[dict[str, Any], dict[str, Any]] | None = None

    def note(self) -> None:
        """Copy everything."""
        policy = self._algorithm.policy
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in (*policy.parameters(), *policy.buffers())]
        attributes = {name: getattr(self._algorithm, name) for name in CHANGED}
        self._rest = duplicate(policy.optimizer.state_dict()), copy.deepcopy(attributes)

    def bring_back(self) -> None:
        """May be interrupted and done again."""
        for tensor, value in self._tensors:
            tensor.detach().copy_(value)
        if self._rest is not None:
            optimizer, attributes = self._rest
            self._algorithm.policy.optimizer.load_state_dict(optimizer)
            vars(self._algorithm).update(attributes)


def duplicate(state: Any) -> Any:
    """A deep copy of nested dictionaries and lists of tensors, of which `copy.deepcopy` makes one more slowly."""
    if isinstance(state, th.Tensor):
        return state.detach().clone()
    if type(state) is dict:
        return {key: duplicate(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(map(duplicate, state))
    return state if type(state) in (int, float, bool, str, type(None)) else copy.deepcopy(state)


def all_or_nothing(update: Callable[[Any], None]) -> Callable[[Any], None]:
    """Have an algorithm's ``update`` leave everything as it was if it does not come to its end.

    Not a context manager, which an interruption on its own way out would leave with nothing brought back.
    """

    @wraps(update)
    def whole_or_none(algorithm: "TrustRegionAlgorithm") -> None:
        before = Before(algorithm)

        def noted_and_made() -> None:
            before.note()
            update(algorithm)

        done_or_undone(noted_and_made, before.bring_back)

    return whole_or_none


def done_or_undone(change: Callable[[], None], undo: Callable[[], None]) -> None:
    """Make a ``change``; if it does not come to its end, ``undo`` it, which may be interrupted and done again.

    What a block sets for its time would stay set if it were interrupted on leaving, hence modes of torch are put back.
    """
    has_gradients, validates = th.is_grad_enabled(), th.distributions.Distribution._validate_args
    try:
        change()
    except BaseException:
        for attempt in range(ATTEMPTS):
            try:
                undo()
                th.distributions.Distribution.set_default_validate_args(validates)
                th.set_grad_enabled(has_gradients)
                break
            except BaseException:
                if attempt == ATTEMPTS - 1:
                    raise
        raise
