"""Hyperparameter files in RL Zoo's format, read safely.

A file maps environment ids to entries; ``default`` serves the others, ``atari`` all of ALE. An entry holds constructor
arguments of the algorithm and the keys of `ENVIRONMENT_KEYS`. ``lin_0.001`` is a schedule that falls linearly from
0.001 to 0, and ``policy_kwargs: "dict(net_arch=[64, 64], activation_fn=nn.ReLU)"`` is read as in
`sb3_trpo.zoo.expressions`. Differs from RL Zoo in that nothing is evaluated, tags that build Python objects and keys
given twice are refused, a misspelt key is refused with the nearest name, and ``1e6`` is a number.
"""

import inspect
import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_trpo.zoo.algorithms import OURS, algorithm_class, argument_names, default_policy, import_class
from sb3_trpo.zoo.errors import UsageError, did_you_mean
from sb3_trpo.zoo.expressions import format_expression, parse_expression
from sb3_trpo.zoo.plain_yaml import format_yaml, parse_yaml
from sb3_trpo.zoo.plain_yaml import read_yaml as read_yaml

ENVIRONMENT_KEYS = {
    "n_timesteps": "environment steps to train for",
    "n_envs": "environments stepped side by side",
    "normalize": "VecNormalize: true, false, or its arguments, such as {norm_obs: true, norm_reward: false}",
    "frame_stack": "observations stacked into one",
    "env_kwargs": "arguments of the environment",
    "monitor_kwargs": "arguments of Stable-Baselines3's Monitor",
    "env_wrapper": "class, {class: arguments}, or a list of them, wrapped around each environment",
    "vec_env_wrapper": "the same, around the vectorised environment",
    "callback": "the same, of training callbacks; those of sb3_trpo.callbacks by name alone",
}
"""Keys of an entry that are no constructor arguments of the algorithm, and what they mean."""

EXPRESSIONS = ("policy_kwargs", "normalize", "monitor_kwargs")
"""Keys whose text is a Python expression in RL Zoo too; `plain` writes their dictionaries as such."""

SLOTS = ("radius", "critic", "gradient_estimator", "validation", "reuse_bound", "action_noise")
"""Keys of `sb3_trpo.algorithms.slots`, which is not imported for what needs no torch."""

DICTIONARIES = (*EXPRESSIONS, "env_kwargs", "rollout_buffer_kwargs", *(f"{slot}_kwargs" for slot in SLOTS))
"""Keys whose text is read as a Python expression here."""

CLASSES = ("policy", "rollout_buffer_class", *SLOTS)
"""Keys whose text may be ``module.Class``."""

Hyperparams = dict[str, Any]
"""One entry: plain values as in the file, or the objects they stand for (classes, schedules)."""


def hyperparams_file(algo: str) -> Path:
    """The file that this package ships for ``algo``: in the installed package, or beside it in a checkout.

    :raises UsageError: when none is shipped
    """
    package = Path(__file__).resolve().parent.parent
    name = f"{algo}.yml"
    for folder in (package / "hyperparams", package.parent / "hyperparams"):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"no hyperparameters are shipped for {algo!r}, only for {', '.join(OURS)}: give a file")


