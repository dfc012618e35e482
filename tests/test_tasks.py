"""The tasks on which masks and memory are measured: spaces, masks by brute force, optima, and bounds without memory."""

import itertools
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

import benchmarks.tasks  # noqa: F401
from benchmarks.tasks.delayed_recall import DelayedRecall
from benchmarks.tasks.invalid_actions import (
    InvalidAction,
    InvalidActionsDiscrete,
    InvalidActionsMultiBinary,
    InvalidActionsMultiDiscrete,
)
from sb3_trpo.zoo.grid import read_grid
from sb3_trpo.zoo.hyperparams import read_entries, read_yaml

GRIDS = Path(__file__).parent.parent / "benchmarks" / "grids"
INVALID_ACTIONS = ["InvalidActionsDiscrete-v0", "InvalidActionsMultiDiscrete-v0", "InvalidActionsMultiBinary-v0"]
TASKS = [*INVALID_ACTIONS, "ConnectFour-v0", "DelayedRecall-v0"]


def make(task, **kwargs):
    if task == "ConnectFour-v0":
        pytest.importorskip("pettingzoo")
    return gym.make(task, **kwargs)


def valid_action(env, rng):
    """A random action that the masks of the task allow, if it has any."""
    masks = getattr(env.unwrapped, "action_masks", None)
    if masks is None:
        return env.action_space.sample()
    sizes = getattr(env.unwrapped, "_sizes", [7])
    parts = np.split(np.asarray(masks()), np.cumsum(sizes)[:-1])
    chosen = np.array([rng.choice(np.flatnonzero(part)) for part in parts])
    return int(chosen[0]) if isinstance(env.action_space, gym.spaces.Discrete) else chosen


def play(env, seed, steps=60):
    """What is seen of an environment whose actions are drawn with the same seed."""
    env.action_space.seed(seed)
    rng = np.random.default_rng(seed)
    seen = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(valid_action(env, rng))
        masks = getattr(env.unwrapped, "action_masks", list)()
        seen += [observation, reward, masks]
        if terminated or truncated:
            seen.append(env.reset()[0])
    return [np.asarray(item) for item in seen]


@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_and_sb3_accept_the_task(task):
    check_env(make(task).unwrapped, skip_render_check=True)
    check_env_of_sb3(make(task).unwrapped)


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_decides_the_episodes_whatever_the_global_generators(task):
    np.random.seed(1)  # noqa: NPY002
    first = play(make(task), seed=3)
    np.random.seed(2)  # noqa: NPY002
    again, other = play(make(task), seed=3), play(make(task), seed=4)
    assert len(first) == len(again)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=False))


# Invalid actions


@pytest.mark.parametrize("task", INVALID_ACTIONS)
def test_masks_are_those_of_sb3_contrib_and_leave_the_best_action(task):
    env = make(task).unwrapped
    theirs = next(cls for cls in type(env).__mro__ if cls.__module__.startswith("sb3_contrib"))
    env.reset(seed=0)
    for _ in range(50):
        masks = np.asarray(env.action_masks())
        assert np.array_equal(masks, theirs.action_masks(env))
        assert (~masks).sum() == env.n_invalid_actions
        assert all(masks[start + option] for start, option in zip(env._first, np.atleast_1d(env.state), strict=True))
        _, reward, _, _, info = env.step(env.state)
        assert reward == 1
    assert info["invalid_actions"] == 0


@pytest.mark.parametrize(
    "env",
    [
        InvalidActionsDiscrete(dim=7, n_invalid_actions=3),
        InvalidActionsMultiDiscrete(dims=[2, 4, 3], n_invalid_actions=4),
        InvalidActionsMultiBinary(dims=4, n_invalid_actions=2),
    ],
)
def test_every_action_with_an_invalid_option_is_counted_and_no_other(env):
    env.reset(seed=0)
    for options in itertools.product(*(range(size) for size in env._sizes)):
        masks = iter(env.action_masks())
        allowed = [list(itertools.islice(masks, int(size))) for size in env._sizes]
        is_valid = all(part[option] for part, option in zip(allowed, options, strict=True))
        before = env.taken
        _, _, _, _, info = env.step(options[0] if isinstance(env.action_space, gym.spaces.Discrete) else options)
        assert info["invalid_actions"] - before == (not is_valid)


@pytest.mark.parametrize("task", INVALID_ACTIONS)
def test_always_the_state_is_the_optimum(task):
    env = make(task, strict=True)
    state, _ = env.reset(seed=0)
    total, is_over = 0.0, False
    while not is_over:
        state, reward, _, is_over, _ = env.step(state)
        total += reward
    assert total == 100


