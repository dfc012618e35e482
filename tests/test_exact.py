"""Oracles for the oracles of `benchmarks.exact`: enumeration, finite sums that integrate quadratics exactly, sampling.

A sampled mean is held against its expectation in standard errors of independent episodes or batches, at fixed seeds:
5 of them are allowed. Each such test also asks for a standard error small enough that a wrong answer would be seen.
"""

import itertools
import math

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, vmap
from torch.testing import assert_close

from benchmarks.exact import LinearQuadratic, Tabular, batches_of
from benchmarks.exact.linear_quadratic import Model as Regulator
from benchmarks.exact.tabular import Model as Process
from sb3_trpo.core.advantages import generalized_advantages
from sb3_trpo.core.natural_step import natural_step
from sb3_trpo.core.parameters import assign, flatten
from sb3_trpo.core.problem import States, constrained_problem
from tests import oracles

PROBLEMS = [LinearQuadratic, Tabular]
PLAIN = {"radius": 0.01, "damping": 1e-3, "cg_max_steps": 10, "cg_tolerance": 1e-6}
LINE_SEARCH = {"shrinking_factor": 0.8, "max_candidates": 10}
N_SIGMA = 5.0


def seeded(seed):
    return th.Generator().manual_seed(seed)


def normal(generator, *shape):
    return th.randn(*shape, dtype=th.float64, generator=generator)


def moved(cls, seed=0, distance=0.3, **sizes):
    """A random problem whose policy is not the one it begins with."""
    problem = cls.random(seed, **sizes)
    theta = flatten(problem.parameters)
    assign(problem.parameters, theta + distance * normal(seeded(seed + 1), len(theta)))
    return problem


@st.composite
def problems(draw, classes=tuple(PROBLEMS)):
    return moved(
        draw(st.sampled_from(classes)),
        seed=draw(st.integers(0, 10_000)),
        n_states=draw(st.integers(1, 4)),
        n_actions=draw(st.integers(1, 3)),
        horizon=draw(st.integers(1, 6)),
        discount=draw(st.sampled_from([1.0, 0.9, 0.3])),
    )


def within_errors(samples, expected, resolution):
    """Whether the mean of independent ``samples`` (M, ...) is ``expected``, known to ``resolution`` of its norm."""
    error = samples.std(0) / len(samples) ** 0.5
    assert th.linalg.vector_norm(error) < resolution * th.linalg.vector_norm(expected), "too few samples to tell"
    assert ((samples.mean(0) - expected).abs() <= N_SIGMA * error + 1e-12).all()


def gradient_of(problem, episodes):
    return constrained_problem(problem, batches_of(episodes)).gradient


def by_episode(problem, column):
    return column.view(-1, problem.horizon, *column.shape[1:])


def sigma_points(factor):
    """2n points of equal weight with mean zero and covariance ``L L^T``: they integrate quadratics exactly."""
    root = len(factor) ** 0.5 * factor.mT
    return th.cat([root, -root])


# --- return ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("cls", PROBLEMS)
def test_the_return_is_the_mean_of_what_episodes_get(cls, discount):
    problem = moved(cls, seed=1, discount=discount)
    episodes = problem.sample(5000, seeded(0))
    returns = (by_episode(problem, episodes.rewards) * problem.discounts).sum(1)
    assert_close(by_episode(problem, episodes.returns)[:, 0], returns)
    within_errors(returns, th.tensor(problem.exact_return(), dtype=th.float64), resolution=0.03)


def trajectories(problem):
    """All courses of an episode of a `Tabular`: probability in the graph of the logits, and mean return."""
    process, log_pi = problem.model, problem.logits.log_softmax(-1)
    pairs = list(itertools.product(range(len(process.start)), range(process.rewards.shape[1])))
    for course in itertools.product(pairs, repeat=problem.horizon):
        probability = process.start[course[0][0]]
        for (s, a), (after, _) in itertools.pairwise(course):
            probability = probability * process.transitions[s, a, after]
        log_prob = sum(log_pi[s, a] for s, a in course)
        value = sum(problem.discount**t * process.rewards[s, a] for t, (s, a) in enumerate(course))
        yield probability * log_prob.exp(), value


