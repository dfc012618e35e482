"""Problems of small cases with the experience behind them, as extensions get them."""

import torch as th

from sb3_trpo.core.natural_step import natural_step
from sb3_trpo.core.problem import Sample, SurrogateBatch, constrained_problem
from sb3_trpo.core.surrogate import Surrogate
from tests.core.cases import CasePolicy, make_case

SETTINGS = {"damping": 0.1, "cg_max_steps": 60, "cg_tolerance": 1e-12, "shrinking_factor": 0.8, "max_candidates": 15}


def case_of(kind="gaussian", seed=0, n=24):
    return make_case(kind, seed, n=n)


def actions_of(case, seed=0):
    """Drawn from the case's policy as it is now."""
    state = th.get_rng_state()
    th.manual_seed(seed)
    with th.no_grad():
        actions = th.stack([part.sample() for part in case.components()], 1).double()
    th.set_rng_state(state)
    return actions


def batch_of(case, rows, actions, advantages, clusters=None, old_log_prob=None, entropy_coefficient=0.0):
    """The rows ``rows`` of the case as a batch of their own: its weights sum to one."""
    weights = case.weights[rows] / case.weights[rows].sum()
    old_log_prob = case.old().log_prob(actions) if old_log_prob is None else old_log_prob
    surrogate = Surrogate(actions[rows], old_log_prob[rows], advantages[rows], weights, entropy_coefficient)
    return SurrogateBatch(rows, weights, surrogate, None if clusters is None else clusters[rows])


def sample_of(case, actions, advantages, held_out=None, clusters=None, scale=1.0, entropy_coefficient=0.0):
    """Everything in one batch, or all but the rows ``held_out``."""
    rows = th.arange(len(case.inputs))
    kept = rows[:0] if held_out is None else rows[held_out]
    learned = rows[~th.isin(rows, kept)]

    def part(of):
        return batch_of(case, of, actions, advantages, clusters, entropy_coefficient=entropy_coefficient)

    def pieces(count):
        whole = part(learned)
        cut = []
        for index in th.tensor_split(th.arange(len(learned)), count):
            objective = whole.objective
            columns = (objective.actions, objective.old_log_prob, objective.advantages, objective.weights)
            surrogate = Surrogate(*(column[index] for column in columns))
            cut.append(SurrogateBatch(learned[index], whole.weights[index], surrogate))
        return cut

    batches = [part(learned)]
    sample = Sample(CasePolicy(case), batches, [part(kept)] if len(kept) else [], pieces, scale)
    return constrained_problem(sample.policy, batches), sample


def step_on(problem, radius=0.01, **settings):
    return natural_step(problem, radius=radius, **{**SETTINGS, **settings})
