"""What an extension of the natural step is: something that poses the problem of a rollout anew before it is solved."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from sb3_trpo.core.natural_step import NaturalStep
from sb3_trpo.core.problem import Sample, TrustRegionProblem


@runtime_checkable
class Extension(Protocol):
    """The slot. What it remembers from update to update are its attributes, which are saved with the model.

    One that needs steps kept aside has an attribute ``holdout``, the part of the rollout; one that needs it cut into
    independent groups an attribute ``groups``, their number.
    """

    def repose(self, problem: TrustRegionProblem, sample: Sample) -> TrustRegionProblem:
        """The problem to solve in place of ``problem``, whose parameters are still the old ones."""

    def update(self, step: NaturalStep) -> None:
        """Learn from the step that was made on the problem."""

    def measures(self) -> Mapping[str, float]:
        """What the log is to show of the last update: name -> number, NaN where there is none."""


class Plain:
    """Leaves the problem as it is."""

    def repose(self, problem: TrustRegionProblem, sample: Sample) -> TrustRegionProblem:
        """The same."""
        return problem

    def update(self, step: NaturalStep) -> None:
        """Nothing to learn."""

    def measures(self) -> Mapping[str, float]:
        """None."""
        return {}


def reposed(problem: TrustRegionProblem, sample: Sample, slots: Iterable[Any]) -> TrustRegionProblem:
    """The problem after all extensions among ``slots``, in order, have posed it anew."""
    for slot in slots:
        if isinstance(slot, Extension):
            problem = slot.repose(problem, sample)
    return problem


def holdout(slots: Iterable[Any]) -> float:
    """The part of the rollout that is to be kept aside: the largest that an extension asks for."""
    return max((getattr(slot, "holdout", 0.0) for slot in slots), default=0.0)


def groups(slots: Iterable[Any]) -> int:
    """Into how many groups the rollout is to be cut, 0 where nothing is."""
    return max((getattr(slot, "groups", 0) for slot in slots), default=0)


def measured(slots: Iterable[Any]) -> dict[str, float]:
    """What the log is to show of all extensions among ``slots``."""
    return {name: value for slot in slots if isinstance(slot, Extension) for name, value in slot.measures().items()}
