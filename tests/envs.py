"""Small environments whose spaces or optimum are known."""

import copy

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Contextual(gym.Env):
    """Episodes of one step: a random observation, any action space, a reward that prefers some actions.

    Box actions are rewarded for being near a linear function of the observation, discrete ones for the option that
    the sign pattern of the observation points at.
    """

    def __init__(self, action_space, observation_space=None):
        self.observation_space = observation_space or spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.action_space = action_space

    def _vector(self):
        values = self.obs.values() if isinstance(self.obs, dict) else [self.obs]
        return np.concatenate([np.asarray(v, np.float64).reshape(-1) for v in values])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.obs = self.observation_space.sample()
        return self.obs, {}

    def step(self, action):
        x = self._vector()
        action = np.atleast_1d(np.asarray(action, np.float64)).reshape(-1)
        if isinstance(self.action_space, spaces.Box):
            reward = -float(np.square(action - 0.5 * x[0]).mean())
        else:
            reward = float((action == (x[0] > np.median(x))).mean())
        return self.obs, reward, True, False, {}


class Probe(gym.Env):
    """A cue of -1 or +1, one action, one reward: +1 for the option the cue points at, 0 otherwise.

    With two options the optimal value is 1 in every state, and the optimal action is ``cue > 0``. Options above 1
    are a trap: they end the episode with -1.
    """

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, n_options=4):
        self.action_space = spaces.Discrete(n_options)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue = float(self.np_random.choice([-1.0, 1.0]))
        return np.array([self.cue], np.float32), {}

    def step(self, action):
        reward = -1.0 if action > 1 else float(action == (self.cue > 0))
        return np.array([self.cue], np.float32), reward, True, False, {}


class Dot(gym.Env):
    """An image with one bright square: the action that names its quadrant is rewarded. Episodes of ``length`` steps."""

    def __init__(self, size=36, length=8):
        self.size, self.length = size, length
        self.observation_space = spaces.Box(0, 255, (1, size, size), np.uint8)
        self.action_space = spaces.Discrete(4)

    def _image(self):
        self.quadrant = int(self.np_random.integers(4))
        half = self.size // 2
        row, column = (
            half * part + self.np_random.integers(half - 8) for part in (self.quadrant // 2, self.quadrant % 2)
        )
        image = np.zeros((1, self.size, self.size), np.uint8)
        image[0, row : row + 8, column : column + 8] = 255
        return image

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._image(), {}

    def step(self, action):
        reward = float(action == self.quadrant)
        self.t += 1
        return self._image(), reward, False, self.t >= self.length, {}


class Masked(gym.Wrapper):
    """Forbids options at random at every step, but always leaves one of each choice; taking a forbidden one raises."""

    def __init__(self, env, sizes):
        super().__init__(env)
        self.sizes = sizes

    def action_masks(self):
        return self.masks

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        self._forbid()
        return result

    def step(self, action):
        starts = np.cumsum([0, *self.sizes[:-1]])
        assert self.masks[starts + np.atleast_1d(action)].all(), "a forbidden option was taken"
        result = super().step(action)
        self._forbid()
        return result

    def _forbid(self):
        generator = self.unwrapped.np_random
        blocks = [generator.random(size) < 0.5 for size in self.sizes]
        for block in blocks:
            block[generator.integers(len(block))] = True
        self.masks = np.concatenate(blocks)


class Walk(gym.Env):
    """Random observations, actions that matter for the reward; episodes terminate by chance or end at ``length``.

    ``still``: every observation is the same.
    """

    endings = []  # noqa: RUF012  # the infos of all episodes that ended, of all environments

    def __init__(self, action_space, observation_space, length=8, still=False):
        self.action_space, self.observation_space = action_space, copy.deepcopy(observation_space)
        self.length, self.still = length, still
        self.total_steps = 0

    def _observation(self):
        shape, dtype = self.observation_space.shape, self.observation_space.dtype
        if dtype is None or not np.issubdtype(dtype, np.floating):
            return self.observation_space.sample()
        return np.zeros(shape, dtype) if self.still else self.np_random.uniform(-1, 1, shape).astype(dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self._observation(), {}

    def step(self, action):
        self.t += 1
        self.total_steps += 1
        reward = float(np.sum(action)) + self.np_random.normal()
        terminated = bool(not self.still and self.np_random.random() < 0.05)
        truncated = self.t >= self.length
        if terminated or truncated:
            self.endings.append({"TimeLimit.truncated": truncated and not terminated})
        return self._observation(), reward, terminated, truncated, {}
