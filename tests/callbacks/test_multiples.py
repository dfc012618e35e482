"""Something is done at the first occasion at or after each multiple."""

from hypothesis import given
from hypothesis import strategies as st

from sb3_trpo.callbacks.multiples import has_passed_multiple

steps = st.integers(0, 200)


@given(st.integers(0, 50), steps, steps)
def test_a_multiple_is_passed_where_one_can_be_found(freq, last, now):
    found = any(step % freq == 0 for step in range(last + 1, now + 1)) if freq else False
    assert has_passed_multiple(freq, last, now) == found