def act_blindly(env, steps=100):
    for _ in range(steps):
        env.step(env.action_space.sample())


@pytest.mark.parametrize("task", INVALID_ACTIONS)
def test_a_strict_task_refuses_the_first_invalid_action(task):
    env = make(task, strict=True)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="invalid option"):
        act_blindly(env)


# Connect four


@pytest.fixture
def connect_four():
    return pytest.importorskip("benchmarks.tasks.connect_four", exc_type=ImportError)


def four_in_a_line(board, piece):
    """By the definition: four cells in a row, in one of four directions."""
    grid = np.asarray(board).reshape(6, 7) == piece
    turned = [grid, grid.T]
    straight = any(all(row[k : k + 4]) for g in turned for row in g for k in range(len(row) - 3))
    diagonals = [np.diagonal(g, k) for g in (grid, grid[:, ::-1]) for k in range(-5, 7)]
    return straight or any(all(line[k : k + 4]) for line in diagonals for k in range(len(line) - 3))


def planes(observation):
    """Our pieces and theirs, (6, 7) each."""
    return np.moveaxis(observation.reshape(6, 7, 2), 2, 0)


def test_there_are_69_lines_of_four(connect_four):
    lines = connect_four.lines_of_four()
    assert len({frozenset(line) for line in lines}) == len(lines) == 69


def test_the_completing_move_is_the_one_that_makes_four(connect_four):
    env, rng, found = connect_four.ConnectFour("random"), np.random.default_rng(0), 0
    for seed in range(30):
        env.reset(seed=seed)
        while not env._is_over:
            for column, piece in itertools.product(np.flatnonzero(env.action_masks()), (1, 2)):
                after = list(env.game.board)
                after[max(cell for cell in range(column, 42, 7) if not after[cell])] = piece
                completes = connect_four.completes_four(env.game.board, column, piece)
                assert completes == four_in_a_line(after, piece)
                found += completes
            env.step(rng.choice(np.flatnonzero(env.action_masks())))
    assert found > 30


def test_masks_rewards_and_ends_are_those_of_the_rules(connect_four):
    env, rng, rewards = connect_four.ConnectFour("random", strict=True), np.random.default_rng(0), []
    for seed in range(60):
        observation, _ = env.reset(seed=seed)
        assert planes(observation).sum((1, 2))[0] == 0
        assert observation.sum() <= 1
        is_over = False
        while not is_over:
            board = np.asarray(env.game.board).reshape(6, 7)
            assert np.array_equal(env.action_masks(), (board != 0).sum(0) < 6)
            observation, reward, is_over, _, _ = env.step(rng.choice(np.flatnonzero(env.action_masks())))
            we_won, they_won = (four_in_a_line(pieces, 1) for pieces in planes(observation))
            assert reward == we_won - they_won
            assert is_over == (we_won or they_won or observation.sum() == 42)
        rewards.append(reward)
    assert {1, -1} <= set(rewards)


def test_a_piece_into_a_full_column_loses_or_is_refused(connect_four):
    for strict in (False, True):
        env = connect_four.ConnectFour("random", strict=strict)
        env.reset(seed=0)
        env.game.board = [env.piece, *[0] * 6, *[env.their_piece, *[0] * 6] * 5]
        if strict:
            with pytest.raises(InvalidAction, match="column 0 is full"):
                env.step(0)
        else:
            assert env.step(0)[1:] == (-1.0, True, False, {"invalid_actions": 1})


@pytest.mark.parametrize(
    ("bottom", "answers"),
    [
        ("tt.t.uu", {2}),  # it can
        ("ttt.uuu", {3}),  # so can we: it wins
        ("uuu.t..", {3}),  # only we can: it stops us
        ("tttu.u.", set(range(7))),  # nobody can: at random
    ],
)
def test_the_tactical_opponent_wins_where_it_can_and_stops_us_where_it_must(connect_four, bottom, answers):
    env = connect_four.ConnectFour("tactical")
    env.reset(seed=0)
    pieces = {"t": env.their_piece, "u": env.piece, ".": 0}
    env.game.board = [0] * 35 + [pieces[sign] for sign in bottom]
    assert {env._answer() for _ in range(100)} == answers


