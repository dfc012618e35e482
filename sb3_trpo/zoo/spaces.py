"""Where to search for hyperparameters: one function per algorithm, for Optuna.

    def objective(trial):
        model = TRPO("MlpPolicy", "HalfCheetah-v5", **sample_trpo_params(trial, n_actions=6))
        model.learn(2e5)
        return evaluate_policy(model, model.get_env())[0]

`sample_trpo_params`, as those of the variants, has the signature of RL Zoo's samplers and gives constructor arguments;
`sample_environment` adds what belongs to the environment, and `start_params` is the way back: the point of the space at
which an entry lies.
Numbers have three significant digits, so that a file holds exactly what was tried.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.utils import LinearSchedule

from sb3_trpo.zoo.hyperparams import Hyperparams, model_arguments, plain

if TYPE_CHECKING:
    from optuna import Trial

NetArch = dict[str, list[int]]

NET_ARCHS: dict[str, NetArch] = {
    "small": {"pi": [64, 64], "vf": [64, 64]},
    "wide_critic": {"pi": [64, 64], "vf": [256, 256]},
    "medium": {"pi": [256, 256], "vf": [256, 256]},
}
"""Layers of actor and critic. A wider critic is what Andrychowicz et al. 2020 (arXiv 2006.05990) recommend."""

RECURRENT_NET_ARCHS: dict[str, NetArch] = {
    "linear": {"pi": [], "vf": []},
    "head": {"pi": [64], "vf": [64]},
    "small": NET_ARCHS["small"],
}
"""Layers between memory and output. RL Zoo's tuned entries have none or one: the memory is a layer itself."""

# Units of the memory. RL Zoo's tuned entries have 32 to 128, and 256 is the default of the policies. The cost of an
# update grows with the square, and few tasks have that much to remember.
LSTM_SIZES = [16, 32, 64, 128, 256]

CRITIC_MEMORIES: dict[str, dict[str, bool]] = {
    "own": {"enable_critic_lstm": True, "shared_lstm": False},
    "none": {"enable_critic_lstm": False, "shared_lstm": False},
    # A shared memory needs shared features.
    "shared": {"enable_critic_lstm": False, "shared_lstm": True, "share_features_extractor": True},
}
"""What the critic remembers by. A memory of its own sees most and costs most; none may do where the value hardly
depends on what is hidden; that of the actor costs nothing, but the critic cannot shape it."""

ACTIVATIONS = {"tanh": th.nn.Tanh, "relu": th.nn.ReLU}
# Minibatches of the critic: smaller ones cost time and noise, larger ones leave few steps in a rollout.
BATCH_SIZES = [64, 128, 256, 512]
N_ENVS = [1, 2, 4, 8, 16]

RANGES: dict[str, tuple[float, float]] = {
    # Steps of a rollout, as powers of 2: fewer give noisy Fisher estimates, more give few updates. 2048 is the custom.
    "rollout_pow": (9, 13),
    # Horizons of 10 to 10,000 steps: what matters first, says Andrychowicz et al. 2020.
    "one_minus_gamma": (1e-4, 0.1),
    # GAE's lambda from 0.8, which trusts the critic, to 0.995, which trusts the rewards (Schulman et al. 2016).
    "one_minus_gae_lambda": (5e-3, 0.2),
    # Joint KL in nats. Engstrom et al. 2020 (arXiv 2005.12729) tuned 0.04 to 0.13, the first paper took 0.01.
    "target_kl": (3e-3, 0.2),
    # Of the joint Fisher matrix. Below 1e-3 conjugate gradient follows the noise, at 1 the step is nearly plain.
    "cg_damping": (1e-3, 1.0),
    # Stopping early regularises, late costs time: from a rough direction to the tolerance.
    "cg_max_steps": (5, 25),
    # Halving is fast and coarse; 0.9 lands close to the radius but needs more candidates.
    "line_search_shrinking_factor": (0.5, 0.9),
    # Of the critic's Adam, around the usual 1e-3: a factor of ten below, where it lags behind, and of three above.
    "learning_rate": (1e-4, 3e-3),
    # Passes of the critic; with the minibatch size the number of its steps, which is what a rollout costs most.
    "n_critic_updates": (5, 20),
    # Standard deviations of 0.14 to 1: actions are scaled to [-1, 1] in most tasks.
    "log_std_init": (-2.0, 0.0),
}
"""Least and greatest value of each parameter that is a number."""


SEARCHED = (
    "n_envs", "normalize", "n_steps", "gamma", "gae_lambda", "target_kl", "cg_damping", "cg_max_steps",
    "line_search_shrinking_factor", "learning_rate", "n_critic_updates", "batch_size",
)  # fmt: skip
"""Hyperparameters that trials set, beside those in ``policy_kwargs``."""


