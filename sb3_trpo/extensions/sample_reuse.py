r"""Sample reuse: the last M rollouts in one update, in a region that keeps the guarantee of improvement.

.. math:: \max_\pi \; \sum_{i<M} \nu_i \, E_{\pi_{k-i}}\Bigl[\frac{\pi}{\pi_{k-i}} A^{\pi_k}\Bigr]
          \quad\text{s.t.}\quad E\bigl[D(\pi_k \| \pi)\bigr] \le \delta_g

The surrogate objective of states that an older policy visited is off by what that policy and the new one differ in, in
total variation: at most by that of i + 1 steps of eps each, since every update since then made one (the triangle
inequality). With uniform weights nu_i = 1 / M those are sum_i nu_i (i + 1) = (M + 1) / 2 steps on average; for the
penalty of a single rollout's update, each step must be shorter by that factor,

.. math:: \epsilon_g = \frac{2}{M + 1}\,\epsilon, \qquad \delta_g = \Bigl(\frac{2}{M + 1}\Bigr)^2 \delta,

for delta = eps^2 / 2 bounds a total variation of eps / 2 (Pinsker). The region is that small from the first update on,
whose steps the later ones rest on; a delta that falls during training leaves steps of the larger one among the last M.
In return M times the data are behind each step: with rollouts of a M-th of the length, updates are M times as many at
the same variance.

Source: Queeney, Paschalidis, Cassandras 2022, Generalized policy improvement algorithms with theoretically supported
sample reuse (arXiv 2206.13714), of which this is GeTRPO with uniform weights. Differs from it: the region is not varied
with the total variation that was realised. What is kept aside for a test of the step (`held_out`, `confidence`) may be
of rollouts that were learned from before.
"""


def reuse_factor(reuse: int) -> float:
    """``(2 / (M + 1))^2`` for M rollouts in an update."""
    return (2.0 / (reuse + 1)) ** 2