def test_both_begin_half_of_the_games_and_the_tactical_opponent_is_the_stronger(connect_four):
    means = {}
    for opponent in connect_four.OPPONENTS:
        env, rng, returns, begun = connect_four.ConnectFour(opponent), np.random.default_rng(0), [], 0
        for seed in range(200):
            observation, _ = env.reset(seed=seed)
            begun += observation.sum() == 0
            is_over = False
            while not is_over:
                _, reward, is_over, _, _ = env.step(rng.choice(np.flatnonzero(env.action_masks())))
            returns.append(reward)
        assert 70 < begun < 130
        means[opponent] = np.mean(returns)
    assert abs(means["random"]) < 0.25
    assert means["tactical"] < -0.75


# Memory


def recall(env, n_episodes, policy):
    """Mean return of a policy that maps the observations of an episode so far to an action."""
    total = 0.0
    for seed in range(n_episodes):
        seen, is_over, steps = [env.reset(seed=seed)[0]], False, 0
        while not is_over:
            observation, reward, is_over, _, _ = env.step(policy(seen))
            seen.append(observation)
            total += reward
            steps += 1
        assert steps == env.unwrapped.delay + 2
    return total / n_episodes


@pytest.mark.parametrize(("n_symbols", "delay"), [(4, 10), (2, 0), (3, 1)])
def test_who_remembers_the_cue_recalls_it_always(n_symbols, delay):
    assert recall(DelayedRecall(n_symbols, delay), 50, lambda seen: int(np.argmax(seen[0][3:]))) == 1


def test_without_memory_no_policy_recalls_more_than_chance():
    """At recall only the symbol tells one observation from another: every policy is a map from symbols to actions."""
    n, episodes = 3, 400
    env = DelayedRecall(n_symbols=n, delay=2)
    for answers in itertools.product(range(n), repeat=n):
        mean = recall(env, episodes, lambda seen, answers=answers: answers[int(np.argmax(seen[-1][3:]))])
        assert mean == pytest.approx(1 / n, abs=4 * np.sqrt(1 / n * (1 - 1 / n) / episodes))


def test_the_phase_says_when_the_cue_is_shown_and_wanted():
    env = DelayedRecall(n_symbols=4, delay=3)
    phases = [env.reset(seed=0)[0][:3]] + [env.step(0)[0][:3] for _ in range(4)]
    assert np.argmax(phases, 1).tolist() == [0, 1, 1, 1, 2]


@pytest.mark.parametrize(("n_symbols", "delay"), [(1, 4), (4, -1)])
def test_delayed_recall_refuses_what_makes_no_task(n_symbols, delay):
    with pytest.raises(ValueError, match=f"n_symbols={n_symbols}.*delay={delay}"):
        DelayedRecall(n_symbols, delay)


def test_repeat_previous_has_the_optimum_and_the_bound_without_memory_that_are_stated():
    pytest.importorskip("popgym")
    env = gym.make("popgym-RepeatPreviousEasy-v0", disable_env_checker=True)
    returns = {"memory": [], "next suit": []}
    for name, policy in (
        ("memory", lambda seen: seen[-4] if len(seen) >= 4 else 0),
        ("next suit", lambda seen: (seen[-1] + 1) % 4),
    ):
        for seed in range(400):
            seen, is_over, total, steps = [env.reset(seed=seed)[0]], False, 0.0, 0
            while not is_over:
                observation, reward, is_over, _, _ = env.step(policy(seen))
                seen.append(observation)
                total, steps = total + reward, steps + 1
            assert steps == 51
            returns[name].append(total)
    assert np.allclose(returns["memory"], 1)
    assert np.mean(returns["next suit"]) == pytest.approx(2 * 13 / 51 - 1, abs=0.03)


# Grids


@pytest.mark.parametrize("name", ["masked", "memory"])
def test_contestants_of_a_grid_see_the_same_environments_and_discounts(name):
    pytest.importorskip("pettingzoo")
    pytest.importorskip("popgym")
    grid = read_grid(GRIDS / f"{name}.yml")
    for env in grid.environments:
        entries = [run.hyperparams for run in grid.runs if run.env == env]
        assert len({(entry["n_envs"], entry["gamma"], entry["gae_lambda"]) for entry in entries}) == 1


def test_only_the_contestants_with_masks_may_take_no_invalid_action():
    for file in ("masked_ppo.yml", "masked_trpo.yml"):
        assert all(entry["env_kwargs"] == {"strict": True} for entry in read_entries(GRIDS / file).values())
    contestants = read_yaml(GRIDS / "masked.yml")["contestants"]
    loose = [label for label, contestant in contestants.items() if "overrides" in contestant]
    assert [contestants[label]["algo"] for label in loose] == ["trpo"]
    assert contestants[loose[0]]["overrides"] == {"env_kwargs": {"strict": False}}