def sample_trpo_params(
    trial: "Trial", n_actions: int = 0, n_envs: int = 1, additional_args: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Constructor arguments of `TRPO` for one trial.

    RL Zoo's sampler leaves out damping, line search and initial standard deviation. They matter: the damping decides
    how far the step turns from the natural gradient to the plain one, the deviation how far the first policies explore.

    :param n_actions: dimension of a ``Box`` action, 0 for other actions, which have no standard deviation
    :param n_envs: environments stepped side by side; the size of the rollout does not depend on it
    :param additional_args: RL Zoo passes them; not used
    """
    return _sample(trial, n_actions, n_envs, NET_ARCHS)


def sample_trpo_mask_params(
    trial: "Trial", n_actions: int = 0, n_envs: int = 1, additional_args: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Constructor arguments of `MaskableTRPO` for one trial: the space of `TRPO`, which masks do not change."""
    return _sample(trial, n_actions, n_envs, NET_ARCHS)


def sample_trpo_lstm_params(
    trial: "Trial", n_actions: int = 0, n_envs: int = 1, additional_args: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Constructor arguments of `RecurrentTRPO` for one trial: those of `TRPO`, and the memories of actor and critic.

    The rollout of an environment is as long as sequences are learned from: ``n_steps`` is 32 at least.
    """
    sampled = _sample(trial, n_actions, n_envs, RECURRENT_NET_ARCHS)
    sampled["policy_kwargs"] |= {
        "lstm_hidden_size": trial.suggest_categorical("lstm_hidden_size", LSTM_SIZES),
        **CRITIC_MEMORIES[trial.suggest_categorical("critic_memory", list(CRITIC_MEMORIES))],
    }
    return sampled


def sample_trpo_mask_lstm_params(
    trial: "Trial", n_actions: int = 0, n_envs: int = 1, additional_args: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Constructor arguments of `MaskableRecurrentTRPO` for one trial: the space of `RecurrentTRPO`."""
    return sample_trpo_lstm_params(trial, n_actions, n_envs)


def _sample(trial: "Trial", n_actions: int, n_envs: int, net_archs: Mapping[str, NetArch]) -> dict[str, Any]:
    """What the spaces of all four have in common."""
    rollout = 2 ** _int(trial, "rollout_pow")
    gamma = 1 - _float(trial, "one_minus_gamma", log=True)
    gae_lambda = 1 - _float(trial, "one_minus_gae_lambda", log=True)
    target_kl = _float(trial, "target_kl", log=True)
    cg_damping = _float(trial, "cg_damping", log=True)
    cg_max_steps = _int(trial, "cg_max_steps")
    shrinking = _float(trial, "line_search_shrinking_factor")
    learning_rate = _float(trial, "learning_rate", log=True)
    is_linear = trial.suggest_categorical("learning_rate_schedule", ["linear", "constant"]) == "linear"
    n_critic_updates = _int(trial, "n_critic_updates")
    batch_size = trial.suggest_categorical("batch_size", BATCH_SIZES)
    policy_kwargs: dict[str, Any] = {
        "net_arch": net_archs[trial.suggest_categorical("net_arch", list(net_archs))],
        "activation_fn": ACTIVATIONS[trial.suggest_categorical("activation_fn", list(ACTIVATIONS))],
    }
    if n_actions > 0:
        policy_kwargs["log_std_init"] = _float(trial, "log_std_init")
    return {
        "n_steps": max(rollout // n_envs, 8),
        "gamma": round(gamma, 6),
        "gae_lambda": round(gae_lambda, 6),
        "target_kl": target_kl,
        "cg_damping": cg_damping,
        "cg_max_steps": cg_max_steps,
        "line_search_shrinking_factor": shrinking,
        "learning_rate": LinearSchedule(learning_rate, 0.0, 1.0) if is_linear else learning_rate,
        "n_critic_updates": n_critic_updates,
        "batch_size": batch_size,
        "policy_kwargs": policy_kwargs,
    }


def sample_environment(trial: "Trial", can_normalize: bool = True) -> dict[str, Any]:
    """How many environments, and whether observations and rewards are normalised.

    :param can_normalize: False for observations that are images or integers
    """
    # More environments see more starts per rollout, and fewer steps of each episode.
    n_envs = trial.suggest_categorical("n_envs", N_ENVS)
    # Rewards scaled by their running return, observations standardised: most of PPO's lead in Engstrom et al. 2020.
    normalize = can_normalize and trial.suggest_categorical("normalize", [True, False])
    return {"n_envs": n_envs, "normalize": normalize}


def convert_trpo_params(params: Mapping[str, Any]) -> Hyperparams:
    """What a hyperparameter file would hold for the parameters of a finished trial: RL Zoo's ``--trial-id``."""
    return _convert(sample_trpo_params, params)


def convert_trpo_lstm_params(params: Mapping[str, Any]) -> Hyperparams:
    """The same, for a trial of `sample_trpo_lstm_params`."""
    return _convert(sample_trpo_lstm_params, params)


def start_params(hyperparams: Mapping[str, Any], n_actions: int = 0, can_normalize: bool = True) -> dict[str, Any]:
    """The point of the space nearest to an entry: what a search tries first, and has to beat.

    :param hyperparams: entry of a hyperparameter file; what it leaves out has the default of `TRPO`
    """
    return _start(hyperparams, n_actions, can_normalize, NET_ARCHS)


def start_recurrent_params(
    hyperparams: Mapping[str, Any], n_actions: int = 0, can_normalize: bool = True
) -> dict[str, Any]:
    """The same in the space of `RecurrentTRPO`, whose defaults hold."""
    policy_kwargs = model_arguments(hyperparams).get("policy_kwargs") or {}
    size = policy_kwargs.get("lstm_hidden_size", 256)
    is_shared, has_own = policy_kwargs.get("shared_lstm", False), policy_kwargs.get("enable_critic_lstm", True)
    return {
        **_start(hyperparams, n_actions, can_normalize, RECURRENT_NET_ARCHS),
        "lstm_hidden_size": min(LSTM_SIZES, key=lambda known: abs(math.log2(known / size))),
        "critic_memory": "shared" if is_shared else "own" if has_own else "none",
    }


def _start(
    hyperparams: Mapping[str, Any], n_actions: int, can_normalize: bool, net_archs: Mapping[str, NetArch]
) -> dict[str, Any]:
    chosen = {
        "n_envs": 1, "n_steps": 2048, "gamma": 0.99, "gae_lambda": 0.95, "target_kl": 0.01, "cg_damping": 0.1,
        "cg_max_steps": 15, "line_search_shrinking_factor": 0.8, "learning_rate": 1e-3, "n_critic_updates": 10,
        "batch_size": 128, "policy_kwargs": {}, "normalize": False,
        **hyperparams, **model_arguments(hyperparams),
    }  # fmt: skip
    rate, policy_kwargs = chosen["learning_rate"], chosen["policy_kwargs"] or {}
    net_arch = policy_kwargs.get("net_arch", NET_ARCHS["small"])
    layers = net_arch if isinstance(net_arch, dict) else {"pi": net_arch, "vf": net_arch}
    known = [name for name, arch in net_archs.items() if arch == layers]
    activation = [name for name, cls in ACTIVATIONS.items() if cls is policy_kwargs.get("activation_fn", th.nn.Tanh)]

    numbers = {
        "rollout_pow": math.log2(chosen["n_steps"] * chosen["n_envs"]),
        "one_minus_gamma": 1 - chosen["gamma"],
        "one_minus_gae_lambda": 1 - chosen["gae_lambda"],
        "target_kl": chosen["target_kl"],
        "cg_damping": chosen["cg_damping"],
        "cg_max_steps": chosen["cg_max_steps"],
        "line_search_shrinking_factor": chosen["line_search_shrinking_factor"],
        "learning_rate": rate,
        "n_critic_updates": chosen["n_critic_updates"],
        "log_std_init": policy_kwargs.get("log_std_init", 0.0),
    }
    params = {
        "n_envs": min(N_ENVS, key=lambda n: abs(n - chosen["n_envs"])),
        "normalize": bool(chosen["normalize"]),
        **{name: _within(name, value) for name, value in numbers.items()},
        "learning_rate_schedule": "linear" if callable(rate) else "constant",
        "batch_size": min(BATCH_SIZES, key=lambda size: abs(math.log2(size / chosen["batch_size"]))),
        "net_arch": known[0] if known else "small",
        "activation_fn": activation[0] if activation else "tanh",
    }
    if n_actions == 0:
        del params["log_std_init"]
    if not can_normalize:
        del params["normalize"]
    return params


SAMPLERS = {
    "trpo": sample_trpo_params,
    "trpo_mask": sample_trpo_mask_params,
    "trpo_lstm": sample_trpo_lstm_params,
    "trpo_mask_lstm": sample_trpo_mask_lstm_params,
}
"""Algorithm -> its sampler."""

CONVERTERS = {
    "trpo": convert_trpo_params,
    "trpo_mask": convert_trpo_params,
    "trpo_lstm": convert_trpo_lstm_params,
    "trpo_mask_lstm": convert_trpo_lstm_params,
}
"""Algorithm -> what makes an entry of the parameters of a finished trial."""

STARTS = {
    "trpo": start_params,
    "trpo_mask": start_params,
    "trpo_lstm": start_recurrent_params,
    "trpo_mask_lstm": start_recurrent_params,
}
"""Algorithm -> what finds the point nearest to an entry."""


def _convert(sampler: Callable[..., dict[str, Any]], params: Mapping[str, Any]) -> Hyperparams:
    from optuna.trial import FixedTrial

    environment = {name: params[name] for name in ("n_envs", "normalize") if name in params}
    n_actions = int("log_std_init" in params)
    arguments = sampler(FixedTrial(dict(params)), n_actions, params.get("n_envs", 1))
    return {**environment, **plain(arguments)}


def _int(trial: "Trial", name: str) -> int:
    low, high = RANGES[name]
    return trial.suggest_int(name, int(low), int(high))


def _float(trial: "Trial", name: str, log: bool = False) -> float:
    return float(f"{trial.suggest_float(name, *RANGES[name], log=log):.3g}")


def _within(name: str, value: Any) -> float:
    """The nearest value in the range; of a schedule, that of the beginning."""
    low, high = RANGES[name]
    nearest = min(max(float(value(1.0) if callable(value) else value), low), high)
    return round(nearest) if isinstance(low, int) else nearest
