"""Hypothesis strategies: spaces, policies, arguments in and out of range, environments, and models made of them."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn, optim

from sb3_trpo import TRPO, MaskableRecurrentTRPO, MaskableTRPO, RecurrentTRPO
from sb3_trpo.algorithms.masks import option_counts
from tests.envs import Masked

ALGORITHMS = [TRPO, MaskableTRPO, RecurrentTRPO, MaskableRecurrentTRPO]
WITH_MASKS, WITH_MEMORY = {MaskableTRPO, MaskableRecurrentTRPO}, {RecurrentTRPO, MaskableRecurrentTRPO}
FLOATS, INTEGERS = [np.float32, np.float64], [np.uint8, np.int16, np.int64]
NAN, INF = float("nan"), float("inf")


class Erratic(gym.Env):
    """Episodes that terminate, are truncated, or both, at random; and an error where one is asked for.

    :param odds: of terminating and of truncating at a step
    :param error: raised once, by step number ``error_at``, or by the first reset at or after it if ``in_reset``
    """

    n_calls = 0
    """Of reset and step, by all environments."""

    def __init__(self, action_space, observation_space, odds=(0.1, 0.1), scale=1.0):
        self.action_space, self.observation_space = action_space, observation_space
        self.odds, self.scale = odds, scale
        self.error, self.error_at, self.in_reset = None, 0, False
        self.n_steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        Erratic.n_calls += 1
        if self.in_reset:
            self._fail()
        return self.observation_space.sample(), {}

    def step(self, action):
        Erratic.n_calls += 1
        self.n_steps += 1
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        if not self.in_reset:
            self._fail()
        terminated, truncated = (bool(self.np_random.random() < odds) for odds in self.odds)
        reward = self.scale * (float(np.sum(action)) + self.np_random.normal())
        return self.observation_space.sample(), reward, terminated, truncated, {}

    def _fail(self):
        if self.error is not None and self.n_steps >= self.error_at:
            error, self.error = self.error, None
            raise error


@dataclass
class Case:
    """All that a model is made of; the same model is made any number of times."""

    algorithm: type
    action_space: spaces.Space
    observation_space: spaces.Space
    n_envs: int
    odds: tuple[float, float]
    scale: float
    policy_kwargs: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)

    def make(self, **changes):
        """The model, and its environments without wrappers."""
        envs = [
            Erratic(self.action_space, copy.deepcopy(self.observation_space), self.odds, self.scale)
            for _ in range(self.n_envs)
        ]
        masks = self.algorithm in WITH_MASKS
        wrapped = [Masked(env, option_counts(env.action_space)) if masks else env for env in envs]
        policy = "MultiInput" if isinstance(self.observation_space, spaces.Dict) else "Mlp"
        policy += "LstmPolicy" if self.algorithm in WITH_MEMORY else "Policy"
        arguments = {**self.arguments, "policy_kwargs": {**self.policy_kwargs}, "device": "cpu", **changes}
        env = DummyVecEnv([lambda env=env: env for env in wrapped])
        return self.algorithm(policy, env, **arguments), envs

    @property
    def n_steps(self):
        return self.arguments["n_steps"] * self.n_envs


shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)


@st.composite
def boxes(draw):
    """Observations in an array."""
    shape, dtype = draw(shapes), draw(st.sampled_from(FLOATS + INTEGERS))
    if dtype in FLOATS:
        low, high = draw(st.sampled_from([(-1.0, 1.0), (-3.0, 5.0), (0.0, 100.0), (-INF, INF), (0.0, INF)]))
    else:
        low, high = draw(st.sampled_from([(0, 1), (0, 127), (3, 7)]))  # up to 255 it would be an image, and too small
    return spaces.Box(low, high, shape, dtype)


sizes = st.lists(st.integers(1, 3), min_size=1, max_size=3)
simple_observations = st.one_of(
    boxes(),
    st.integers(1, 5).map(spaces.Discrete),
    sizes.map(spaces.MultiDiscrete),
    st.integers(1, 4).map(spaces.MultiBinary),
)
observation_spaces = st.one_of(
    simple_observations,
    st.dictionaries(st.sampled_from(["a", "b", "c"]), simple_observations, min_size=1, max_size=3).map(spaces.Dict),
)
discrete_actions = st.one_of(
    st.integers(1, 4).map(spaces.Discrete),
    sizes.map(spaces.MultiDiscrete),
    st.integers(1, 3).map(spaces.MultiBinary),
)


@st.composite
def box_actions(draw):
    """Continuous actions with bounds of any kind."""
    low, high = draw(st.sampled_from([(-1.0, 1.0), (0.0, 1.0), (-2.0, 10.0), (1e-3, 2e-3)]))
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple))
    return spaces.Box(low, high, shape, draw(st.sampled_from(FLOATS)))


layers = st.lists(st.integers(1, 6), max_size=2)


@st.composite
def policies(draw, algorithm, action_space):
    """``policy_kwargs``, ``use_sde`` and ``sde_sample_freq`` that the algorithm takes for these actions."""
    policy = {
        "net_arch": draw(st.one_of(layers, st.fixed_dictionaries({"pi": layers, "vf": layers}))),
        "activation_fn": draw(st.sampled_from([nn.Tanh, nn.ReLU, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.Softplus])),
        "ortho_init": draw(st.booleans()),
        "optimizer_class": draw(st.sampled_from([optim.Adam, optim.SGD, optim.RMSprop])),
    }
    arguments = {}
    if draw(st.booleans()):
        policy["share_features_extractor"] = draw(st.booleans())
    if algorithm in WITH_MEMORY:
        policy |= {"lstm_hidden_size": draw(st.integers(1, 4)), "n_lstm_layers": draw(st.integers(1, 2))}
        memory = draw(st.sampled_from(["own", "shared", "none"]))
        policy |= {"shared_lstm": memory == "shared", "enable_critic_lstm": memory == "own"}
        if memory == "shared":
            policy["share_features_extractor"] = True
    if isinstance(action_space, spaces.Box):
        policy["log_std_init"] = draw(st.floats(-3.0, 1.0))
        if draw(st.booleans()):
            arguments = {"use_sde": True, "sde_sample_freq": draw(st.sampled_from([-1, 1, 4]))}
            policy |= {"full_std": draw(st.booleans()), "use_expln": draw(st.booleans())}
            policy["squash_output"] = draw(st.booleans())
    return policy, arguments


def schedules(low, high):
    """Numbers, and lines between two of them."""
    numbers = st.floats(low, high)
    return st.one_of(numbers, st.builds(LinearSchedule, numbers, numbers, st.floats(0.1, 1.0)))


@st.composite
def arguments_in_range(draw, n_envs, algorithm):
    """Arguments of the constructor, any of them at its bounds."""
    n_steps = draw(st.integers(1, 8))
    normalize = n_steps * n_envs >= 2 and draw(st.booleans())
    radius, radius_kwargs = draw(
        st.sampled_from([("fixed", None), ("scheduled", {"final_factor": 0.5}), ("adaptive", {"max_factor": 2.0})])
    )
    critic, critic_kwargs = draw(
        st.sampled_from([("minibatch", None), ("minibatch", {"holdout": 0.2}), ("gauss_newton", None)])
    )
    return {
        "learning_rate": draw(schedules(0.0, 0.1)),
        "n_steps": n_steps,
        "batch_size": draw(st.integers(1, 32)),
        "gamma": draw(st.floats(0.0, 1.0)),
        "cg_max_steps": draw(st.integers(1, 12)),
        "cg_damping": draw(schedules(0.0, 1.0)),
        "line_search_shrinking_factor": draw(st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)),
        "line_search_max_iter": draw(st.integers(1, 10)),
        "n_critic_updates": draw(st.integers(0, 3)),
        "gae_lambda": draw(st.floats(0.0, 1.0)),
        "normalize_advantage": normalize,
        "target_kl": draw(schedules(1e-5, 10.0)),
        "sub_sampling_factor": draw(st.integers(1, n_steps * n_envs)),
        "cg_tolerance": draw(st.floats(0.0, 1.0, exclude_max=True)),
        "radius": radius,
        "radius_kwargs": radius_kwargs,
        "critic": critic,
        "critic_kwargs": critic_kwargs,
        "max_grad_norm": draw(st.one_of(st.none(), st.floats(1e-3, 10.0))),
        "fast_rollout": draw(st.booleans()),
        "cg_preconditioner": draw(st.sampled_from([None, "kronecker"])),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


@st.composite
def cases(draw, algorithms=ALGORITHMS):
    """Everything that makes a model, in range."""
    algorithm, n_envs = draw(st.sampled_from(algorithms)), draw(st.integers(1, 3))
    actions = discrete_actions if algorithm in WITH_MASKS else st.one_of(discrete_actions, box_actions())
    action_space, observation_space = draw(actions), draw(observation_spaces)
    policy_kwargs, exploration = draw(policies(algorithm, action_space))
    arguments = {**draw(arguments_in_range(n_envs, algorithm)), **exploration}
    if policy_kwargs.get("squash_output") and algorithm in WITH_MEMORY:
        arguments["fast_rollout"] = True  # the other loop is refused
    if isinstance(action_space, spaces.Box) and not arguments.get("use_sde"):
        arguments["action_noise"] = draw(st.sampled_from([None, "white", "colored", "pink", "ou"]))
    odds = draw(st.tuples(*[st.sampled_from([0.0, 0.1, 0.5, 1.0])] * 2))
    scale = draw(st.sampled_from([0.0, 1.0, 1e-6, 1e6]))
    return Case(algorithm, action_space, observation_space, n_envs, odds, scale, policy_kwargs, arguments)


no_numbers = [None, "0.5", [], {}, NAN, INF, -INF]
fractions = st.one_of(
    st.floats(max_value=0.0, exclude_max=True, allow_nan=False), st.floats(min_value=1.0, exclude_min=True)
)
negative = st.floats(max_value=0.0, exclude_max=True, allow_nan=False)
broken = st.floats(0.01, 100.0).filter(lambda x: x != math.floor(x))


def _integers_below(low):
    return st.one_of(st.integers(max_value=low - 1), broken, st.sampled_from([*no_numbers, True]))


def _numbers(strategy):
    return st.one_of(strategy, st.sampled_from([*no_numbers, True]))


def _bad_schedules(positive):
    wrong = negative.map(lambda x: LinearSchedule(x, x, 1.0))
    return st.one_of(_numbers(negative), wrong, st.just(0.0)) if positive else st.one_of(_numbers(negative), wrong)


BAD_ARGUMENTS = {
    "learning_rate": _bad_schedules(False),
    "n_steps": _integers_below(1),
    "batch_size": _integers_below(1),
    "gamma": _numbers(fractions),
    "cg_max_steps": _integers_below(1),
    "cg_damping": _bad_schedules(False),
    "line_search_shrinking_factor": _numbers(st.one_of(fractions, st.sampled_from([0.0, 1.0]))),
    "line_search_max_iter": _integers_below(1),
    "n_critic_updates": _integers_below(0),
    "gae_lambda": _numbers(fractions),
    "sde_sample_freq": _integers_below(-1),
    "normalize_advantage": st.sampled_from([None, 1, "yes"]),
    "target_kl": _bad_schedules(True),
    "sub_sampling_factor": st.one_of(_integers_below(1), st.integers(min_value=25)),
    "cg_tolerance": _numbers(st.one_of(fractions, st.just(1.0))),
    "max_grad_norm": _numbers(st.one_of(negative, st.just(0.0))).filter(lambda value: value is not None),
    "radius": st.sampled_from(["round", None, 1.0, dict]),
    "radius_kwargs": st.sampled_from([{"nonsense": 1}, [1], "x"]),
    "critic": st.sampled_from(["best", None, 1.0, dict]),
    "critic_kwargs": st.sampled_from([{"nonsense": 1}, [1], "x"]),
    "action_noise": st.sampled_from(["brown", 1.0, dict]),
    "action_noise_kwargs": st.sampled_from([{"nonsense": 1}, [1], "x"]),
    "fast_rollout": st.sampled_from([None, 1, "yes"]),
    "cg_preconditioner": st.sampled_from(["jacobi", 1]),
    "seed": st.one_of(st.integers(max_value=-1), st.sampled_from([1.5, "0", True])),
    "policy_kwargs": st.sampled_from([{"nonsense": 1}, {"activation_fn": "tanh"}, {"net_arch": "large"}, [1]]),
    "stats_window_size": _integers_below(1),
}
bad_arguments = st.sampled_from(sorted(BAD_ARGUMENTS)).flatmap(
    lambda name: st.tuples(st.just(name), BAD_ARGUMENTS[name])
)
