"""Environments and models built from hyperparameters."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
)

from sb3_trpo.algorithms.environment_state import Resumable
from sb3_trpo.algorithms.subproc import WatchedSubprocVecEnv, WorkerError
from sb3_trpo.zoo import hidden_velocity
from sb3_trpo.zoo.algorithms import algorithm_class, default_policy, import_class
from sb3_trpo.zoo.errors import UsageError, did_you_mean
from sb3_trpo.zoo.hyperparams import Hyperparams, dictionary, load_hyperparams, model_arguments, normalize_kwargs
from sb3_trpo.zoo.masks import check_masks

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

T = TypeVar("T")

VEC_ENVS: dict[str, type[DummyVecEnv] | type[WatchedSubprocVecEnv]] = {
    "dummy": DummyVecEnv,
    "subproc": WatchedSubprocVecEnv,
}
"""Names of RL Zoo's ``--vec-env``."""

MAX_EVALUATION_ENVS = 16
"""Environments side by side in an evaluation: enough for one pass of the policy to serve many episodes."""


def check_env(env_id: str) -> EnvSpec:
    """What is registered under ``env_id``.

    ``module:id`` imports the module that registers it, as in Gymnasium; Atari's, and those without velocities, are
    registered when they are asked for.

    :raises UsageError: with the nearest name, for an environment that is not registered or whose package is missing
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        elif name not in gym.registry and (name.startswith("ALE/") or "NoFrameskip" in name):
            importlib.import_module("ale_py")
        elif "NoVel-" in name:
            hidden_velocity.register()
        return gym.spec(name)
    except gym.error.Error as error:
        known = [known for known in gym.registry if known.split("-")[0] == name.split("-")[0]] or list(gym.registry)
        near = did_you_mean(name, known)
        hint = near if near.startswith(", did") else ": " + " ".join(str(error).split())
        raise UsageError(f"environment {env_id!r} is not registered{hint}") from None
    except (ImportError, ValueError, TypeError) as error:
        raise UsageError(f"environment {env_id!r}: {error}; install the package that registers it") from error


def make_env(
    env_id: str,
    hyperparams: Mapping[str, Any],
    *,
    seed: int | None = None,
    n_envs: int | None = None,
    vec_env: str = "dummy",
    monitor_folder: Path | None = None,
    training: bool = True,
    env_kwargs: Mapping[str, Any] | None = None,
) -> VecEnv:
    """The vectorised environment that the hyperparameters ask for.

    :param n_envs: environments side by side, those of the hyperparameters by default
    :param vec_env: ``"dummy"`` for one process, ``"subproc"`` for one each
    :param monitor_folder: where the episodes are logged, None for nowhere
    :param training: False for evaluation: observation statistics stand still and rewards are not normalised
    :param env_kwargs: arguments of the environment on top of those of the hyperparameters
    :raises UsageError: for an environment or wrapper that does not exist
    """
    spec = check_env(env_id)
    if vec_env not in VEC_ENVS:
        raise UsageError(f"vec_env={vec_env!r} is unknown{did_you_mean(vec_env, VEC_ENVS)}")
    wrappers = named_classes(hyperparams.get("env_wrapper"), "env_wrapper", gym.Wrapper)
    vec_wrappers = named_classes(hyperparams.get("vec_env_wrapper"), "vec_env_wrapper", VecEnvWrapper)  # type: ignore[type-abstract]
    normalize, monitor_kwargs = normalize_kwargs(hyperparams), dictionary(hyperparams, "monitor_kwargs")
    all_env_kwargs = {**dictionary(hyperparams, "env_kwargs"), **(env_kwargs or {})}
    env: VecEnv | None = None
    try:
        env = make_vec_env(
            _maker(spec),
            int(hyperparams.get("n_envs", 1)) if n_envs is None else n_envs,
            seed=seed,
            monitor_dir=None if monitor_folder is None else str(monitor_folder),
            wrapper_class=_wrapper([*wrappers, (Resumable, {})] if vec_env == "subproc" else wrappers),
            env_kwargs=all_env_kwargs,
            vec_env_cls=VEC_ENVS[vec_env],
            monitor_kwargs=monitor_kwargs,
        )
        for wrapper, kwargs in vec_wrappers:
            env = wrapper(env, **kwargs)
        if normalize is not None:
            env = VecNormalize(env, **normalize)
            if not training:
                env.training = env.norm_reward = False
        if hyperparams.get("frame_stack"):
            env = VecFrameStack(env, int(hyperparams["frame_stack"]))
        if _has_channels_last(env.observation_space):
            env = VecTransposeImage(env)
    except _CANNOT_BE_MADE as error:
        if env is not None:
            env.close()
        raise UsageError(f"environment {env_id!r} cannot be made: {' '.join(str(error).split())}") from error
    return env


def make_evaluation_env(
    env_id: str, hyperparams: Mapping[str, Any], n_episodes: int, env_kwargs: Mapping[str, Any] | None = None
) -> VecEnv:
    """As many environments side by side as episodes to play, up to `MAX_EVALUATION_ENVS`."""
    # An evaluation ends where its last episode does, in the middle of those of the other environments.
    monitor = {**dictionary(hyperparams, "monitor_kwargs"), "allow_early_resets": True}
    n_envs = min(n_episodes, MAX_EVALUATION_ENVS)
    chosen = {**hyperparams, "monitor_kwargs": monitor}
    return make_env(env_id, chosen, n_envs=n_envs, training=False, env_kwargs=env_kwargs)


def make_model(
    algo: str,
    env_id: str,
    hyperparams: Hyperparams | None = None,
    *,
    seed: int | None = None,
    device: str = "auto",
    verbose: int = 0,
    env: VecEnv | None = None,
    tensorboard_log: str | None = None,
) -> "BaseAlgorithm":
    """The untrained model that the hyperparameters ask for, in their environment.

    .. code-block:: python

        model = make_model("trpo", "HalfCheetah-v5", seed=1)
        model.learn(load_hyperparams("trpo", "HalfCheetah-v5")["n_timesteps"])

    :param algo: short name or ``module:Class``
    :param hyperparams: an entry of a hyperparameter file, the shipped one by default
    :param env: environment to use instead of the one that the hyperparameters describe
    :raises UsageError: for an algorithm, environment or argument that cannot be used
    """
    chosen = load_hyperparams(algo, env_id) if hyperparams is None else hyperparams
    algorithm = algorithm_class(algo)
    arguments = {"policy": default_policy(algo), **model_arguments(chosen)}
    made = make_env(env_id, chosen, seed=seed) if env is None else env
    try:
        check_masks(algorithm, made)
        return algorithm(
            env=made, seed=seed, device=device, verbose=verbose, tensorboard_log=tensorboard_log, **arguments
        )
    except BaseException as error:
        if env is None:
            made.close()
        if not isinstance(error, TypeError | ValueError | AssertionError | NotImplementedError):
            raise
        raise UsageError(f"{algo} cannot be built for {env_id}: {' '.join(str(error).split())}") from error


def named_classes(
    value: Any, name: str, base: type[T], package: str | None = None
) -> list[tuple[type[T], dict[str, Any]]]:
    """Classes and their arguments of ``class``, ``{class: arguments}``, or a list of them.

    :param name: of the hyperparameter, for messages
    :param package: where a class is that is named without a module
    :raises UsageError: for anything else, or a class that does not exist or is no subclass of ``base``
    """
    found = []
    for item in [] if value is None else value if isinstance(value, list) else [value]:
        pairs = list(item.items()) if isinstance(item, dict) else [(item, {})]
        if len(pairs) != 1 or not isinstance(pairs[0][1] or {}, dict):
            raise UsageError(f"{name}={item!r} must be one class, or one class with its arguments: {{class: {{...}}}}")
        path, kwargs = str(pairs[0][0]), pairs[0][1] or {}
        in_package = package is not None and "." not in path
        found.append((import_class(f"{package}.{path}" if in_package else path, name, base), kwargs))
    return found


_CANNOT_BE_MADE = (gym.error.Error, TypeError, ValueError, AssertionError, AttributeError, ImportError, WorkerError)
"""What environments and wrappers raise for arguments they cannot use; the last where they do it in another process."""


def _maker(spec: EnvSpec) -> Callable[..., gym.Env[Any, Any]]:
    """Makes the environment of ``spec``: also in a process where nobody has registered it.

    Images are rendered where the environment can, as in Stable-Baselines3, which finds out by a warning.
    """

    def make(**kwargs: Any) -> gym.Env[Any, Any]:
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        if "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", ()):
            kwargs = {"render_mode": "rgb_array", **kwargs}
        return gym.make(spec, **kwargs)

    return make


def _has_channels_last(space: gym.Space[Any]) -> bool:
    """Whether an observation, or a part of it, is an image that Stable-Baselines3 would transpose."""
    parts = space.spaces.values() if isinstance(space, gym.spaces.Dict) else [space]
    return any(is_image_space(part) and not is_image_space_channels_first(part) for part in parts)  # type: ignore[arg-type]


def _wrapper(
    classes: list[tuple[type[gym.Wrapper[Any, Any, Any, Any]], dict[str, Any]]],
) -> Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None:
    if not classes:
        return None

    def wrap(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        for cls, kwargs in classes:
            env = cls(env, **kwargs)
        return env

    return wrap
