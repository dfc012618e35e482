"""One small model of every kind that the package supports."""

from functools import partial

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_trpo import TRPO, MaskableRecurrentTRPO, MaskableTRPO, RecurrentTRPO
from sb3_trpo.algorithms.masks import option_counts
from sb3_trpo.algorithms.policies import MlpPolicy
from tests.envs import Contextual, Masked, Walk

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICT = spaces.Dict({"image": IMAGE, "vector": spaces.Box(-1.0, 1.0, (2,), np.float32), "choice": spaces.Discrete(3)})


class BetaDistribution(DiagGaussianDistribution):
    """A distribution the package has never heard of, with torch's own KL: actions in (0, 1)."""

    def proba_distribution_net(self, latent_dim, log_std_init=0.0):
        return nn.Linear(latent_dim, 2 * self.action_dim), nn.Parameter(th.zeros(0))

    def proba_distribution(self, mean_actions, log_std):
        a, b = nn.functional.softplus(mean_actions).chunk(2, -1)
        self.distribution = th.distributions.Beta(1.0 + a, 1.0 + b)
        return self

    def log_prob(self, actions):
        return self.distribution.log_prob(actions.clamp(1e-6, 1 - 1e-6)).sum(1)

    def sample(self):
        return self.distribution.sample()


class BetaPolicy(ActorCriticPolicy):
    """A custom policy on a custom distribution."""

    def _build(self, lr_schedule):
        self.action_dist = BetaDistribution(self.action_space.shape[0])
        super()._build(lr_schedule)


class OpaqueCategorical(CategoricalDistribution):
    """A discrete distribution of a class that the package has never heard of."""


class OpaqueCategoricalPolicy(ActorCriticPolicy):
    """A custom policy on a custom discrete distribution."""

    def _build(self, lr_schedule):
        self.action_dist = OpaqueCategorical(int(self.action_space.n))
        super()._build(lr_schedule)


class MaskedPolicy(MlpPolicy):
    """Of all options only the first two are allowed."""

    def _get_action_dist_from_latent(self, latent_pi):
        logits = self.action_net(latent_pi)
        forbidden = th.arange(logits.shape[-1]) > 1
        return self.action_dist.proba_distribution(logits.masked_fill(forbidden, -th.inf))


class SquashedNormal(DiagGaussianDistribution):
    """Torch knows the KL of a transformed distribution, but not its entropy."""

    def proba_distribution(self, mean_actions, log_std):
        base = th.distributions.Independent(th.distributions.Normal(mean_actions, log_std.exp()), 1)
        self.distribution = th.distributions.TransformedDistribution(base, [th.distributions.SigmoidTransform()])
        return self

    def log_prob(self, actions):
        return self.distribution.log_prob(actions.clamp(1e-6, 1 - 1e-6))

    def entropy(self):
        return self.distribution.entropy()

    def mode(self):
        return self.distribution.base_dist.mean.sigmoid()


class SquashedNormalPolicy(ActorCriticPolicy):
    """A custom policy on a distribution without a closed-form entropy."""

    def _build(self, lr_schedule):
        self.action_dist = SquashedNormal(self.action_space.shape[0])
        self.log_std_init = -1.0
        super()._build(lr_schedule)

    def _get_action_dist_from_latent(self, latent_pi):
        return self.action_dist.proba_distribution(self.action_net(latent_pi), self.log_std)


