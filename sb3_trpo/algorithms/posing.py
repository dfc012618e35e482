"""From experience to the constrained problem of an update."""

from typing import NamedTuple

import numpy as np
import torch as th

from sb3_trpo.algorithms.actor import Actor
from sb3_trpo.algorithms.experience import Experience
from sb3_trpo.core.problem import Sample, States, SurrogateBatch, TrustRegionProblem, constrained_problem
from sb3_trpo.core.surrogate import Surrogate, mean_entropy, standardize
from sb3_trpo.extensions.entropy import entropy_coefficient


class Terms(NamedTuple):
    """What the user wants of the problem.

    ``normalize_advantage`` standardises the advantages; every ``sub_sampling_factor``-th unit enters the Fisher
    estimate; ``holdout`` is the part of the experience that is kept aside; the entropy has a ``bonus`` and a ``floor``.
    """

    normalize_advantage: bool
    sub_sampling_factor: int
    holdout: float
    entropy_bonus: float
    entropy_floor: float | None


class Posed(NamedTuple):
    """The problem, and the experience behind it."""

    problem: TrustRegionProblem
    sample: Sample


def pose(actor: Actor, experience: Experience, terms: Terms) -> Posed:
    """The surrogate objective and trust region of one rollout; only the Fisher estimate is sub-sampled."""
    scale = 1.0
    if terms.normalize_advantage:
        advantages, scale = standardize(experience.advantages, experience.weights)
        experience = experience._replace(advantages=advantages)
    coefficient = _entropy_coefficient(actor, experience, terms)
    learned, held_out = _split(experience, terms.holdout)

    def batches_of(part: Experience, units: list[slice]) -> list[SurrogateBatch]:
        return [_batch(part, some, coefficient) for some in units]

    batches = batches_of(learned, learned.steps.batches(actor.bytes_per_row))
    sample = Sample(
        actor,
        batches,
        [] if held_out is None else batches_of(held_out, held_out.steps.batches(actor.bytes_per_row)),
        lambda count: batches_of(learned, learned.steps.cut(count)),
        scale,
    )
    return Posed(constrained_problem(actor, batches, _fisher_states(actor, learned, terms.sub_sampling_factor)), sample)


def _batch(experience: Experience, units: slice, entropy_coefficient: float) -> SurrogateBatch:
    rows = experience.steps.rows(units)
    weights, clusters = experience.weights[rows], experience.clusters
    surrogate = Surrogate(
        experience.actions[rows],
        experience.old_log_prob[rows],
        experience.advantages[rows],
        weights,
        entropy_coefficient,
    )
    return SurrogateBatch(
        experience.steps.take(units), weights, surrogate, None if clusters is None else clusters[rows]
    )


def _fisher_states(actor: Actor, experience: Experience, every: int) -> list[States] | None:
    """Every how manyeth unit, at random: a stride may meet a period. None for all."""
    if every == 1:
        return None
    steps = experience.steps
    order = np.random.permutation(steps.n_units)  # noqa: NPY002
    thinned = experience.part(th.as_tensor(np.sort(order[::every])))
    return [States(part, thinned.weights[rows]) for rows, part in thinned.steps.parts(actor.bytes_per_row)]


def _split(experience: Experience, fraction: float) -> tuple[Experience, Experience | None]:
    """What is learned from, and what is kept aside: units drawn at random, by whole stretches.

    Units of at least two stretches are kept where that leaves some to learn from: one says nothing of its error.
    """
    if fraction == 0.0:
        return experience, None
    steps = experience.steps
    clusters = experience.clusters
    stretch_of = np.arange(steps.n_units) if clusters is None else clusters[steps.first_rows].cpu().numpy()
    stretches, index, sizes = np.unique(stretch_of, return_inverse=True, return_counts=True)
    if len(stretches) < 2:
        return experience, None
    order = np.random.permutation(len(stretches))  # noqa: NPY002
    count = int(np.searchsorted(np.cumsum(sizes[order]), fraction * sizes.sum())) + 1

    def parted(count: int) -> tuple[Experience, Experience]:
        is_kept = np.isin(index, order[:count])
        learned, kept = (th.as_tensor(np.flatnonzero(chosen)) for chosen in (~is_kept, is_kept))
        return experience.part(learned), experience.part(kept)

    most = len(stretches) - 1
    learned, kept = parted(min(count, most))
    has_error = len(kept.advantages) > 1 if kept.clusters is None else len(np.unique(kept.clusters.cpu())) > 1
    return (learned, kept) if has_error or count >= most else parted(count + 1)


def _entropy_coefficient(actor: Actor, experience: Experience, terms: Terms) -> float:
    entropy = 0.0
    if terms.entropy_floor is not None:
        for rows, steps in experience.steps.parts(actor.bytes_per_row):
            entropy += float(mean_entropy(actor.distribution(steps), experience.weights[rows]))
    return entropy_coefficient(terms.entropy_bonus, terms.entropy_floor, entropy)