@pytest.mark.parametrize("discount", [1.0, 0.5])
def test_return_and_gradient_are_those_of_all_courses_of_an_episode(discount):
    problem = moved(Tabular, n_states=2, n_actions=2, horizon=3, discount=discount)
    probabilities, values = map(th.stack, zip(*trajectories(problem), strict=True))
    assert len(values) == 64
    assert float(probabilities.detach().sum()) == pytest.approx(1.0)
    total = (probabilities * values).sum()
    assert problem.exact_return() == pytest.approx(float(total.detach()), rel=1e-12)
    assert_close(problem.exact_gradient(), th.autograd.grad(total, problem.logits)[0].flatten())


def test_the_return_of_a_scalar_regulator_by_hand():
    """x' = 2 x + u, r = -(x^2 + 3 u^2), u = -x + e: S_0 = 4, S_1 = 4 + 1/4 + 1 and costs of (1 + 3) S + 3/4 a step."""
    one = th.ones(1, 1, dtype=th.float64)
    problem = LinearQuadratic(Regulator(2 * one, one, one, 3 * one, noise=one, start=2 * one), horizon=2, discount=0.5)
    assign(problem.parameters, th.tensor([-1.0, math.log(0.5)], dtype=th.float64))
    assert problem.exact_return() == pytest.approx(-((4 * 4 + 0.75) + 0.5 * (4 * 5.25 + 0.75)))
    # E_0 = M_0 K + 0.5 * P_1 * 2 with P_1 = 4 and M_0 = 3 + 0.5 * 4; E_1 = -3, M_1 = 3
    assert_close(problem.exact_gradient()[0], th.tensor(-2 * (-1.0 * 4 + 0.5 * -3 * 5.25), dtype=th.float64))
    assert_close(problem.exact_gradient()[1], th.tensor(-2 * (5 + 0.5 * 3) * 0.25, dtype=th.float64))


@given(problems())
@settings(max_examples=40, deadline=None)
def test_the_return_is_the_value_of_the_first_states(problem):
    """Forwards by moments or occupancies, backwards by values: the two must meet."""
    if isinstance(problem, Tabular):
        states, weights = th.arange(len(problem.model.start)), problem.model.start
    else:
        states = sigma_points(problem.model.start)
        weights = th.full((len(states),), 1 / len(states), dtype=th.float64)
    values = problem.exact_values(states, th.zeros(len(states), dtype=th.long))
    assert problem.exact_return() == pytest.approx(float(weights @ values), rel=1e-9, abs=1e-9)


# --- gradient -------------------------------------------------------------------------------------------------------


@given(problems())
@settings(max_examples=40, deadline=None)
def test_the_gradient_is_the_derivative_of_the_return(problem):
    """The policy gradient theorem against the graph of another formula, and against differences of its values."""
    leaves = [p.detach().clone().requires_grad_() for p in problem.parameters]
    by_graph = flatten(th.autograd.grad(problem.return_of(*leaves), leaves))
    exact = problem.exact_gradient()
    assert_close(exact, by_graph, rtol=1e-8, atol=1e-8 * (1 + float(by_graph.abs().max())))

    theta, h, differences = flatten(problem.parameters), 1e-5, []
    for unit in th.eye(len(theta), dtype=th.float64):
        returns = []
        for sign in (1.0, -1.0):
            assign(problem.parameters, theta + sign * h * unit)
            returns.append(problem.exact_return())
        differences.append((returns[0] - returns[1]) / (2 * h))
    assert_close(exact, th.tensor(differences, dtype=th.float64), rtol=1e-4, atol=1e-6 * (1 + float(exact.abs().max())))


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("monte_carlo", [False, True], ids=["exact", "monte carlo"])
@pytest.mark.parametrize("cls", PROBLEMS)
def test_the_surrogate_of_few_episodes_has_the_policy_gradient_for_its_mean(cls, monte_carlo, discount):
    """No bias for any number of episodes: the mean over batches of ten is the gradient of J over Gamma."""
    problem = moved(cls, seed=5, discount=discount, horizon=10)
    batches = problem.sample(4000, seeded(0)).split(10)
    gradients = [
        gradient_of(problem, batch.with_monte_carlo_advantages() if monte_carlo else batch) for batch in batches
    ]
    assert problem.effective_horizon == pytest.approx(10.0 if discount == 1.0 else (1 - 0.9**10) / 0.1)
    within_errors(th.stack(gradients), problem.exact_gradient() / problem.effective_horizon, resolution=0.15)