class ResidualPolicy(MlpPolicy):
    """A custom policy whose actor has an extra layer, named as if it belonged to the value function."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.value_embed = nn.Linear(self.observation_space.shape[0], self.mlp_extractor.latent_dim_pi)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def get_distribution(self, obs):
        features = self.pi_features_extractor(obs.float())
        return self._get_action_dist_from_latent(
            self.mlp_extractor.forward_actor(features) + self.value_embed(features)
        )

    def forward(self, obs, deterministic=False):
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)


def unit_box(n):
    return spaces.Box(0.0, 1.0, (n,), np.float32)


# name: (action space, observation space, policy, further arguments)
KINDS = {
    "box": (spaces.Box(-1.0, 1.0, (3,), np.float32), BOX, "MlpPolicy", {}),
    "box_matrix": (spaces.Box(-1.0, 1.0, (2, 2), np.float32), BOX, "MlpPolicy", {}),
    "discrete": (spaces.Discrete(4), BOX, "MlpPolicy", {}),
    "multi_discrete": (spaces.MultiDiscrete([3, 2, 4]), BOX, "MlpPolicy", {}),
    "multi_binary": (spaces.MultiBinary(3), BOX, "MlpPolicy", {}),
    "discrete_observation": (spaces.Discrete(3), spaces.Discrete(5), "MlpPolicy", {}),
    "multi_discrete_observation": (spaces.Discrete(3), spaces.MultiDiscrete([3, 4]), "MlpPolicy", {}),
    "multi_binary_observation": (spaces.MultiBinary(2), spaces.MultiBinary(4), "MlpPolicy", {}),
    "box64": (spaces.Box(-1.0, 1.0, (3,), np.float64), spaces.Box(-1.0, 1.0, (3,), np.float64), "MlpPolicy", {}),
    "gsde": (spaces.Box(-1.0, 1.0, (2,), np.float32), BOX, "MlpPolicy", {"use_sde": True, "sde_sample_freq": 4}),
    "gsde_squashed": (
        spaces.Box(-1.0, 1.0, (2,), np.float32),
        BOX,
        "MlpPolicy",
        {"use_sde": True, "policy_kwargs": {"squash_output": True, "log_std_init": -1.0}},
    ),
    "gsde_small": (
        spaces.Box(-1.0, 1.0, (2,), np.float32),
        BOX,
        "MlpPolicy",
        {"use_sde": True, "policy_kwargs": {"full_std": False, "use_expln": True}},
    ),
    "relu": (spaces.Discrete(3), BOX, "MlpPolicy", {"policy_kwargs": {"activation_fn": nn.ReLU, "net_arch": [32, 32]}}),
    "linear": (spaces.Box(-1.0, 1.0, (2,), np.float32), BOX, "MlpPolicy", {"policy_kwargs": {"net_arch": []}}),
    "image": (spaces.Discrete(4), IMAGE, "CnnPolicy", {}),
    "image_shared": (spaces.Discrete(4), IMAGE, "CnnPolicy", {"policy_kwargs": {"share_features_extractor": True}}),
    "dict": (spaces.Box(-1.0, 1.0, (2,), np.float32), DICT, "MultiInputPolicy", {}),
    "dict_sub_sampled": (spaces.Discrete(3), DICT, "MultiInputPolicy", {"sub_sampling_factor": 3}),
    "beta": (unit_box(2), BOX, BetaPolicy, {}),
    "opaque_discrete": (spaces.Discrete(3), BOX, OpaqueCategoricalPolicy, {}),
    "masked": (spaces.Discrete(4), BOX, MaskedPolicy, {}),
    "no_entropy": (unit_box(2), BOX, SquashedNormalPolicy, {}),
    "custom_layer": (spaces.Box(-1.0, 1.0, (2,), np.float32), BOX, ResidualPolicy, {}),
}

LSTM = {"lstm_hidden_size": 8, "net_arch": [8]}
SHARED = {**LSTM, "shared_lstm": True, "enable_critic_lstm": False}

MASKED = {
    "masked_discrete": (spaces.Discrete(4), BOX, "MlpPolicy", {}),
    "masked_multi_discrete": (spaces.MultiDiscrete([3, 2, 4]), BOX, "MlpPolicy", {}),
    "masked_multi_binary": (spaces.MultiBinary(3), BOX, "MlpPolicy", {}),
    "masked_image": (spaces.Discrete(4), IMAGE, "CnnPolicy", {}),
    "masked_dict": (spaces.MultiDiscrete([3, 2]), DICT, "MultiInputPolicy", {}),
}
RECURRENT = {
    "lstm": (spaces.Discrete(4), BOX, "MlpLstmPolicy", {"policy_kwargs": LSTM}),
    "lstm_box": (spaces.Box(-1.0, 1.0, (2,), np.float32), BOX, "MlpLstmPolicy", {"policy_kwargs": LSTM}),
    "lstm_two_layers": (
        spaces.MultiBinary(3),
        BOX,
        "MlpLstmPolicy",
        {"policy_kwargs": {**LSTM, "n_lstm_layers": 2}, "sub_sampling_factor": 2},
    ),
    "lstm_shared": (spaces.Box(-1.0, 1.0, (2,), np.float32), BOX, "MlpLstmPolicy", {"policy_kwargs": SHARED}),
    "lstm_without_critic": (
        spaces.MultiDiscrete([3, 2]),
        BOX,
        "MlpLstmPolicy",
        {"policy_kwargs": {**LSTM, "enable_critic_lstm": False}},
    ),
    "lstm_gsde": (
        spaces.Box(-1.0, 1.0, (2,), np.float32),
        BOX,
        "MlpLstmPolicy",
        {"policy_kwargs": LSTM, "use_sde": True, "sde_sample_freq": 4},
    ),
    "lstm_image": (spaces.Discrete(4), IMAGE, "CnnLstmPolicy", {"policy_kwargs": LSTM}),
    "lstm_dict": (spaces.Discrete(3), DICT, "MultiInputLstmPolicy", {"policy_kwargs": LSTM}),
}
MASKED_RECURRENT = {
    "masked_lstm": (spaces.Discrete(4), BOX, "MlpLstmPolicy", {"policy_kwargs": LSTM}),
    "masked_lstm_multi_discrete": (spaces.MultiDiscrete([3, 2]), BOX, "MlpLstmPolicy", {"policy_kwargs": SHARED}),
    "masked_lstm_multi_binary": (spaces.MultiBinary(3), BOX, "MlpLstmPolicy", {"policy_kwargs": LSTM}),
}
FEEDFORWARD = list(KINDS)
KINDS = {**KINDS, **MASKED, **RECURRENT, **MASKED_RECURRENT}
WITH_MASKS, WITH_MEMORY = {*MASKED, *MASKED_RECURRENT}, {*RECURRENT, *MASKED_RECURRENT}
CLOSED_MEMORY = WITH_MEMORY - {"lstm_two_layers", "lstm_gsde", "lstm_image", "lstm_dict"}

SMALL_CNN = {"features_extractor_kwargs": {"features_dim": 16}}


def make_model(kind, **changes):
    """An untrained model; small enough for many updates a second."""
    action_space, observation_space, policy, kwargs = KINDS[kind]
    kwargs = {**kwargs, "policy_kwargs": dict(kwargs.get("policy_kwargs", {}))}
    if "image" in kind:
        kwargs["policy_kwargs"].update(SMALL_CNN)
    if "dict" in kind:
        kwargs["policy_kwargs"]["features_extractor_kwargs"] = {"cnn_output_dim": 16}
    settings = {"n_steps": 32, "batch_size": 16, "n_critic_updates": 2, "seed": 0, "device": "cpu", **kwargs, **changes}
    make_env = partial(Walk, length=6) if kind in WITH_MEMORY else Contextual
    env = DummyVecEnv([lambda: as_masked(kind, make_env(action_space, observation_space)) for _ in range(2)])
    return algorithm_of(kind)(policy, env, **settings)


def as_masked(kind, env):
    """The environment with masks, if the kind has some."""
    return Masked(env, option_counts(env.action_space)) if kind in WITH_MASKS else env


def algorithm_of(kind):
    """The class that trains it."""
    algorithms = {
        (False, False): TRPO,
        (True, False): MaskableTRPO,
        (False, True): RecurrentTRPO,
        (True, True): MaskableRecurrentTRPO,
    }
    return algorithms[kind in WITH_MASKS, kind in WITH_MEMORY]


def collect(model):
    """One rollout, as `learn` would collect it."""
    _, callback = model._setup_learn(10**6, reset_num_timesteps=False)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model


def play_back(policy, buffer):
    """The policy's own answers to a rollout, step by step, as sb3-contrib's loops would ask for them.

    ``buffer`` as it was after the rollout. Yields the distribution of each step, and its actions, advantages and old
    log-probabilities (E, ...).
    """
    memory = None
    if hasattr(buffer, "hidden_states_pi"):
        memory = tuple(th.as_tensor(states[0]) for states in (buffer.hidden_states_pi, buffer.cell_states_pi))
    for t in range(buffer.buffer_size):
        observations = buffer.observations
        is_dict = isinstance(observations, dict)
        obs = {k: th.as_tensor(v[t]) for k, v in observations.items()} if is_dict else th.as_tensor(observations[t])
        masks = {"action_masks": buffer.action_masks[t]} if hasattr(buffer, "action_masks") else {}
        if memory is None:
            distribution = policy.get_distribution(obs, **masks)
        else:
            starts = th.as_tensor(buffer.episode_starts[t], dtype=th.float32)
            distribution, memory = policy.get_distribution(obs, memory, starts, **masks)
        actions = th.as_tensor(buffer.actions[t]).float()
        if isinstance(buffer.action_space, spaces.Discrete):
            actions = actions.flatten()
        yield distribution, actions, th.as_tensor(buffer.advantages[t]), th.as_tensor(buffer.log_probs[t])
