"""What may be put in place of something else: for each such argument the objects that it can stand for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sb3_trpo.algorithms.arguments import check_dictionary, optional
from sb3_trpo.algorithms.regressions import GaussNewtonRegression, MinibatchRegression, Regression
from sb3_trpo.core.trust_region import AdaptiveRadius, FixedRadius, RadiusController, ScheduledRadius
from sb3_trpo.extensions.confidence import ConfidenceRadius
from sb3_trpo.extensions.correlated_noise import (
    ColoredNoise,
    NoiseProcess,
    OrnsteinUhlenbeckNoise,
    PinkNoise,
    WhiteNoise,
)
from sb3_trpo.extensions.extension import Extension, Plain
from sb3_trpo.extensions.gradient_tracking import GradientTracking
from sb3_trpo.extensions.held_out import HeldOutValidation
from sb3_trpo.extensions.hessian_tracking import HessianAidedTracking
from sb3_trpo.extensions.sample_reuse import AdaptiveBound, FixedBound, ReuseBound
from sb3_trpo.extensions.uncertainty import UncertaintyRegion


class Slot(NamedTuple):
    """The ``attribute`` of the algorithm that holds the object, the ``aliases`` of classes, and their ``protocol``.

    The first alias is the default, or None for one that may be empty.
    """

    attribute: str
    aliases: Mapping[str, type]
    protocol: type
    may_be_empty: bool = False

    @property
    def default(self) -> str | None:
        """What the argument is when it is not given."""
        return None if self.may_be_empty else next(iter(self.aliases))


SLOTS = {
    "radius": Slot(
        "radius_controller",
        {
            "fixed": FixedRadius,
            "scheduled": ScheduledRadius,
            "adaptive": AdaptiveRadius,
            "confidence": ConfidenceRadius,
            "uncertainty": UncertaintyRegion,
        },
        RadiusController,
    ),
    "critic": Slot(
        "critic_regression",
        {"minibatch": MinibatchRegression, "gauss_newton": GaussNewtonRegression},
        Regression,
    ),
    "gradient_estimator": Slot(
        "gradient_tracker",
        {"batch": Plain, "tracking": GradientTracking, "hessian_tracking": HessianAidedTracking},
        Extension,
    ),
    "validation": Slot("step_validation", {"none": Plain, "held_out": HeldOutValidation}, Extension),
    "reuse_bound": Slot("drift_bound", {"fixed": FixedBound, "adaptive": AdaptiveBound}, ReuseBound),
    "action_noise": Slot(
        "noise_process",
        {"white": WhiteNoise, "colored": ColoredNoise, "pink": PinkNoise, "ou": OrnsteinUhlenbeckNoise},
        NoiseProcess,
        may_be_empty=True,
    ),
}
"""Constructor arguments -> what they can stand for; each has a second argument ``..._kwargs``."""


def fill(algorithm: Any) -> None:
    """Build the objects that ``algorithm`` does not have yet, or has not restored.

    :raises ValueError: for an argument that stands for no object, or cannot build it
    """
    for name, slot in SLOTS.items():
        if getattr(algorithm, slot.attribute, None) is None:
            made = _build(name, getattr(algorithm, name), getattr(algorithm, f"{name}_kwargs"))
            setattr(algorithm, slot.attribute, made)


def check_slots(arguments: Mapping[str, Any]) -> None:
    """Refuse, in the same way, what stands in ``arguments`` and could not be built."""
    for name, slot in SLOTS.items():
        _build(name, arguments.get(name, slot.default), arguments.get(f"{name}_kwargs"))


def _build(name: str, given: Any, kwargs: Any) -> Any:
    """An object for a slot: of an alias or a class that has the slot's methods, built with ``kwargs``."""
    _, aliases, protocol, may_be_empty = SLOTS[name]
    if given is None and may_be_empty:
        if kwargs:
            raise ValueError(f"{name}_kwargs={kwargs!r} are arguments of nothing: {name} is None")
        return None
    cls = aliases.get(given) if isinstance(given, str) else given
    methods = [method for method in vars(protocol) if not method.startswith("_")]
    if not (isinstance(cls, type) and all(callable(getattr(cls, method, None)) for method in methods)):
        known = ", ".join(map(repr, aliases))
        raise ValueError(
            f"{name}={given!r} must be one of {known}, or a class with the methods of {protocol.__name__}"
            + (", or None" if may_be_empty else "")
        )
    optional(check_dictionary)(f"{name}_kwargs", kwargs)
    try:
        return cls(**(kwargs or {}))
    except TypeError as error:
        raise ValueError(
            f"{name}_kwargs={kwargs!r} does not fit {cls.__name__} of {name}={given!r}: {error}"
        ) from error
