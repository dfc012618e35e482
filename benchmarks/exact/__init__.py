"""Problems whose answers are known, on which an estimator is held against what it estimates.

    LinearQuadratic     linear dynamics, quadratic costs, a linear-Gaussian policy         linear_quadratic.py
    Tabular             a few states and actions, a softmax policy                         tabular.py

Both are an `ExactProblem` (problem.py): a policy of `sb3_trpo.core.problem` that knows its own return, gradient, Fisher
matrix, values and advantages, and samples episodes. A plain update on ten of them:

    problem, generator = Tabular.random(seed=0), th.Generator().manual_seed(0)
    episodes = problem.sample(10, generator).with_monte_carlo_advantages()
    natural_step(constrained_problem(problem, batches_of(episodes)), radius=0.01, ...)
    problem.exact_return(), problem.optimal_return()
"""

from benchmarks.exact.linear_quadratic import LinearQuadratic
from benchmarks.exact.problem import Episodes, ExactProblem, batches_of
from benchmarks.exact.tabular import Tabular

__all__ = ["Episodes", "ExactProblem", "LinearQuadratic", "Tabular", "batches_of"]
