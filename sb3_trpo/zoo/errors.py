"""Refusals: one sentence that quotes what was given and says what to do instead."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """What was asked for cannot be done; the command line prints the sentence and ends with exit code 2."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """``", did you mean 'target_kl'?"`` for a near miss, else the known names; empty when nothing is known."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    if near:
        return f", did you mean {near[0]!r}?"
    return f": choose from {', '.join(known)}" if known else ""