@pytest.mark.parametrize("cls", PROBLEMS)
def test_monte_carlo_advantages_are_those_of_gae_with_lambda_one_and_noisier_than_exact_ones(cls):
    problem = cls.random(0, discount=0.9)
    episodes = problem.sample(10, seeded(0))
    rewards, values, starts = (
        by_episode(problem, x).T.numpy() for x in (episodes.rewards, episodes.values, episodes.episode_starts)
    )
    expected = generalized_advantages(rewards, values, starts, np.zeros(10), np.ones(10), 0.9, 1.0)
    noisy = episodes.with_monte_carlo_advantages()
    assert_close(by_episode(problem, noisy.advantages).T, th.as_tensor(expected.copy()))
    exact = problem.exact_gradient() / problem.effective_horizon
    samples = problem.sample(200, seeded(1)).split(10)
    errors = [
        sum(float((gradient_of(problem, sample) - exact).square().sum()) for sample in kind)
        for kind in (samples, [sample.with_monte_carlo_advantages() for sample in samples])
    ]
    assert errors[1] > 1.5 * errors[0]


# --- values and advantages ------------------------------------------------------------------------------------------


def expectation_over_actions(problem, states, times, function):
    """``E_a f(s, a)`` (N,), exact for the functions here."""
    if isinstance(problem, Tabular):
        options = range(problem.logits.shape[1])
        pi = problem.logits.detach().softmax(-1)[states]
        return sum(pi[:, a] * function(states, th.full_like(states, a), times) for a in options)
    points = sigma_points(th.diag(problem.log_std.detach().exp()))
    mean = states @ problem.gain.detach().mT
    return sum(function(states, mean + point, times) for point in points) / len(points)


def by_bellman(problem, states, actions, times):
    """``r(s, a) + gamma E V_{t+1}(s')`` (N,), exact."""
    if isinstance(problem, Tabular):
        process, everywhere = problem.model, th.arange(len(problem.model.start))
        after = th.stack([problem.exact_values(everywhere, th.full_like(everywhere, t + 1)) for t in times.tolist()])
        return process.rewards[states, actions] + problem.discount * (process.transitions[states, actions] * after).sum(
            -1
        )
    A, B, Q, R, L, _ = problem.model
    means, points = states @ A.mT + actions @ B.mT, sigma_points(L)
    after = sum(problem.exact_values(means + point, times + 1) for point in points) / len(points)
    reward = -((states @ Q) * states).sum(-1) - ((actions @ R) * actions).sum(-1)
    return reward + problem.discount * after


@given(problems())
@settings(max_examples=40, deadline=None)
def test_advantages_and_values_keep_bellmans_equation(problem):
    episodes = problem.sample(5, seeded(0))
    states, times = episodes.observations, episodes.times
    backup = by_bellman(problem, states, episodes.actions, times)
    scale = 1e-9 * (1 + float(backup.abs().max()))
    assert_close(episodes.values + episodes.advantages, backup, rtol=1e-9, atol=scale)
    mean = expectation_over_actions(problem, states, times, lambda *row: by_bellman(problem, *row))
    assert_close(episodes.values, mean, rtol=1e-9, atol=scale)
    nothing = expectation_over_actions(problem, states, times, problem.exact_advantages)
    assert_close(nothing, th.zeros_like(nothing), rtol=0, atol=scale)
    end = th.full_like(times, problem.horizon)
    assert th.equal(problem.exact_values(states, end), th.zeros_like(episodes.values))


@pytest.mark.parametrize("cls", PROBLEMS)
def test_values_and_advantages_are_those_of_the_policy_as_it_stands(cls):
    """Of steps that another policy took, as sample reuse wants them."""
    problem, other = moved(cls), moved(cls)
    assign(other.parameters, 0.5 * flatten(other.parameters))
    theirs = other.sample(3, seeded(0))
    rows = (theirs.observations, theirs.actions, theirs.times)
    values = problem.exact_values(theirs.observations, theirs.times)
    assert not th.allclose(values, theirs.values)
    assert_close(values + problem.exact_advantages(*rows), by_bellman(problem, *rows))


