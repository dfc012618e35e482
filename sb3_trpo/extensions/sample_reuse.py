r"""Sample reuse: the last M rollouts in one update, in a region that keeps the guarantee of improvement.

.. math:: \max_\pi \; \sum_{i<M} \nu_i \, E_{\pi_{k-i}}\Bigl[\frac{\pi}{\pi_{k-i}} A^{\pi_k}\Bigr]
          \quad\text{s.t.}\quad E\bigl[D(\pi_k \| \pi)\bigr] \le \delta_k

The surrogate objective of states that an older policy visited is off by what that policy and the new one differ in. The
guarantee is that of an update from a single rollout, in a region of delta = eps^2 / 2, as long as the new policy is on
average no further from those that acted than one such update may go, which is eps / 2 in total variation (Pinsker):

.. math:: \sum_{i<M} \nu_i \, E\bigl[TV(\pi_{k-i}, \pi)\bigr] \le \frac{\epsilon}{2} = \sqrt{\delta / 2}

By the triangle inequality that is at most what the present policy has drifted already, and the step. The weights are
uniform, nu_i = 1 / M, or one over the number of rollouts while there are fewer. In return M times the data are behind
each step: with rollouts of an M-th of the length, updates are M times as many at the same variance.

Source: Queeney, Paschalidis, Cassandras 2022, Generalized policy improvement algorithms with theoretically supported
sample reuse (arXiv 2206.13714), of which this is GeTRPO with uniform weights. Their code estimates the drift by
E|pi_k / pi - 1| / 2, half of which comes from actions that became likelier and are seldom among those taken; and its
adaptive region is whole while there is but one rollout. What is kept aside for a test of the step (`held_out`,
`confidence`) may be of rollouts that were learned from before.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sb3_trpo.core.activations import Array


def total_variation(ratios: Array) -> float:
    r"""Estimate of :math:`E[TV(\pi, \pi_k)] = E_\pi[\max(1 - \pi_k / \pi, 0)]`, in [0, 1].

    :param ratios: pi_k / pi of the actions that pi took
    """
    return 1.0 - float(np.mean(np.minimum(ratios, 1.0), dtype=np.float64))


class ReuseBound(Protocol):
    """The slot: anything with this method says how much of the region is left where rollouts are used again."""

    def within(self, radius: float, reuse: int, n_rollouts: int, drift: float) -> float:
        r"""Radius delta_k of an update from reused rollouts that has the guarantee of ``radius`` = delta.

        There are ``n_rollouts`` so far of the ``reuse`` = M > 1 that are wanted. ``drift`` is the mean total variation
        :math:`\sum_i \nu_i E[TV(\pi_{k-i}, \pi_k)]`, in [0, 1], between the policies that acted and the present one.
        """


@dataclass
class FixedBound:
    r"""As if every update went as far as it may: the policy i updates ago is i + 1 steps of eps_k from the new one.

    .. math:: \frac1M \sum_{i<M} (i + 1) \, \epsilon_k \le \epsilon, \qquad
              \delta_k = \Bigl(\frac{2}{M + 1}\Bigr)^2 \delta

    The region is that small from the first update on, whose steps the later ones rest on; a delta that falls during
    training leaves steps of the larger one among the last M.
    """

    def within(self, radius: float, reuse: int, n_rollouts: int, drift: float) -> float:
        """Whatever the ``drift``."""
        return radius * (2.0 / (reuse + 1)) ** 2


@dataclass
class AdaptiveBound:
    r"""What the drift that was realised leaves:

    .. math:: \delta_k = \tfrac12 \epsilon_k^2, \qquad
              \epsilon_k = \max\Bigl(\epsilon - 2 \sum_{i<M} \nu_i E\bigl[TV(\pi_{k-i}, \pi_k)\bigr], \, 0\Bigr)

    Steps are longer than the fixed bound's where those before were shorter than they might have been, were refused, or
    went back and forth, and because Pinsker's bound on them is not tight. None is made while nothing is left. The fixed
    bound holds until M rollouts are there: before, there is not the data for longer steps.
    """

    def within(self, radius: float, reuse: int, n_rollouts: int, drift: float) -> float:
        """Zero where the ``drift`` is all that is allowed, or is no number."""
        if n_rollouts < reuse:
            return FixedBound().within(radius, reuse, n_rollouts, drift)
        return max(0.0, math.sqrt(radius) - math.sqrt(2.0) * drift) ** 2