def load_hyperparams(
    algo: str, env_id: str, file: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Hyperparams:
    """The entry of an environment, else ``atari`` for ALE's, else ``default``.

    :param algo: short name or ``module:Class``, see `sb3_trpo.zoo.algorithms`
    :param env_id: id of a registered environment
    :param file: a YAML file; the shipped one by default
    :param overrides: keys to set on top
    :return: checked, in the terms of the file
    :raises UsageError: for a file that cannot be read, an unknown key, or a value that cannot be used
    """
    algorithm_class(algo)  # its name is the first thing to be wrong
    path = Path(file) if file is not None else hyperparams_file(algo)
    entries = read_entries(path)
    registered = env_id.rpartition(":")[2]  # of Gymnasium's "module:id"
    is_atari = registered.startswith("ALE/") or "NoFrameskip" in registered
    names = [env_id, registered, *(["atari"] if is_atari else []), "default"]
    found = next((name for name in names if name in entries), None)
    if found is None:
        raise UsageError(f"{path} has no entry for {env_id!r} and no default one{did_you_mean(env_id, entries)}")
    hyperparams = {**entries[found], **(overrides or {})}
    replaced = f" with {', '.join(overrides)} replaced" if overrides else ""
    check_hyperparams(algo, hyperparams, f"{path}, entry {found}{replaced}")
    return hyperparams


def read_entries(path: str | Path) -> dict[str, Hyperparams]:
    """All entries of a file, as they stand there.

    :raises UsageError: when it cannot be read, is no valid YAML, uses tags, or holds anything but entries
    """
    entries = read_yaml(path)
    if not isinstance(entries, dict):
        raise UsageError(f"{path} holds {_quoted(entries)}: it must map environment ids to entries of 'key: value'")
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise UsageError(f"{path}, entry {name} holds {_quoted(entry)}: it must hold lines of 'key: value'")
    return {str(name): entry for name, entry in entries.items()}


def parse_override(text: str) -> tuple[str, Any]:
    """Key and value of ``key=value``, or RL Zoo's ``key:value``; the value as it would stand in a file.

    :raises UsageError: for a text without key or value
    """
    key, separator, value = re.match(r"(\w*)([=:]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if not (key and separator and value):
        raise UsageError(f"hyperparameter {text!r} must be written key=value, such as target_kl=0.02")
    try:
        return key, parse_yaml(value)
    except ValueError as error:
        if key in DICTIONARIES:  # an expression need not be YAML: dict(net_arch={'pi': [64]})
            return key, value
        raise UsageError(f"hyperparameter {text!r} has no plain value: {error}") from error


def check_hyperparams(algo: str, hyperparams: Mapping[str, Any], where: str) -> None:
    """Refuse unknown keys and values that the algorithm cannot use, before anything is built.

    :param where: where they come from, for the message
    """
    known = {*argument_names(algo), *ENVIRONMENT_KEYS}
    for key in hyperparams:
        if key not in known:
            raise UsageError(f"{where}: hyperparameter {key!r} is unknown to {algo}{did_you_mean(key, known)}")
    for key, low in (("n_timesteps", 1), ("n_envs", 1), ("frame_stack", 1)):
        value = hyperparams.get(key, low)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or value < low or value != int(value):
            raise UsageError(f"{where}: {key}={value!r} must be a whole number >= {low}")
    try:
        _check_wrappers_arguments(hyperparams)
        arguments = model_arguments(hyperparams)
        _check_policy(algo, arguments.get("policy", default_policy(algo)))
        if algo in OURS:
            _check_arguments(arguments)
        if hyperparams.get("callback") is not None:
            from sb3_trpo.zoo.named_callbacks import check_callbacks

            check_callbacks(algo, hyperparams["callback"])
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def model_arguments(hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of the algorithm: schedules, expressions and classes are made objects."""
    return {key: _value(key, value) for key, value in hyperparams.items() if key not in ENVIRONMENT_KEYS}


def normalize_kwargs(hyperparams: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of VecNormalize, its discount factor that of the algorithm; None where it is not asked for."""
    wanted = _value("normalize", hyperparams.get("normalize", False))
    if not isinstance(wanted, bool | dict | None):
        raise UsageError(f"normalize={wanted!r} must be true, false, or arguments such as {{norm_reward: false}}")
    if wanted is None or wanted is False:
        return None
    gamma = {"gamma": hyperparams["gamma"]} if "gamma" in hyperparams else {}
    return {**gamma, **(wanted if isinstance(wanted, dict) else {})}


def dictionary(hyperparams: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The arguments that stand under ``key``, none by default."""
    value = _value(key, hyperparams.get(key) or {})
    if not isinstance(value, dict):
        raise UsageError(f"{key}={value!r} must be arguments such as {{name: value}}")
    return value


def format_entry(env_id: str, hyperparams: Mapping[str, Any]) -> str:
    """YAML of one entry, ready for a hyperparameter file of this package or of RL Zoo.

    :raises UsageError: for a value that cannot stand in a file
    """
    return format_yaml({env_id: plain(hyperparams)})


def plain(hyperparams: Mapping[str, Any]) -> Hyperparams:
    """The same entry in plain values: classes, schedules and numpy's numbers become what stands for them in a file.

    :raises UsageError: for a value that cannot stand in a file
    """
    # RL Zoo reads the texts of `EXPRESSIONS` only; those of other dictionaries become what they stand for.
    unread = set(DICTIONARIES) - set(EXPRESSIONS)
    return {key: _plain(key, _value(key, value) if key in unread else value) for key, value in hyperparams.items()}


def _plain(key: str, value: Any) -> Any:
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0:
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        if key in EXPRESSIONS:
            return format_expression(value)
        return {_plain(key, name): _plain(key, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"

    from stable_baselines3.common.utils import LinearSchedule

    if isinstance(value, LinearSchedule) and value.end == 0 and value.end_fraction == 1:
        return f"lin_{float(value.start)!r}"
    raise UsageError(f"{key}={value!r} cannot stand in a hyperparameter file: use plain values, or a linear schedule")


def _value(key: str, value: Any) -> Any:
    """What a plain value of a file stands for."""
    if not isinstance(value, str):
        return value
    if key in DICTIONARIES:
        return parse_expression(value, key)
    if key in CLASSES:
        return import_class(value, key, object) if "." in value else value
    if value.startswith("lin_"):
        from stable_baselines3.common.utils import LinearSchedule

        try:
            return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
        except ValueError:
            raise UsageError(f"{key}={value!r} must end in a number, such as lin_0.001") from None
    return value


def _check_policy(algo: str, policy: Any) -> None:
    """Refuse a name that the algorithm does not know: policies with a memory have names of their own."""
    if not isinstance(policy, str | type):
        raise UsageError(f"policy={policy!r} must be a name such as {default_policy(algo)}")
    known = algorithm_class(algo).policy_aliases
    if isinstance(policy, str) and policy not in known:
        raise UsageError(f"policy={policy!r} is unknown to {algo}{did_you_mean(policy, known)} (or write module.Class)")


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse what our algorithms cannot train with, as far as it shows without an environment."""
    from sb3_trpo.algorithms.arguments import check_arguments
    from sb3_trpo.algorithms.slots import check_slots

    check_arguments(arguments)
    check_slots(arguments)


def _check_wrappers_arguments(hyperparams: Mapping[str, Any]) -> None:
    """Refuse arguments that VecNormalize and Monitor do not have."""
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecNormalize

    dictionary(hyperparams, "env_kwargs")
    for key, cls, given in (
        ("normalize", VecNormalize, normalize_kwargs(hyperparams) or {}),
        ("monitor_kwargs", Monitor, dictionary(hyperparams, "monitor_kwargs")),
    ):
        known = [name for name in inspect.signature(cls).parameters if name not in ("venv", "env", "filename")]
        for name in given:
            if name not in known:
                raise UsageError(f"{key}: argument {name!r} is unknown to {cls.__name__}{did_you_mean(name, known)}")


def _quoted(value: Any) -> str:
    return "nothing" if value is None else reprlib.repr(value)
