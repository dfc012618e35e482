"""Our algorithms, for tests that go through all of them."""

import pytest

import sb3_trpo
from sb3_trpo.zoo.algorithms import ALGORITHMS, OURS

MISSING: list[str] = []
MISSING = [algo for algo in OURS if not hasattr(sb3_trpo, ALGORITHMS[algo].partition(":")[2])]  # until all are written


def if_there(algo: str, *values: object):
    """Parameters of a test of ``algo``, skipped while there is no such class."""
    return pytest.param(algo, *values, marks=pytest.mark.skipif(algo in MISSING, reason=f"{algo} is not written yet"))


EACH = [if_there(algo) for algo in OURS]
needs_all = pytest.mark.skipif(bool(MISSING), reason=f"not written yet: {', '.join(MISSING)}")
