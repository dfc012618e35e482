"""When something is due that is done at multiples of a number of steps."""


def has_passed_multiple(freq: int, last: int, now: int) -> bool:
    """Whether a multiple of ``freq`` steps lies after the step ``last`` and not after ``now``; of 0 none does."""
    return freq > 0 and now // freq > last // freq