# --- Fisher matrix --------------------------------------------------------------------------------------------------


@given(problems())
@settings(max_examples=40, deadline=None)
def test_the_fisher_matrix_is_the_package_s_over_all_states(problem):
    """States with the weights of the exact distribution, so that products of `core.fisher` have no sampling error."""
    if isinstance(problem, Tabular):
        states = th.arange(len(problem.model.start))
        weights = problem.discounts @ occupancies(problem) / problem.effective_horizon
    else:
        moment = problem.discounts @ second_moments(problem).flatten(1) / problem.effective_horizon
        n = problem.model.A.shape[0]
        states = sigma_points(th.linalg.cholesky(moment.view(n, n)))
        weights = th.full((len(states),), 1 / len(states), dtype=th.float64)
    product = constrained_problem(
        problem, batches_of(problem.sample(1, seeded(0))), [States(states, weights)]
    ).fisher_vector_product
    exact = problem.exact_fisher()
    assert_close(dense(product, len(exact)), exact, rtol=1e-9, atol=1e-9 * float(1 + exact.abs().max()))


def dense(product, size):
    return th.stack([product(unit) for unit in th.eye(size, dtype=th.float64)], 1)


def scores(problem, episodes):
    """``nabla log pi(a|s)`` (N, P) of each step, from the density as a textbook writes it."""

    def categorical(logits, state, action):
        cells = th.arange(logits.numel()).view_as(logits)
        return th.where(cells == state * logits.shape[1] + action, logits.log_softmax(-1), 0.0).sum()

    def gaussian(gain, log_std, state, action):
        z = (action - gain @ state) / log_std.exp()
        return (-0.5 * z.square() - log_std).sum()

    one = categorical if isinstance(problem, Tabular) else gaussian
    parameters, count = [p.detach() for p in problem.parameters], len(problem.parameters)
    gradient = grad(one, argnums=tuple(range(count)))
    rows = vmap(gradient, (None,) * count + (0, 0))(*parameters, episodes.observations, episodes.actions)
    return th.cat([row.flatten(1) for row in rows], 1)


def occupancies(problem):
    """d_t by powers of the transition matrix."""
    pi = problem.logits.detach().softmax(-1)
    matrix = (pi.unsqueeze(-1) * problem.model.transitions).sum(1)
    return th.stack([problem.model.start @ th.linalg.matrix_power(matrix, t) for t in range(problem.horizon)])


def second_moments(problem):
    """S_t as a sum over the shocks that came before."""
    A, B, _, _, L, L_0 = problem.model
    closed, std = A + B @ problem.gain.detach(), problem.log_std.detach().exp()

    def carried(shock, steps):
        root = th.linalg.matrix_power(closed, steps) @ shock
        return root @ root.mT

    return th.stack(
        [
            carried(L_0, t) + sum((carried(L, k) + carried(B * std, k) for k in range(t)), th.zeros_like(A))
            for t in range(problem.horizon)
        ]
    )


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("cls", PROBLEMS)
def test_the_fisher_matrix_is_the_covariance_of_the_score_and_the_mean_of_those_of_few_episodes(cls, discount):
    problem = moved(cls, seed=2, n_states=3, n_actions=2, horizon=8, discount=discount)
    exact = problem.exact_fisher()
    episodes = problem.sample(2000, seeded(0))
    each = scores(problem, episodes)
    shares = (2000 * episodes.weights).view(-1, 1, 1)
    products = by_episode(problem, shares * each.unsqueeze(2) * each.unsqueeze(1)).sum(1)
    within_errors(products, exact, resolution=0.1)

    matrices = [
        dense(constrained_problem(problem, batches_of(batch)).fisher_vector_product, len(exact))
        for batch in problem.sample(400, seeded(1)).split(2)
    ]
    within_errors(th.stack(matrices), exact, resolution=0.1)


# --- episodes -------------------------------------------------------------------------------------------------------


