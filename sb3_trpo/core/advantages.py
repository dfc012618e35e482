r"""Generalised advantage estimation, of the policy that acted or of another.

.. math:: \delta_t = r_t + \gamma \, c_t V(s_{t+1}) - V(s_t), \qquad
          A_t = \delta_t + \gamma \lambda \, c_t \bar\rho_{t+1} A_{t+1}

``c_t`` is 0 where an episode ends with step t and 1 elsewhere. ``rho-bar`` is 1 for the policy that acted (Schulman et
al. 2016, arXiv 1506.02438, equation 16). For another one it is its truncated probability ratio min(1, pi / mu), and
``V(s_t) + rho-bar_t A_t`` the V-trace target of Espeholt et al. 2018 (arXiv 1802.01561, equation 1 and remark 2, with
their rho-bar = c-bar = 1): what follows counts less, the less likely the policy would have come there. A_t itself has
no ratio for its own action, which the surrogate objective brings. Everything but the recursion itself is computed for
all steps at once.
"""

from itertools import accumulate
from typing import Any

import numpy as np

from sb3_trpo.core.activations import Array


def generalized_advantages(
    rewards: Array,
    values: Array,
    episode_starts: Array,
    last_values: Array,
    last_dones: Array,
    gamma: float,
    gae_lambda: float,
    truncated_ratios: Array | None = None,
) -> Array:
    """Advantages (T, E) of T steps in E environments.

    :param rewards: (T, E)
    :param values: V(s_t), (T, E)
    :param episode_starts: whether s_t is the first of its episode, (T, E)
    :param last_values: V(s_T), (E,)
    :param last_dones: whether the last step ended an episode, (E,)
    :param truncated_ratios: rho-bar (T, E); None for the policy that acted
    """
    continues = 1.0 - np.concatenate([episode_starts[1:], last_dones[None].astype(episode_starts.dtype)])
    next_values = np.concatenate([values[1:], last_values[None]])
    deltas = rewards + gamma * next_values * continues - values
    discounts = gamma * gae_lambda * continues
    if truncated_ratios is not None:
        discounts[:-1] *= truncated_ratios[1:]

    def backwards(rows: Array) -> Any:
        # one environment: Python's numbers are faster than arrays of one element
        return rows[::-1, 0].tolist() if rows.shape[1] == 1 else rows[::-1]

    pairs = zip(backwards(deltas), backwards(discounts), strict=True)
    recursion = accumulate(pairs, lambda after, now: now[0] + now[1] * after, initial=0.0)
    next(recursion)
    return np.array(list(recursion), dtype=deltas.dtype).reshape(deltas.shape)[::-1]
