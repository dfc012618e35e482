"""Refusals: one sentence that quotes what was given and says what to do instead."""

import difflib
import math
from collections.abc import Iterable
from typing import Any


class UsageError(ValueError):
    """What was asked for cannot be done; the command line prints the sentence and ends with exit code 2."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """``", did you mean 'target_kl'?"`` for a near miss, else the known names; empty when nothing is known."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    if near:
        return f", did you mean {near[0]!r}?"
    return f": choose from {', '.join(known)}" if known else ""


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """``value`` as an integer.

    :raises UsageError: unless it is a whole number, 1e5 among them, in [``low``, ``high``]
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value != int(value) or value < low or (high is not None and value > high):
        allowed = f">= {low}" if high is None else f"in [{low}, {high}]"
        raise UsageError(f"{name}={value!r} must be a whole number {allowed}")
    return int(value)