@given(problems(), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_episodes_are_whole_and_say_where_they_begin(problem, n_episodes, seed):
    episodes = problem.sample(n_episodes, seeded(seed))
    horizon, n = problem.horizon, n_episodes * problem.horizon
    assert {len(column) for column in episodes} == {n}
    assert float(episodes.weights.sum()) == pytest.approx(1.0)
    for row in range(n):
        episode, t = divmod(row, horizon)
        assert (int(episodes.clusters[row]), int(episodes.times[row])) == (episode, t)
        assert bool(episodes.episode_starts[row]) == (t == 0)
        assert float(episodes.weights[row]) == pytest.approx(
            problem.discount**t / sum(problem.discount**k for k in range(horizon)) / n_episodes
        )
        rest = episodes.rewards[row : (episode + 1) * horizon]
        expected = sum(problem.discount**k * float(reward) for k, reward in enumerate(rest))
        assert float(episodes.returns[row]) == pytest.approx(expected, abs=1e-9)
        if t + 1 < horizon:
            assert th.equal(episodes.next_observations[row], episodes.observations[row + 1])
    assert all(th.equal(a, b) for a, b in zip(episodes, problem.sample(n_episodes, seeded(seed)), strict=True))
    assert not th.equal(episodes.rewards, problem.sample(n_episodes, seeded(seed + 1)).rewards)


@given(problems(), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_split_sample_is_several_samples(problem, n_batches, n_episodes):
    whole, rows = problem.sample(n_batches * n_episodes, seeded(0)), n_episodes * problem.horizon
    pieces, one = whole.split(n_episodes), problem.sample(n_episodes, seeded(1))
    assert len(pieces) == n_batches
    for k, piece in enumerate(pieces):
        assert_close(piece.weights, one.weights)
        assert th.equal(piece.times, one.times)
        assert th.equal(piece.clusters, one.clusters)
        for name in {*whole._fields} - {"weights", "times", "clusters"}:
            assert th.equal(getattr(piece, name), getattr(whole, name)[k * rows : (k + 1) * rows])
    with pytest.raises(ValueError, match=f"n_episodes={n_batches * n_episodes + 1} must divide"):
        whole.split(n_batches * n_episodes + 1)


@pytest.mark.parametrize("cls", PROBLEMS)
def test_log_probabilities_are_torchs_own_and_the_policy_is_a_snapshot(cls):
    problem = moved(cls)
    episodes = problem.sample(20, seeded(0))
    distribution = problem.distribution(episodes.observations)
    kind = "categorical" if cls is Tabular else "gaussian"
    parts = oracles.components(kind, distribution.parameters, getattr(distribution, "sizes", ()))
    assert_close(episodes.log_prob, oracles.joint_log_prob(parts, episodes.actions.view(len(episodes.actions), -1)))
    linearization = problem.linearize(episodes.observations)
    assign(problem.parameters, flatten(problem.parameters) + 1.0 + th.arange(len(problem.exact_gradient())))
    for old in (distribution, linearization.distribution):
        assert th.equal(old.log_prob(episodes.actions), episodes.log_prob)
    assert not th.allclose(problem.distribution(episodes.observations).log_prob(episodes.actions), episodes.log_prob)


@pytest.mark.parametrize("cls", PROBLEMS)
def test_what_makes_no_episode_is_refused(cls):
    with pytest.raises(ValueError, match="horizon=0"):
        cls.random(0, horizon=0)
    for discount in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match=f"discount={discount}"):
            cls.random(0, discount=discount)
    with pytest.raises(ValueError, match="n_episodes=0"):
        cls.random(0).sample(0, seeded(0))


# --- learning -------------------------------------------------------------------------------------------------------


@given(problems())
@settings(max_examples=40, deadline=None)
def test_no_policy_is_better_than_the_optimum(problem):
    assert problem.exact_return() <= problem.optimal_return() + 1e-9


@pytest.mark.parametrize("discount", [1.0, 0.5])
def test_the_optimum_of_a_process_is_the_best_of_all_plans(discount):
    """All deterministic policies that see the time."""
    tabular = Tabular.random(1, n_states=2, n_actions=2, horizon=3, discount=discount)
    transitions, rewards, start, _ = tabular.model
    rows, best = th.arange(2), -math.inf
    for plan in itertools.product(itertools.product(range(2), repeat=2), repeat=3):
        distribution, total = start, 0.0
        for t, choice in enumerate(plan):
            total += discount**t * float(distribution @ rewards[rows, list(choice)])
            distribution = distribution @ transitions[rows, list(choice)]
        best = max(best, total)
    assert tabular.optimal_return() == pytest.approx(best)


@pytest.mark.parametrize("discount", [1.0, 0.5])
def test_the_optimum_of_a_regulator_is_that_of_each_shock_by_itself(discount):
    """Certainty equivalence: from each shock on, all actions are one least-squares problem."""
    regulator = LinearQuadratic.random(1, n_states=3, horizon=4, discount=discount)
    L, L_0 = regulator.model.noise, regulator.model.start
    cost = th.trace(L_0.mT @ least_cost(regulator, 4) @ L_0)
    for t in range(1, 4):
        cost = cost + discount**t * th.trace(L.mT @ least_cost(regulator, 4 - t) @ L)
    assert regulator.optimal_return() == pytest.approx(-float(cost))


def least_cost(regulator, steps):
    """C (n, n): ``x^T C x`` is the least cost of ``steps`` steps from x without noise, all actions chosen at once."""
    A, B, Q, R, _, _ = regulator.model
    powers = [th.linalg.matrix_power(A, k) for k in range(steps)]
    free = th.cat(powers)
    forced = th.cat(
        [th.cat([powers[k - 1 - j] @ B if j < k else th.zeros_like(B) for j in range(steps)], 1) for k in range(steps)]
    )
    discounts = th.diag(regulator.discount ** th.arange(steps, dtype=th.float64))
    Q, R = th.kron(discounts, Q), th.kron(discounts, R)
    cross = forced.mT @ Q @ free
    return free.mT @ Q @ free - cross.mT @ th.linalg.solve(forced.mT @ Q @ forced + R, cross)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cls", PROBLEMS)
def test_fifty_plain_updates_on_ten_episodes_improve_the_exact_return(cls, seed):
    problem, generator = cls.random(seed), seeded(seed)
    start, optimum, gradients = problem.exact_return(), problem.optimal_return(), []
    for _ in range(50):
        pose = constrained_problem(problem, batches_of(problem.sample(10, generator).with_monte_carlo_advantages()))
        gradients.append(float(th.cosine_similarity(pose.gradient, problem.exact_gradient(), dim=0)))
        natural_step(pose, **PLAIN, **LINE_SEARCH)
    assert (problem.exact_return() - start) / (optimum - start) > 0.5
    assert 0.1 < sum(gradients) / 50 < 0.8, "batches of ten are to be noisy, and to be worth something"


@pytest.mark.parametrize("cls", PROBLEMS)
def test_a_small_step_improves_the_exact_return_by_what_the_exact_gradient_foretells(cls):
    """One large batch: the step of the package against exact gradient and Fisher matrix, solved densely."""
    problem = moved(cls, seed=4)
    gradient, fisher = problem.exact_gradient(), problem.exact_fisher()
    damped = fisher + 1e-3 * th.eye(len(fisher), dtype=th.float64)
    x = th.linalg.solve(damped, gradient)
    expected = (2 * 1e-6 / (x @ damped @ x)).sqrt() * x
    theta, before = flatten(problem.parameters), problem.exact_return()
    pose = constrained_problem(problem, batches_of(problem.sample(20_000, seeded(0))))
    step = natural_step(pose, **{**PLAIN, "radius": 1e-6, "cg_max_steps": 50, "cg_tolerance": 1e-10}, **LINE_SEARCH)
    taken = (flatten(problem.parameters) - theta) / step.fraction
    assert_close(taken, expected, rtol=0, atol=0.15 * float(expected.norm()))
    assert problem.exact_return() - before == pytest.approx(step.fraction * float(gradient @ taken), rel=0.02)


def test_a_process_without_noise_of_rewards_gets_its_mean_rewards():
    tabular = Tabular.random(0)
    plain = Tabular(Process(*tabular.model[:3], reward_std=0.0), horizon=20)
    episodes = plain.sample(10, seeded(0))
    assert th.equal(episodes.rewards, tabular.model.rewards[episodes.observations, episodes.actions])
    assert plain.exact_return() == tabular.exact_return()
