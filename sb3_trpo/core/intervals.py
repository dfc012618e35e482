r"""How sure a weighted mean is, when what it is the mean of comes in clusters that depend on each other within.

.. math:: \mu = \sum_n x_n, \qquad
          s^2 = \frac{C}{C - 1} \sum_c \Bigl(\sum_{n \in c} x_n - W_c\, \mu\Bigr)^2, \qquad
          W_c = \sum_{n \in c} w_n

x_n are terms that already carry their weights w_n, which sum to one: mu is a ratio of sums over C clusters, whose
sizes are random, too, and s its linearised (cluster-robust) standard error (Cochran 1977, Sampling Techniques,
section 6.4 and chapter 9; Cameron & Miller 2015). With one cluster there is none.
"""

import math
from typing import NamedTuple

import torch as th
from torch import Tensor


class Estimate(NamedTuple):
    """A ``mean``, its ``standard_error`` (infinite when nothing is known of it), and from how many ``clusters``."""

    mean: float
    standard_error: float
    clusters: int


def clustered_mean(terms: Tensor, weights: Tensor, clusters: Tensor | None) -> Estimate:
    """The sum of ``terms`` (N,) and its standard error.

    :param terms: each with its weight in it
    :param weights: (N,), they sum to one
    :param clusters: (N,) integers, equal for steps that depend on each other; None when all are independent
    """
    terms, weights = terms.double(), weights.double()
    if clusters is None:
        sums, sizes = terms, weights
    else:
        names, index = th.unique(clusters, return_inverse=True)
        sums = terms.new_zeros(len(names)).index_add_(0, index, terms)
        sizes = terms.new_zeros(len(names)).index_add_(0, index, weights)
    count, mean = len(sums), float(sums.sum())
    if count < 2:
        return Estimate(mean, math.inf, count)
    variance = float((sums - sizes * mean).square().sum()) * count / (count - 1)
    return Estimate(mean, math.sqrt(variance), count)
