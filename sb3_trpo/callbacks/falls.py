r"""Whether performance fell: a test between the returns of episodes before and after.

Welch's t test (1947) of the one-sided hypothesis that the mean return fell by no more than a margin m,

.. math:: t = \frac{\bar y - (\bar x - m)}{\sqrt{s_x^2 / n_x + s_y^2 / n_y}}, \qquad p = P(T_\nu \le t)

with the degrees of freedom :math:`\nu` of Welch and Satterthwaite. It is about the mean, which is what the policy is
trained for, and lets the variances differ, as they do when a policy collapses; the rank test of Mann and Whitney is
about which return is larger more often, and blind to a few disastrous episodes among good ones. Returns are not normal.
Where two equally good policies are compared on equally many episodes, the skew of their returns cancels in the
difference of the means, and p < alpha happens with a probability near alpha, or less (`tests/callbacks/test_falls.py`).

The margin is a share of what was gained over the first policy. Without it, the slightest fall would be significant
where environment and policy are deterministic, or episodes many. As it is a share of the gain, neither the unit of the
rewards nor a constant added to the returns makes a difference.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_ind_from_stats

Returns = NDArray[np.float64]


def p_value_of_fall(before: Returns, after: Returns, margin: float = 0.0) -> float:
    """p for returns ``before`` (n_x,) and ``after`` (n_y,), small where the mean fell by more than ``margin`` >= 0.

    Samples without any variance, as a deterministic environment gives them, are the means themselves: 0 if these are
    farther apart, 1 otherwise.
    """
    centre = before[0]  # exact zeros where all are the same
    scale = max(np.abs(before - centre).max(), np.abs(after - centre).max())
    if scale == 0.0:
        return 1.0
    before, after = (before - centre) / scale, (after - centre) / scale
    lowered, mean = before.mean() - margin / scale, after.mean()
    deviations = before.std(ddof=1), after.std(ddof=1)
    if not np.hypot(*deviations) > EXACT:
        return 0.0 if mean < lowered else 1.0
    result = ttest_ind_from_stats(
        mean, deviations[1], len(after), lowered, deviations[0], len(before), equal_var=False, alternative="less"
    )
    return float(result.pvalue)


EXACT = 1e-12
"""Standard deviation, for values of size one, that is nothing but rounding."""
