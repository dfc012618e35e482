r"""Gradient tracking by the Hessian: what the step between two policies did to the gradient, to first order.

.. math:: y_t = g_t(\theta_t) + (1 - a)\,\bigl(y_{t-1} + B_t v - g_t(\theta_t)\bigr), \qquad
          v = \theta_t - \theta_{t-1}

The recursion of `sb3_trpo.extensions.gradient_tracking` with ``g_t(theta_t) - B_t v`` for the previous policy's
gradient, B_t an estimate of the Hessian of the return. Where the actions of a policy lead depends on it as well, and
its derivative is that of the probability of all that was done,

.. math:: B v = \sum_n w_n \rho_n A_n \bigl(\nabla^2 \log \pi_n \, v + \nabla \log \pi_n \, S_n\bigr), \qquad
          S_n = \sum_{k \sim n} \rho_k \, v^T \nabla \log \pi(a_k | s_k)

over the steps k of the same stretch of experience as n, with the ratios rho of the present policy to the one that
acted, which are one unless rollouts are used again. For whole episodes of actions drawn independently, and advantages
that are rewards and a baseline, it is unbiased. What is left out otherwise: the part of S from outside of the stretch,
for S is noisy in proportion to its length and stretches are cut (see `sb3_trpo.algorithms.experience.STRETCH`); how the
values that advantages bootstrap from depend on the policy; and what is beyond a truncation, ``|S_n - S_nn| <= c - 1``.

Computed without a second derivative, as the central difference

.. math:: B v = \tfrac12 \bigl(\hat g(v) - \hat g(-v)\bigr), \qquad
          \hat g(v) = \nabla_\theta \sum_n w_n \rho_n(\theta) (1 + S_n - S_{nn}) A_n \Big|_{\theta = \theta_t + v}

of the surrogate's gradient, in which ``rho_n``, up to c as well, stands for the step's own share S_nn of the sum.
Errors are of third order in v.

Source: NPG-HM (Feng, Wei, Chen 2024, arXiv 2401.01084), after HARPG (Fatkhullin et al. 2023, arXiv 2302.01734) and the
estimate of Shen et al. 2019. Differs from them: B is estimated at theta_t on the rollout that is there, not at a random
point of the way from theta_{t-1} on one of its own, an error of second order in the step; stretches and truncation.
"""

from dataclasses import dataclass, replace

import torch as th
from torch import Tensor

from sb3_trpo.core.parameters import elsewhere, flatten
from sb3_trpo.core.problem import Sample, TrustRegionProblem
from sb3_trpo.extensions.gradient_tracking import GradientTracking, gradient_at


@dataclass
class HessianAidedTracking(GradientTracking):
    """The estimate ``y_t`` in place of the batch's gradient, carried by Hessian-vector products.

    Where it is not known which steps are of one stretch, as with rollout buffers of one's own, B is the Hessian of the
    surrogate, which does not know of the states that the policy leads to.

    :param weight: a in (0, 1], the part of the fresh gradient
    :param truncation: c >= 1; the factor 1 + S_n - S_nn of a step stays within [2 - c, c]. With a radius of 0.01 and
        stretches of 64 steps S has a standard deviation of one, and a third of the steps have a truncated sum: it takes
        more noise from the product than it adds to its error.
    :raises ValueError: for numbers outside
    """

    def earlier_gradient(self, previous: Tensor, fresh: Tensor, problem: TrustRegionProblem, sample: Sample) -> Tensor:
        """``g_t(theta_t) - B_t v`` (P,)."""
        here = flatten(problem.parameters)
        v = here - previous
        limit = self.truncation - 1.0
        others = [sums.clamp(-limit, limit) for sums in sums_over_others(self._shares(v, problem, sample), sample)]

        def gradient(sign: float) -> Tensor:
            objectives = [
                replace(batch.objective, advantages=(1.0 + sign * S) * batch.objective.advantages)
                for batch, S in zip(sample.batches, others, strict=True)
            ]
            truncated = [objective.truncated(self.truncation) for objective in objectives]
            return gradient_at(here + sign * v, problem, sample, truncated)

        return fresh - (gradient(1.0) - gradient(-1.0)) / 2.0

    def _shares(self, v: Tensor, problem: TrustRegionProblem, sample: Sample) -> list[Tensor]:
        """``rho_k v^T grad log pi_k`` (N,) of each batch, by central differences; zero for steps of weight zero."""
        here = flatten(problem.parameters)
        ahead, behind = (log_probabilities(here + way, problem, sample) for way in (v, -v))
        shares = []
        for batch, after, before in zip(sample.batches, ahead, behind, strict=True):
            ratio = th.exp((after + before) / 2.0 - batch.objective.old_log_prob).clamp(max=self.truncation)
            shares.append((ratio * (after - before) / 2.0).where(batch.weights > 0, 0.0))
        return shares


@th.no_grad()
def log_probabilities(parameters: Tensor, problem: TrustRegionProblem, sample: Sample) -> list[Tensor]:
    """Of the actions of each batch, (N,), at ``parameters`` (P,); the problem's own are then as before."""
    with elsewhere(problem.parameters, parameters):
        return [
            sample.policy.distribution(batch.observations).log_prob(batch.objective.actions) for batch in sample.batches
        ]


def sums_over_others(values: list[Tensor], sample: Sample) -> list[Tensor]:
    """For each step the sum of what the others of its stretch have, (N,) for each batch; a stretch may be in several.

    Zero where a batch has no stretches.
    """
    clusters = [batch.clusters for batch in sample.batches if batch.clusters is not None]
    if len(clusters) < len(sample.batches):
        return [th.zeros_like(value) for value in values]
    joined = th.cat(values).double()
    names, index = th.unique(th.cat(clusters), return_inverse=True)
    sums = joined.new_zeros(len(names)).index_add_(0, index, joined)
    return [others.to(values[0]) for others in th.split(sums[index] - joined, [len(value) for value in values])]
